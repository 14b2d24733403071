// After a command: shows its effect at once, and again when the other services have reacted to it.

import { WaitFor, type TicketView } from '../gen/eticket/query/v1/query_pb';
import { query } from './api';
import { live } from './live.svelte';
import { problemOf } from './problem';

const ATTEMPTS = 4;

export async function follow(ticketId: string, consistencyToken: string): Promise<TicketView | undefined> {
  const applied = await wait(ticketId, consistencyToken, WaitFor.APPLIED);
  if (!applied) return undefined;
  return (await wait(ticketId, consistencyToken, WaitFor.SETTLED)) ?? applied;
}

// The command has taken effect, so a read that fails is repeated, never the command. The watch shows the effect in any case.
async function wait(ticketId: string, consistencyToken: string, waitFor: WaitFor): Promise<TicketView | undefined> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    try {
      const { view } = await query.getTicketView({ ticketId, consistencyToken, wait: waitFor });
      if (view) live.merge(view);
      return view;
    } catch (cause) {
      const problem = problemOf(cause);
      await new Promise((resolve) => setTimeout(resolve, problem.retryAfterMs ?? 500));
    }
  }
  return undefined;
}
