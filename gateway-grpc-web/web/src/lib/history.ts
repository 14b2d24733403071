// The history of a ticket as people read it: each command with the reactions of the services to it.

import type { TicketHistoryEntry } from '../gen/eticket/query/v1/query_pb';
import type { Reservation } from '../gen/eticket/reservation/v1/reservation_pb';
import type { TicketStatus } from '../gen/eticket/ticket/v1/ticket_pb';
import type { Money } from '../gen/google/type/money_pb';
import { ms } from './format';

export interface Step {
  key: string;
  type: string;
  by: 'admin' | 'user' | 'time' | 'ticket' | 'reservation' | 'pricing';
  at: number;
  revision: bigint;
  reservation?: Reservation;
  /** What the ticket was and cost after the event; undefined if the entries that are loaded do not say. */
  status?: TicketStatus;
  price?: Money;
}

export interface Act {
  correlationId: string;
  /** The oldest first: the command, then the reactions. */
  steps: Step[];
  /** From the command to the last reaction. */
  delay: number;
}

const actors: Record<string, Step['by']> = {
  TicketRegistered: 'admin',
  TicketUpdated: 'admin',
  TicketWithdrawn: 'admin',
  TicketExpired: 'time',
  ReservationPlaced: 'user',
  ReservationCancelled: 'user',
};
const owners = { ticket: 'ticket', reservation: 'reservation', price: 'pricing' } as const;

/** The same for an event that its service has published again. */
export function keyOf(entry: TicketHistoryEntry): string {
  const about = entry.state.case ?? (entry.eventType === 'ReservationsClosed' ? 'reservation' : entry.eventType);
  return `${about} ${entry.revision} ${entry.eventType}`;
}

/** Entries, the newest first, without repetitions; of these the oldest stays, which the command has caused. */
export function distinct(entries: TicketHistoryEntry[]): TicketHistoryEntry[] {
  const oldest = new Map<string, TicketHistoryEntry>();
  for (const entry of entries) oldest.set(keyOf(entry), entry);
  return entries.filter((entry) => oldest.get(keyOf(entry)) === entry);
}

/** Acts, the newest first, of entries, the newest first. */
export function actsOf(entries: TicketHistoryEntry[]): Act[] {
  const acts = new Map<string, Act>();
  let status: TicketStatus | undefined;
  let price: Money | undefined;
  for (const entry of distinct(entries).reverse()) {
    const { state } = entry;
    if (state.case === 'ticket') status = state.value.status;
    if (state.case === 'price') price = state.value.discountedPrice;
    const step: Step = {
      key: keyOf(entry),
      type: entry.eventType,
      by: actors[entry.eventType] ?? owners[state.case ?? 'reservation'],
      at: ms(entry.eventTime),
      revision: entry.revision,
      reservation: state.case === 'reservation' ? state.value : undefined,
      status,
      price,
    };
    const id = entry.correlationId || step.key;
    const act = acts.get(id) ?? { correlationId: entry.correlationId, steps: [], delay: 0 };
    acts.set(id, act);
    act.steps.push(step);
    // The clocks of two services may differ a little.
    act.delay = Math.max(0, step.at - (act.steps[0]?.at ?? step.at));
  }
  return [...acts.values()].reverse();
}

/** Adds a new first page to what is loaded; undefined if there may be entries between them. */
export function joined(newest: TicketHistoryEntry[], known: TicketHistoryEntry[], isAll: boolean): TicketHistoryEntry[] | undefined {
  const keys = new Set(known.map(keyOf));
  const first = newest.findIndex((entry) => keys.has(keyOf(entry)));
  if (first >= 0) return [...newest.slice(0, first), ...known];
  return isAll || known.length === 0 ? newest : undefined;
}
