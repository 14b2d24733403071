// A watch of a page, by each library that can stream. `grpc-web` in binary mode cannot: it reads the response as one buffer when the response
// has ended, and a watch has no end.

import { randomUUID } from 'node:crypto';

import { NAMES } from '../src/names';
import type { Seen } from '../src/watch';
import { expect, test, type Eticket } from './support';

interface View {
  ticketId: string;
  userId?: string;
  reservationStatus?: string;
  revisions: { ticket?: string; reservation?: string; price?: string };
  settled?: boolean;
}

const views = (seen: Seen) => seen.views as unknown as View[];

/** Waits until the page has the settled view of a reservation or cancellation. */
async function arrives(eticket: Eticket, ticketId: string, revision: number, status: 'RESERVED' | 'CANCELLED', userId: string) {
  const last = async () => views(await eticket.seen()).findLast((view) => view.ticketId === ticketId);
  const expected = { reservationStatus: `RESERVATION_STATUS_${status}`, userId, settled: true };
  await expect.poll(last).toMatchObject({ ...expected, revisions: { reservation: String(revision) } });
}

/** The revisions of a ticket's reservations, in the order in which the page got them. */
function revisionsOf(seen: Seen, ticketId: string) {
  const all = views(seen).filter((view) => view.ticketId === ticketId).map((view) => Number(view.revisions.reservation ?? 0));
  return [...new Set(all)];
}

for (const name of NAMES.filter((name) => name !== 'grpc-web binary')) {
  test(`${name}: a watch shows what others do, also after the server was away`, async ({ open, server }) => {
    const [first, second, third, calm] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
    const tickets = [first, second, third, calm];
    for (const ticketId of tickets) await server.register(ticketId);
    const eticket = await open(name);
    await eticket.watch(tickets);
    const settled = async () => new Set(views(await eticket.seen()).filter((view) => view.settled).map((view) => view.ticketId));
    await expect.poll(settled).toEqual(new Set(tickets));
    const before = await eticket.seen();

    const reservationId = await server.reserve(first, 'alice');
    await arrives(eticket, first, 1, 'RESERVED', 'alice');

    // The other client acts after the server is back, and before the page is.
    await eticket.control('hold');
    await server.stop();
    await expect.poll(async () => (await eticket.seen()).ends.length).toBe(1);
    await server.start();
    await server.cancel(reservationId);
    await server.reserve(second, 'bob');
    expect((await eticket.seen()).calls.length).toBe(1);
    await eticket.control('release');
    await arrives(eticket, first, 2, 'CANCELLED', 'alice');
    await arrives(eticket, second, 1, 'RESERVED', 'bob');

    // The page calls again and again while the server is away.
    await server.stop();
    const failed = (await eticket.seen()).ends.length;
    await expect.poll(async () => (await eticket.seen()).ends.length).toBeGreaterThan(failed + 2);
    await server.start();
    await server.reserve(third, 'carol');
    await arrives(eticket, third, 1, 'RESERVED', 'carol');
    await server.reserve(first, 'dora');
    await arrives(eticket, first, 3, 'RESERVED', 'dora');

    const seen = await eticket.seen();
    expect(revisionsOf(seen, first)).toEqual([0, 1, 2, 3]);
    expect(revisionsOf(seen, second)).toEqual([0, 1]);
    expect(revisionsOf(seen, third)).toEqual([0, 1]);
    inOrder(seen, tickets);
    // The watch continued, and did not begin again with a snapshot: that would have the calm ticket too.
    expect(seen.calls.slice(1)).not.toContain('');
    const calmViews = (from: Seen) => views(from).filter((view) => view.ticketId === calm).length;
    expect(calmViews(seen)).toBe(calmViews(before));
  });

  test(`${name}: a page stops its watch`, async ({ open, server }) => {
    const ticketId = randomUUID();
    await server.register(ticketId);
    const eticket = await open(name);
    const cancelled = () => server.metric('eticket_rpc_total', { service: 'gateway', rpc: 'eticket.query.v1.QueryService/WatchTicketViews', code: 'CANCELLED' });
    const before = await cancelled();
    await eticket.watch([ticketId]);
    await expect.poll(async () => views(await eticket.seen()).length).toBeGreaterThan(0);
    await eticket.control('stop');
    await expect.poll(cancelled).toBe(before + 1);
    await expect.poll(async () => (await eticket.seen()).over).toBe(true);
    expect((await eticket.seen()).ends).toEqual(['stopped']);
  });
}

/** No part of a ticket is older than in the view before. */
function inOrder(seen: Seen, tickets: string[]) {
  for (const ticketId of tickets) {
    const all = views(seen).filter((view) => view.ticketId === ticketId);
    for (const part of ['ticket', 'reservation', 'price'] as const) {
      const revisions = all.map((view) => Number(view.revisions[part] ?? 0));
      expect(revisions, `${part} of ${ticketId}`).toEqual(revisions.toSorted((one, other) => one - other));
    }
  }
}
