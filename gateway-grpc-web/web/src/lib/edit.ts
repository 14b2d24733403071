// An edit of a ticket, and what to do when somebody else has edited it in the meantime.

import { timestampFromMs } from '@bufbuild/protobuf/wkt';

import type { Ticket } from '../gen/eticket/ticket/v1/ticket_pb';
import { tickets } from './api';
import { ms } from './format';
import { randomId } from './ids';

export interface Draft {
  title: string;
  start: number;
  end: number;
}

export const fields = ['title', 'start', 'end'] as const;
export type Field = (typeof fields)[number];

const paths: Record<Field, string> = { title: 'title', start: 'start_time', end: 'end_time' };

export function draftOf(ticket: Ticket): Draft {
  return { title: ticket.title, start: ms(ticket.startTime), end: ms(ticket.endTime) };
}

export function changed(a: Draft, b: Draft): Field[] {
  return fields.filter((field) => a[field] !== b[field]);
}

/** What the form proposes after a conflict: one's own changes, and the other person's where one changed nothing. */
export function mergeDrafts(before: Draft, mine: Draft, theirs: Draft): Draft {
  const touched = new Set(changed(before, mine));
  return {
    title: touched.has('title') ? mine.title : theirs.title,
    start: touched.has('start') ? mine.start : theirs.start,
    end: touched.has('end') ? mine.end : theirs.end,
  };
}

/** Sends what differs from `ticket`, on the condition that nobody has edited it since. */
export function update(ticket: Ticket, draft: Draft) {
  return tickets.updateTicket({
    ticketId: ticket.ticketId,
    title: draft.title,
    startTime: timestampFromMs(draft.start),
    endTime: timestampFromMs(draft.end),
    updateMask: { paths: changed(draftOf(ticket), draft).map((field) => paths[field]) },
    etag: ticket.etag,
    requestId: randomId(),
  });
}
