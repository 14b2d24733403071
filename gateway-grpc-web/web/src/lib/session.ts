// Reads include the effects of this page's commands: the newest token of each ticket and service goes along with each read.

import type { Interceptor } from '@connectrpc/connect';

import { QueryService } from '../gen/eticket/query/v1/query_pb';

const TOKEN = 'eticket-consistency-token';
const WAIT = 'eticket-wait';
/** The server refuses more. */
const MOST = 64;

/** The part of a command's response that names its ticket. */
interface Effect {
  ticket?: { ticketId: string };
  reservation?: { ticketId: string };
}

// Tokens of different services cannot replace each other. A map keeps the order in which its keys were added.
const tokens = new Map<string, string>();

function keep(service: string, effect: Effect, token: string) {
  const key = `${service} ${effect.ticket?.ticketId ?? effect.reservation?.ticketId ?? ''}`;
  tokens.delete(key);
  tokens.set(key, token);
  const oldest = tokens.keys().next();
  if (tokens.size > MOST && !oldest.done) tokens.delete(oldest.value);
}

export const session: Interceptor = (next) => async (request) => {
  const service = request.service.typeName;
  if (service === QueryService.typeName && tokens.size > 0 && request.header.get(WAIT) !== 'none') {
    request.header.set(TOKEN, [...tokens.values()].join(','));
  }
  const response = await next(request);
  const token = response.header.get(TOKEN);
  if (token && !response.stream) keep(service, response.message as Effect, token);
  return response;
};
