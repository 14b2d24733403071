// What every test checks, and how tests prepare data.

import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import { test as base, type BrowserContext, type Page } from '@playwright/test';
import { randomUUID } from 'node:crypto';

import { QueryService, WaitFor } from '../src/gen/eticket/query/v1/query_pb';
import { ReservationService, type UserGrade } from '../src/gen/eticket/reservation/v1/reservation_pb';
import { TicketService } from '../src/gen/eticket/ticket/v1/ticket_pb';

export { expect } from '@playwright/test';

const transport = createGrpcWebTransport({ baseUrl: process.env.ETICKET_GATEWAY ?? '', defaultTimeoutMs: 10_000 });
export const tickets = createClient(TicketService, transport);
export const reservations = createClient(ReservationService, transport);
export const query = createClient(QueryService, transport);

/** A ticket on a Wednesday at noon in Seoul, on which the default policy takes off 20 %. */
export async function registered(title: string, at = Date.parse('2031-03-05T12:00:00+09:00')) {
  const ticketId = `t-${randomUUID().slice(0, 13)}`;
  const times = { startTime: timestampFromMs(at), endTime: timestampFromMs(at + 7_200_000) };
  const { consistencyToken } = await tickets.registerTicket({ ticketId, title, ...times, requestId: randomUUID() });
  await query.getTicketView({ ticketId, consistencyToken, wait: WaitFor.SETTLED });
  return ticketId;
}

export async function reserved(ticketId: string, userId: string, userGrade: UserGrade) {
  const response = await reservations.reserveTicket({ ticketId, userId, userGrade, requestId: randomUUID() });
  const { consistencyToken } = response;
  await query.getTicketView({ ticketId, consistencyToken, wait: WaitFor.SETTLED });
  return response.reservation?.reservationId ?? '';
}

/** Makes the page start with a user, as if they had been chosen in the dialog. */
export async function as(context: BrowserContext | Page, userId: string, grade: number) {
  await context.addInitScript((identity) => location.origin !== 'null' && sessionStorage.setItem('eticket.identity', identity), JSON.stringify({ userId, grade }));
}

/** Requests to other hosts, violations of the policy, and errors of scripts, of all pages of a context. */
export class Watchdog {
  readonly found: string[] = [];
  /** The addresses that the pages of this test come from. */
  readonly origins = new Set<string>();

  async watch(context: BrowserContext) {
    await context.exposeFunction('reportViolation', (text: string) => this.found.push(`policy: ${text}`));
    await context.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', (event) => {
        const report = (window as unknown as { reportViolation: (text: string) => void }).reportViolation;
        report(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
      });
    });
    context.on('request', (request) => {
      const url = new URL(request.url());
      if (url.protocol !== 'blob:' && !this.origins.has(url.origin)) this.found.push(`other host: ${request.url()}`);
    });
    context.on('weberror', (error) => this.found.push(`script: ${error.error().stack}`));
  }
}

export const test = base.extend<{ watchdog: Watchdog }>({
  watchdog: [
    async ({ context, baseURL }, use) => {
      const watchdog = new Watchdog();
      watchdog.origins.add(new URL(baseURL ?? '').origin);
      await watchdog.watch(context);
      await use(watchdog);
      base.expect(watchdog.found).toEqual([]);
    },
    { auto: true },
  ],
});
