// A page of an origin that `cors.allowed_origins` does not list.

import { randomUUID } from 'node:crypto';

import { NAMES } from '../src/names';
import { registration } from './server';
import { expect, test } from './support';

for (const name of NAMES) {
  test(`${name}: a page of another origin than the listed one cannot call`, async ({ open, page, pages, server }) => {
    const reported: string[] = [];
    page.on('console', (message) => reported.push(message.text()));
    const ticketId = randomUUID();
    const eticket = await open(name, pages.stranger);
    const { failure } = await eticket.call('eticket.ticket.v1.TicketService/RegisterTicket', registration(ticketId));
    // The browser does not tell the page why.
    expect(failure).toMatchObject({ code: 'Unknown' });
    expect(failure?.reason).toBeUndefined();
    await expect.poll(() => reported.join('\n')).toMatch(/from origin 'http:\/\/stranger\.example:\d+' has been blocked by CORS policy/);
    await expect(server.call('eticket.ticket.v1.TicketService/GetTicket', { ticketId })).rejects.toThrow('TICKET_NOT_FOUND');

    // A page cannot read either, not even by a GET of Connect, which browsers send without asking first.
    await server.register(ticketId);
    expect((await eticket.call('eticket.query.v1.QueryService/GetTicketView', { ticketId })).failure).toMatchObject({ code: 'Unknown' });
    await eticket.watch([ticketId]);
    await expect.poll(async () => (await eticket.seen()).ends.length).toBeGreaterThan(0);
    expect((await eticket.seen()).views).toEqual([]);
  });
}
