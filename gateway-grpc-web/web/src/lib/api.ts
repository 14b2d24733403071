// The clients of the gateway. All calls go to the origin that served the page.

import { createClient, type Interceptor } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';

import { OperationsService } from '../gen/eticket/operations/v1/operations_pb';
import { PricingService } from '../gen/eticket/pricing/v1/pricing_pb';
import { QueryService } from '../gen/eticket/query/v1/query_pb';
import { ReservationService } from '../gen/eticket/reservation/v1/reservation_pb';
import { TicketService } from '../gen/eticket/ticket/v1/ticket_pb';
import { Health } from '../gen/grpc/health/v1/health_pb';
import { preferences } from './preferences.svelte';
import { session } from './session';
import { bearer } from './token';

// Refusals come in the language of the page.
const language: Interceptor = (next) => (request) => {
  request.header.set('accept-language', preferences.language);
  return next(request);
};

const transport = createGrpcWebTransport({
  baseUrl: window.location.origin,
  defaultTimeoutMs: 10_000,
  interceptors: [language, session, bearer],
});

export const tickets = createClient(TicketService, transport);
export const reservations = createClient(ReservationService, transport);
export const pricing = createClient(PricingService, transport);
export const query = createClient(QueryService, transport);
export const operations = createClient(OperationsService, transport);
export const health = createClient(Health, transport);

/** Streams end when the page ends them, so they have no timeout. */
export const streaming = { timeoutMs: 0 };

export type Owner = 'ticket' | 'reservation' | 'pricing' | 'query';

/** Selects the service that an operations call is for. */
export function at(owner: Owner | 'gateway', options: { signal?: AbortSignal; timeoutMs?: number } = {}) {
  return { headers: { 'eticket-service': owner }, ...options };
}
