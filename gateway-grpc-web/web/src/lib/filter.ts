// What the board shows, as its address says it.

import { ReservationStatus, UserGrade } from '../gen/eticket/reservation/v1/reservation_pb';
import { TicketStatus } from '../gen/eticket/ticket/v1/ticket_pb';
import { ms } from './format';
import type { Row } from './live.svelte';
import { dayIn } from './zoned';

export const statuses = ['available', 'reserved', 'expired', 'withdrawn', 'settling', 'mine'] as const;
export const orders = ['start', 'title', 'status', 'price', 'holder'] as const;
export type Order = (typeof orders)[number];

export interface Filter {
  words: string[];
  status: string;
  from: string;
  to: string;
  order: Order;
  descending: boolean;
}

export function readFilter(query: URLSearchParams): Filter {
  const sort = query.get('sort') ?? '';
  const name = sort.replace(/^-/, '') as Order;
  return {
    words: (query.get('q') ?? '').toLowerCase().split(/\s+/).filter(Boolean),
    status: query.get('status') ?? '',
    from: query.get('from') ?? '',
    to: query.get('to') ?? '',
    order: orders.includes(name) ? name : 'start',
    descending: sort.startsWith('-'),
  };
}

export function applyFilter(rows: Row[], filter: Filter, zone: string, userId: string | undefined): Row[] {
  const chosen = rows.filter((row) => matches(row, filter, zone, userId));
  const sign = filter.descending ? -1 : 1;
  const compare = comparisons[filter.order];
  return chosen.sort((a, b) => sign * compare(a, b) || (a.id < b.id ? -1 : 1));
}

function matches(row: Row, filter: Filter, zone: string, userId: string | undefined): boolean {
  if (!hasStatus(row, filter.status, userId)) return false;
  for (const word of filter.words) if (!row.text.includes(word)) return false;
  if (!filter.from && !filter.to) return true;
  const day = dayIn(row.start, zone);
  return (!filter.from || day >= filter.from) && (!filter.to || day <= filter.to);
}

function hasStatus(row: Row, status: string, userId: string | undefined): boolean {
  if (!status) return true;
  if (status === 'settling') return !row.view.settled;
  if (status === 'mine') return row.held && row.view.userId === userId;
  return TicketStatus[row.view.ticketStatus]?.toLowerCase() === status;
}

const collator = new Intl.Collator(undefined, { numeric: true });
const holder = (row: Row) => (row.held ? row.view.userId : '\uffff');

const comparisons: Record<Order, (a: Row, b: Row) => number> = {
  start: (a, b) => a.start - b.start,
  title: (a, b) => collator.compare(a.view.title, b.view.title),
  status: (a, b) => a.view.ticketStatus - b.view.ticketStatus,
  // A price that is not computed yet comes last.
  price: (a, b) => (Number.isNaN(a.price) ? 1 : 0) - (Number.isNaN(b.price) ? 1 : 0) || (a.price || 0) - (b.price || 0),
  holder: (a, b) => collator.compare(holder(a), holder(b)),
};

const header = [
  'ticket_id', 'title', 'start_time', 'end_time', 'status', 'base_price', 'discounted_price', 'currency', 'discounts',
  'user_id', 'user_grade', 'reservation_id', 'reservation_status', 'settled', 'update_time',
];

/** The rows with a header, times in UTC. */
export function toCsv(rows: Row[]): string[][] {
  const lines = rows.map(({ view, held, price }) => [
    view.ticketId,
    view.title,
    iso(ms(view.startTime)),
    iso(ms(view.endTime)),
    TicketStatus[view.ticketStatus] ?? '',
    view.basePrice ? String(Number(view.basePrice.units) + view.basePrice.nanos / 1e9) : '',
    Number.isNaN(price) ? '' : String(price),
    view.basePrice?.currencyCode ?? '',
    view.discounts.map((discount) => discount.ruleId).join(' '),
    held ? view.userId : '',
    held ? (UserGrade[view.userGrade] ?? '') : '',
    view.reservationId,
    view.reservationId ? (ReservationStatus[view.reservationStatus] ?? '') : '',
    String(view.settled),
    iso(ms(view.updateTime)),
  ]);
  return [header, ...lines];
}

function iso(at: number): string {
  return at ? new Date(at).toISOString() : '';
}
