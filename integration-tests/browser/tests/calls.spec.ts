// Unary calls of a page, by each library.

import { randomUUID } from 'node:crypto';

import { NAMES, type Name } from '../src/names';
import { registration, reserving } from './server';
import { expect, test } from './support';

const REGISTER = 'eticket.ticket.v1.TicketService/RegisterTicket';
const RESERVE = 'eticket.reservation.v1.ReservationService/ReserveTicket';
const VIEW = 'eticket.query.v1.QueryService/GetTicketView';

/** What shows that a library is used in the mode of its name. */
const REQUESTS: Record<Name, { type: string; read: string; timeout: string; agent: RegExp }> = {
  'connect-web gRPC-Web': { type: 'application/grpc-web+proto', read: 'POST', timeout: 'grpc-timeout', agent: /^connect-es/ },
  'connect-web Connect': { type: 'application/proto', read: 'GET', timeout: 'connect-timeout-ms', agent: /^$/ },
  'grpc-web binary': { type: 'application/grpc-web+proto', read: 'POST', timeout: 'grpc-timeout', agent: /^grpc-web-javascript/ },
  'grpc-web text': { type: 'application/grpc-web-text', read: 'POST', timeout: 'grpc-timeout', agent: /^grpc-web-javascript/ },
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

  test(`${name}: a call ends at its deadline`, async ({ open, page, server }) => {
    const eticket = await open(name);
    const requested = page.waitForRequest((request) => request.url().includes(VIEW));
    const { failure } = await eticket.call(VIEW, { ticketId: randomUUID(), wait: 'WAIT_FOR_SETTLED' }, { timeoutMs: 300 });
    console.log(name, failure);
    expect(failure).toMatchObject({ code: 'DeadlineExceeded' });
    const sent = (await requested).headers();
    expect(sent[REQUESTS[name].timeout]).toMatch(/^(2\d\d|300)m?$/);
    void server;
  });

  test(`${name}: a page cancels a call`, async ({ open, server }) => {
    const eticket = await open(name);
    const calls = { service: 'gateway', rpc: 'GetTicketView' };
    const cancelled = () => server.metric('eticket_rpc_total', { ...calls, code: 'CANCELLED' });
    const running = () => server.metric('eticket_rpc_in_flight', { service: 'gateway' });
    const before = await cancelled();
    const ended = eticket.call(VIEW, { ticketId: randomUUID(), wait: 'WAIT_FOR_SETTLED' });
    await expect.poll(running).toBe(1);
    await eticket.cancel();
    expect((await ended).failure).toMatchObject({ code: 'Canceled' });
    await expect.poll(cancelled).toBe(before + 1);
    expect(await running()).toBe(0);
  });
}
