// What the page of operations shows of states that a healthy server does not have: the responses are made up.

import { create, fromBinary, toBinary, type DescMessage, type MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Page, Route } from '@playwright/test';

import { TicketEventSchema } from '../src/gen/eticket/event/v1/event_pb';
import {
  BreakerState,
  GetStatusResponseSchema,
  ListParkedEventsResponseSchema,
  ListUnsettledResponseSchema,
  ReplicaStatusSchema,
  ResendParkedEventRequestSchema,
  ResendParkedEventResponseSchema,
} from '../src/gen/eticket/operations/v1/operations_pb';
import { expect, test } from './support';

/** Answers a call as the gateway does: a message, then the trailers. */
function answer<T extends DescMessage>(route: Route, schema: T, message: MessageInitShape<T>) {
  const frame = (flag: number, body: Uint8Array) => {
    const head = Buffer.alloc(5);
    head[0] = flag;
    head.writeUInt32BE(body.length, 1);
    return Buffer.concat([head, body]);
  };
  const body = Buffer.concat([frame(0, toBinary(schema, create(schema, message))), frame(0x80, Buffer.from('grpc-status: 0\r\n'))]);
  return route.fulfill({ contentType: 'application/grpc-web+proto', body });
}

const call = (method: string) => `**/eticket.operations.v1.OperationsService/${method}`;
type Replica = MessageInitShape<typeof ReplicaStatusSchema>;

/** What each service says of its replicas; changed while the page looks. */
async function withReplicas(page: Page, replicas: Record<string, Replica[] | 'broken'>) {
  await page.route(call('GetStatus'), (route) => {
    const found = replicas[route.request().headers()['eticket-service'] ?? ''] ?? [];
    return found === 'broken' ? route.abort() : answer(route, GetStatusResponseSchema, { replicas: found });
  });
}

const replica = (service: string, more: Replica = {}): Replica => ({
  service,
  address: `${service}-0:8080`,
  instanceId: `${service}-abc`,
  version: '1.4.0',
  ready: true,
  startTime: timestampFromMs(Date.parse('2031-01-01T00:00:00Z')),
  ...more,
});

test('replicas: each with version, breakers, outbox, lag and parked events, and those in trouble stand out', async ({ page }) => {
  const replicas: Record<string, Replica[] | 'broken'> = {
    gateway: [replica('gateway', { breakers: [{ upstream: 'ticket', state: BreakerState.CLOSED }] })],
    ticket: [replica('ticket', { outbox: { waitingEventCount: 12n, oldestEventTime: timestampFromMs(Date.now() - 95_000) }, parkedEventCount: 0n })],
    reservation: [replica('reservation', { breakers: [{ upstream: 'ticket', state: BreakerState.OPEN }], parkedEventCount: 3n })],
    pricing: [replica('pricing', { version: '1.3.9', consumers: [{ name: 'pricing', lagEventCount: 1_234n }] })],
    query: [
      replica('query', { ready: false, components: [{ name: 'bus', serving: false, reason: 'the bus does not answer' }], consumers: [{ name: 'query' }] }),
      { service: 'query', address: 'query-1:8080', unreachableReason: 'connection refused' },
    ],
  };
  await withReplicas(page, replicas);
  await page.clock.install();
  await page.goto('/#/operations');
  const cards = page.locator('.replicas > li');
  await expect(cards).toHaveCount(6);
  await expect(page.getByText('6 replicas, 2 not ready.')).toBeVisible();
  await expect(page.getByText('The servers have different versions: 1.3.9, 1.4.0.')).toBeVisible();
  const card = (text: string) => cards.filter({ hasText: text });
  await expect(card('ticket-0:8080')).toHaveText(/Events to publish\s*12 the oldest waits \d+(\.\d)? sec.*Parked events\s*0/s);
  await expect(card('reservation-0:8080')).toHaveText(/Parked events\s*3.*Breaker to ticket\s*Open/s);
  await expect(card('pricing-0:8080')).toHaveText(/Events to read\s*1,234/);
  await expect(card('query-0:8080')).toHaveText(/Not serving.*bus: the bus does not answer.*unknown/s);
  await expect(card('query-1:8080')).toHaveText(/Not reachable.*connection refused/s);

  // It refreshes by itself, and keeps what it knows of a service that fails.
  replicas.pricing = 'broken';
  replicas.query = [replica('query')];
  await page.clock.runFor(6_000);
  await expect(page.getByText(/These values are from .*; the last refresh failed\./)).toBeVisible();
  await expect(card('pricing-0:8080')).toHaveText(/1,234/);
  await expect(page.getByText('5 replicas, all ready.')).toBeVisible();
});

test('parked events: what is inside, and the outcome of sending them again', async ({ page }) => {
  const subjects = ['eticket.v1.ticket.seat-1', 'eticket.v1.reservation.seat-2.r-1'];
  let parked = subjects.map((subject, index) => ({
    eventId: `event-${index}`, eventType: 'eticket.event.v1.TicketUpdated', subject, reason: 'the body is no message of its type', attempts: 5,
    parkTime: timestampFromMs(Date.parse('2031-01-01T00:00:00Z')),
    headers: { 'ce-id': `event-${index}`, 'correlation-id': `c-${index}` },
    body: index === 0 ? toBinary(TicketEventSchema, create(TicketEventSchema, { ticket: { ticketId: 'seat-1', title: 'Opera' } })) : Uint8Array.of(0xff, 7),
  }));
  await page.route(call('ListParkedEvents'), (route) => {
    const own = route.request().headers()['eticket-service'] === 'reservation';
    return answer(route, ListParkedEventsResponseSchema, { parkedEvents: own ? parked : [] });
  });
  await page.route(call('ResendParkedEvent'), (route) => {
    const { eventId } = fromBinary(ResendParkedEventRequestSchema, (route.request().postDataBuffer() ?? Buffer.alloc(5)).subarray(5));
    // The first can be applied now, the second still cannot.
    const applied = parked.filter((event) => event.eventId === 'event-0' && (!eventId || eventId === event.eventId));
    parked = parked.filter((event) => !applied.includes(event));
    return answer(route, ResendParkedEventResponseSchema, { resentCount: BigInt(applied.length) });
  });
  await page.goto('/#/operations');
  const events = page.locator('.events > li');
  await expect(events).toHaveCount(2);
  await expect(events.first()).toHaveText(/TicketUpdated.*eticket\.v1\.ticket\.seat-1.*the body is no message of its type.*tried 5 times.*event-0/s);
  await expect(events.last().getByRole('link', { name: 'Ticket’s page' })).toHaveAttribute('href', '#/tickets/seat-2');
  await events.first().getByText('Content', { exact: true }).click();
  await expect(events.first().getByRole('region', { name: 'Content' })).toHaveText(/"ticketId": "seat-1",\s*"title": "Opera"/);
  await expect(events.first().getByRole('row', { name: 'correlation-id c-0' })).toBeVisible();
  await events.last().getByText('Content', { exact: true }).click();
  await expect(events.last()).toHaveText(/The body \(2 bytes\) is not an event of its subject:\s*ff 07/);
  await page.getByRole('button', { name: 'Resend all' }).click();
  await expect(page.getByText('Applied: 1. Still parked: 1.')).toBeVisible();
  await expect(events).toHaveCount(1);
  await events.getByRole('button', { name: 'Resend', exact: true }).click();
  await expect(page.getByText('It failed again and stays parked.')).toBeVisible();
});

test('unsettled tickets: the oldest is named', async ({ page }) => {
  const unsettled = ['young', 'old'].map((ticketId, index) => ({
    ticketId, sinceTime: timestampFromMs(Date.now() - 10_000 - index * 300_000), missing: ['the price of the reservation'],
  }));
  await page.route(call('ListUnsettled'), (route) => answer(route, ListUnsettledResponseSchema, { unsettled }));
  await page.goto('/#/operations');
  await expect(page.getByText(/^Oldest: old, for 5 min\.$/)).toBeVisible();
});
