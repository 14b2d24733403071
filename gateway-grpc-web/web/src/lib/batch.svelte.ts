// Registering many tickets: a table is checked row by row before anything is sent, and may be sent again.

import { timestampFromMs } from '@bufbuild/protobuf/wkt';

import type { Ticket } from '../gen/eticket/ticket/v1/ticket_pb';
import { tickets } from './api';
import { parseRows } from './csv';
import { ms } from './format';
import { stableId } from './ids';
import { inParallel } from './pool';
import { problemOf, type Problem } from './problem';
import { parseTime } from './zoned';

export const columns = ['ticket_id', 'title', 'start_time', 'end_time'] as const;
export type Wrong = 'columns' | 'id' | 'twice' | 'title' | 'start' | 'end' | 'order';
export type Outcome = 'wrong' | 'ready' | 'sending' | 'registered' | 'same' | 'refused';

export interface Line {
  number: number;
  ticketId: string;
  title: string;
  startText: string;
  endText: string;
  start: number;
  end: number;
  wrong: Wrong[];
  outcome: Outcome;
  problem?: Problem;
  /** The id of the registered ticket; the server makes one where the table has none. */
  registeredId?: string;
  requestId: string;
}

const WIDTH = 8;
const idPattern = /^[A-Za-z0-9_-]{1,64}$/;
// eslint-disable-next-line no-control-regex
const control = /[\u0000-\u001f\u007f-\u009f]/;

export function checkTable(text: string, zone: string): Line[] {
  const rows = parseRows(text).map((cells) => cells.map((cell) => cell.trim()));
  const header = rows[0]?.map((cell) => cell.toLowerCase()) ?? [];
  const named = columns.every((column) => header.includes(column));
  const at = columns.map((column, index) => (named ? header.indexOf(column) : index));
  const seen = new Map<string, number>();
  return rows.flatMap((cells, index) => {
    if ((named && index === 0) || cells.every((cell) => cell === '')) return [];
    const [ticketId = '', title = '', startText = '', endText = ''] = at.map((column) => cells[column] ?? '');
    const complete = named ? cells.length >= Math.max(...at) + 1 : cells.length === columns.length;
    return [checkLine(index + 1, [ticketId, title, startText, endText], complete, zone, seen)];
  });
}

function checkLine(number: number, cells: [string, string, string, string], complete: boolean, zone: string, seen: Map<string, number>): Line {
  const [ticketId, title, startText, endText] = cells;
  const start = parseTime(startText, zone) ?? Number.NaN;
  const end = parseTime(endText, zone) ?? Number.NaN;
  // Rows without an id may be equal on purpose: each is a ticket of its own.
  const key = ticketId || JSON.stringify(cells);
  const before = seen.get(key) ?? 0;
  seen.set(key, before + 1);
  const wrong: Wrong[] = [];
  if (!complete) wrong.push('columns');
  if (ticketId && !idPattern.test(ticketId)) wrong.push('id');
  if (ticketId && before > 0) wrong.push('twice');
  const length = [...title].length;
  if (length < 1 || length > 200 || control.test(title)) wrong.push('title');
  if (Number.isNaN(start)) wrong.push('start');
  if (Number.isNaN(end)) wrong.push('end');
  if (end <= start) wrong.push('order');
  const requestId = stableId('register', ticketId, title, String(start), String(end), ticketId ? '' : String(before));
  const outcome = wrong.length > 0 ? 'wrong' : 'ready';
  return { number, ticketId, title, startText, endText, start, end, wrong, outcome, requestId };
}

export class Batch {
  lines = $state.raw<Line[]>([]);
  running = $state(false);
  // Sending changes these; the page shows copies, since it redraws a row only for a new object.
  #work: Line[] = [];
  #abort = new AbortController();
  #timer = 0;

  check(text: string, zone: string) {
    this.#work = checkTable(text, zone);
    this.#show();
  }

  count(...outcomes: Outcome[]): number {
    return this.lines.filter((line) => outcomes.includes(line.outcome)).length;
  }

  /** Sends what is not registered yet. */
  async send() {
    this.running = true;
    this.#abort = new AbortController();
    const todo = this.#work.filter((line) => line.outcome === 'ready' || line.outcome === 'refused');
    await inParallel(todo, WIDTH, this.#abort.signal, (line) => this.#register(line));
    this.running = false;
    this.#show();
  }

  stop() {
    this.#abort.abort();
  }

  async #register(line: Line) {
    line.outcome = 'sending';
    const { ticketId, title, requestId } = line;
    const request = { ticketId, title, startTime: timestampFromMs(line.start), endTime: timestampFromMs(line.end), requestId };
    try {
      const { ticket } = await tickets.registerTicket(request);
      line.outcome = 'registered';
      line.registeredId = ticket?.ticketId;
    } catch (cause) {
      line.problem = problemOf(cause);
      line.outcome = (await this.#isSame(line)) ? 'same' : 'refused';
    }
    // Thousands of results come fast; the page shows them a few times a second.
    this.#timer ||= window.setTimeout(() => this.#show(), 200);
  }

  // The server forgets request ids after a day or so; then the ticket itself says whether it was this row.
  async #isSame(line: Line): Promise<boolean> {
    if (line.problem?.reason !== 'TICKET_ALREADY_EXISTS') return false;
    try {
      const { ticket } = await tickets.getTicket({ ticketId: line.ticketId });
      return ticket !== undefined && sameAs(line, ticket);
    } catch {
      return false;
    }
  }

  #show() {
    window.clearTimeout(this.#timer);
    this.#timer = 0;
    this.lines = this.#work.map((line) => ({ ...line }));
  }
}

function sameAs(line: Line, ticket: Ticket): boolean {
  return ticket.title === line.title && ms(ticket.startTime) === line.start && ms(ticket.endTime) === line.end;
}
