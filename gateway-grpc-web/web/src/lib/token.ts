// Each call carries the reader's token, and a refusal of the token brings the log-in page.

import { Code, ConnectError, createContextKey, type Interceptor } from '@connectrpc/connect';

import { problemOf } from './problem';
import { who } from './who.svelte';

const HEADER = 'authorization';
/** Calls that only ask whether a token is needed, or accepted. */
export const probing = createContextKey(false);

function note(cause: unknown, token: string, isProbe: boolean) {
  if (!(cause instanceof ConnectError) || cause.code !== Code.Unauthenticated) return;
  if (isProbe) return;
  const { reason, text } = problemOf(cause);
  who.refused(reason, text, token);
}

// A stream is refused at its first message, and ends with a refusal when its token does.
async function* noted<T>(messages: AsyncIterable<T>, each: (cause: unknown) => void): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (cause) {
    each(cause);
    throw cause;
  }
}

export const bearer: Interceptor = (next) => async (request) => {
  const { token } = who;
  const isProbe = request.contextValues.get(probing);
  if (token && !request.header.has(HEADER)) request.header.set(HEADER, `Bearer ${token}`);
  const each = (cause: unknown) => note(cause, token, isProbe);
  try {
    const response = await next(request);
    return response.stream ? { ...response, message: noted(response.message, each) } : response;
  } catch (cause) {
    each(cause);
    throw cause;
  }
};
