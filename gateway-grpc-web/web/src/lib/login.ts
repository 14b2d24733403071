// Logging in: with a token of the reader's identity provider, or with the one-time code of a link that `eticket dev` prints.

import { createContextValues } from '@connectrpc/connect';

import { pricing, query } from './api';
import { live } from './live.svelte';
import { prices } from './prices.svelte';
import { problemOf, type Problem } from './problem';
import { probing } from './token';
import { who } from './who.svelte';

const contextValues = createContextValues().set(probing, true);

/** Uses a token that the server accepts. Returns why it does not. */
export async function logIn(token: string): Promise<Problem | undefined> {
  try {
    await pricing.getPricingPolicy({}, { headers: { authorization: `Bearer ${token}` }, contextValues });
  } catch (cause) {
    return problemOf(cause);
  }
  accept(token);
  return undefined;
}

/** Exchanges a one-time code for its token. */
export async function useCode(code: string): Promise<void> {
  try {
    const response = await fetch('/login', { method: 'POST', headers: { 'content-type': 'text/plain' }, body: code });
    if (response.ok) return accept(await response.text());
    // The link was used before, but the tab may still have what it brought.
    if (!who.token) who.why = 'code';
  } catch {
    who.why = 'unreachable';
  }
}

export function logOut() {
  who.leave('left');
  void prices.load();
  live.resume(true);
}

/** Without a token: asks whether the server wants one, by a call that only a user may make. */
export async function ask() {
  try {
    await query.listUserReservations({ userId: 'anybody', pageSize: 1 }, { headers: { 'eticket-wait': 'none' }, contextValues });
  } catch (cause) {
    if (problemOf(cause).reason === 'TOKEN_MISSING') who.needsTokens();
  }
}

function accept(token: string) {
  // Another user may see other holders.
  const before = who.session;
  who.token = token;
  void prices.load();
  live.resume(before !== who.session);
}
