// Unary calls of a page, by each library.

import { randomUUID } from 'node:crypto';

import { NAMES, type Name } from '../src/names';
import { registration, reserving } from './server';
import { expect, test } from './support';

const REGISTER = 'eticket.ticket.v1.TicketService/RegisterTicket';
const RESERVE = 'eticket.reservation.v1.ReservationService/ReserveTicket';
const VIEW = 'eticket.query.v1.QueryService/GetTicketView';

/** What shows that a library is used in the mode of its name. */
const REQUESTS: Record<Name, { type: string; read: string; agent: RegExp }> = {
  'connect-web gRPC-Web': { type: 'application/grpc-web+proto', read: 'POST', agent: /^connect-es/ },
  'connect-web Connect': { type: 'application/proto', read: 'GET', agent: /^$/ },
  'grpc-web binary': { type: 'application/grpc-web+proto', read: 'POST', agent: /^grpc-web-javascript/ },
  'grpc-web text': { type: 'application/grpc-web-text', read: 'POST', agent: /^grpc-web-javascript/ },
};

for (const name of NAMES) {
  test(`${name}: a page registers, reserves, is refused, and reads what it wrote`, async ({ open, page }) => {
    const eticket = await open(name);
    const ticketId = randomUUID();
    const requested = page.waitForRequest((request) => request.url().endsWith(REGISTER));
    const registered = await eticket.call(REGISTER, registration(ticketId));
    expect(registered).toMatchObject({ message: { ticket: { ticketId, status: 'TICKET_STATUS_AVAILABLE' } } });
    const sent = (await requested).headers();
    expect(sent['content-type']).toBe(REQUESTS[name].type);
    expect(sent['x-user-agent'] ?? '').toMatch(REQUESTS[name].agent);

    const reserved = await eticket.call(RESERVE, reserving(ticketId, 'alice'));
    expect(reserved).toMatchObject({ message: { reservation: { ticketId, userId: 'alice', status: 'RESERVATION_STATUS_RESERVED' } } });
    const { consistencyToken } = reserved.message as { consistencyToken: string };
    expect(reserved.headers).toMatchObject({ 'eticket-consistency-token': consistencyToken });

    const refused = await eticket.call(RESERVE, reserving(ticketId, 'bob'), { headers: { 'accept-language': 'ko' } });
    expect(refused.failure).toMatchObject({
      code: 'FailedPrecondition',
      reason: 'TICKET_ALREADY_RESERVED',
      metadata: { ticket_id: ticketId },
      text: '이미 예약된 티켓입니다. 다른 티켓을 선택하세요.',
    });

    const settled = { message: { view: { ticketId, userId: 'alice', ticketStatus: 'TICKET_STATUS_RESERVED', discountedPrice: { units: '10000' }, settled: true } } };
    const asked = page.waitForRequest((request) => request.url().includes(VIEW));
    expect(await eticket.call(VIEW, { ticketId, consistencyToken, wait: 'WAIT_FOR_SETTLED' })).toMatchObject(settled);
    expect((await asked).method()).toBe(REQUESTS[name].read);
    const headers = { 'eticket-consistency-token': consistencyToken, 'eticket-wait': 'settled' };
    expect(await eticket.call(VIEW, { ticketId }, { headers })).toMatchObject(settled);
  });

  test(`${name}: a call ends at its deadline`, async ({ open, server }) => {
    const eticket = await open(name);
    const expired = () => server.metric('eticket_rpc_total', { service: 'gateway', rpc: VIEW, code: 'DEADLINE_EXCEEDED' });
    const before = await expired();
    const { failure } = await eticket.call(VIEW, missing(), { timeoutMs: 300 });
    expect(failure).toMatchObject({ code: 'DeadlineExceeded' });
    // The response has the reason of the wait, or that of a server without time for it. There is none if the library ended the call first.
    expect(['VIEW_NOT_CAUGHT_UP', 'DEADLINE_EXCEEDED', undefined]).toContain(failure?.reason);
    // The server knows the deadline too: without one it would wait for ten seconds.
    await expect.poll(expired, { timeout: 8_000 }).toBe(before + 1);
  });

  test(`${name}: a page cancels a call`, async ({ open, page, server }) => {
    const eticket = await open(name);
    const running = () => server.metric('eticket_rpc_in_flight', { service: 'gateway' });
    const request = missing();
    const ended = eticket.call(VIEW, request);
    await expect.poll(running).toBe(1);
    const aborted = page.waitForEvent('requestfailed', (request) => request.url().includes(VIEW));
    await eticket.cancel();
    expect((await ended).failure).toMatchObject({ code: 'Canceled' });
    expect((await aborted).failure()?.errorText).toBe('net::ERR_ABORTED');
    // Over HTTP/1.1 the server goes on until it can answer: a client that has closed its half of the connection may still read.
    await server.register(request.ticketId);
    await expect.poll(running).toBe(0);
  });
}

/** A read that waits, because its ticket does not exist. */
function missing() {
  return { ticketId: randomUUID(), wait: 'WAIT_FOR_SETTLED' };
}
