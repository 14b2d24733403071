// The tickets as they are now, from one watch of all views that continues by itself after a disconnect.

import { Code } from '@connectrpc/connect';

import { TicketStatus } from '../gen/eticket/ticket/v1/ticket_pb';
import type { TicketView } from '../gen/eticket/query/v1/query_pb';
import { query, streaming } from './api';
import { amount, ms } from './format';
import { problemOf, type Problem } from './problem';

/** A view with what sorting and searching need, computed once. */
export interface Row {
  readonly view: TicketView;
  readonly id: string;
  readonly text: string;
  readonly start: number;
  readonly price: number;
  readonly held: boolean;
  /** When the row last changed while the page was open; 0 if it came with the snapshot. */
  readonly changedAt: number;
}

export type Connection = 'connecting' | 'live' | 'behind' | 'reconnecting' | 'paused' | 'refused';

// The server sends a message at least every 20 s.
const SILENCE_MS = 45_000;
const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15_000;
// Reactions of other services take a fraction of a second.
const SETTLES_WITHIN_MS = 5_000;
// Browsers open only six connections to an address over HTTP/1.1, so a hidden tab gives its one back.
const HIDDEN_MS = 60_000;
const PAUSED = 'paused';

function toRow(view: TicketView, changedAt: number): Row {
  return {
    view,
    id: view.ticketId,
    text: `${view.title}\n${view.ticketId}\n${view.userId}`.toLowerCase(),
    start: ms(view.startTime),
    price: amount(view.discountedPrice),
    held: view.ticketStatus === TicketStatus.RESERVED,
    changedAt,
  };
}

/** True if `next` misses something that `known` includes, so that it must not replace it. */
function older(next: TicketView, known: TicketView): boolean {
  const [a, b] = [next.revisions, known.revisions];
  if (!a || !b) return false;
  return a.ticket < b.ticket || a.reservation < b.reservation || a.price < b.price;
}

class Live {
  rows = $state.raw<Row[]>([]);
  loaded = $state(false);
  problem = $state.raw<Problem | null>(null);
  #connected = $state<Exclude<Connection, 'behind'>>('connecting');
  #late = $state(0);
  readonly connection = $derived<Connection>(this.#connected === 'live' && this.#late > 0 ? 'behind' : this.#connected);
  readonly late = $derived(this.#late);

  #known = new Map<string, Row>();
  #snapshot: Map<string, Row> | null = null;
  #resumeToken = '';
  #attempt = 0;
  #abort = new AbortController();
  #timers = { flush: 0, retry: 0, silence: 0, hidden: 0 };
  #lastFlush = 0;
  #started = false;

  start() {
    this.#started = true;
    window.addEventListener('online', () => this.#retryNow());
    document.addEventListener('visibilitychange', () => this.#visibility());
    window.setInterval(() => this.#countLate(), 1000);
    void this.#connect();
  }

  /** Connects with the reader's new token; `fresh` if they may see something else than before. */
  resume(fresh: boolean) {
    if (!this.#started) return;
    if (fresh) {
      this.#resumeToken = '';
      this.#known = new Map();
      this.loaded = false;
      this.rows = [];
    }
    this.#abort.abort(PAUSED);
    window.clearTimeout(this.#timers.retry);
    this.#attempt = 0;
    this.#connected = this.loaded ? 'reconnecting' : 'connecting';
    void this.#connect();
  }

  find(ticketId: string): Row | undefined {
    return this.#known.get(ticketId);
  }

  /** Shows a view that was read beside the watch, as after a command. */
  merge(view: TicketView) {
    const known = this.#known.get(view.ticketId);
    if (known && older(view, known.view)) return;
    this.#known.set(view.ticketId, toRow(view, Date.now()));
    this.#publish();
  }

  async #connect() {
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    if (!this.#resumeToken) this.#snapshot = new Map();
    try {
      this.#watchSilence();
      const request = { ticketIds: [], resumeToken: this.#resumeToken };
      // The board shows what is known at once, and the effects of commands follow.
      const headers = { 'eticket-wait': 'none' };
      for await (const message of query.watchTicketViews(request, { ...streaming, headers, signal, onHeader: () => this.#accepted() })) {
        this.#watchSilence();
        this.#attempt = 0;
        this.#receive(message.view, message.resumeToken);
      }
      this.#reconnect(FIRST_DELAY_MS);
    } catch (cause) {
      if (signal.aborted && signal.reason === PAUSED) return;
      this.#failed(problemOf(cause));
    }
  }

  // The server has accepted the watch. Its first message may take 20 s if it continues and nothing has changed.
  #accepted() {
    if (this.#snapshot) return;
    this.problem = null;
    this.#connected = 'live';
  }

  #receive(view: TicketView | undefined, resumeToken: string) {
    if (view && this.#snapshot) this.#snapshot.set(view.ticketId, toRow(view, 0));
    else if (view) this.merge(view);
    if (!resumeToken) return;
    this.#resumeToken = resumeToken;
    if (this.#snapshot) {
      this.#known = this.#snapshot;
      this.#snapshot = null;
      this.loaded = true;
      this.#publish();
    }
    this.problem = null;
    this.#connected = 'live';
  }

  #failed(problem: Problem) {
    // The token of another store is of no use: start again with all tickets.
    if (problem.code === Code.InvalidArgument) this.#resumeToken = '';
    this.problem = problem;
    if (problem.code === Code.Unauthenticated) {
      // Waits for a token of the reader, and then continues where the refused one has ended.
      this.#resumeToken = problem.metadata.resume_token || this.#resumeToken;
      this.#connected = 'refused';
      window.clearTimeout(this.#timers.silence);
      return;
    }
    this.#reconnect(problem.retryAfterMs);
  }

  #reconnect(atLeastMs = 0) {
    this.#connected = this.loaded ? 'reconnecting' : 'connecting';
    const backoff = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#attempt++);
    // Half of it at random, so that the pages of a restarted gateway do not come back all at once.
    const delay = Math.max(atLeastMs, backoff / 2 + (Math.random() * backoff) / 2);
    window.clearTimeout(this.#timers.silence);
    window.clearTimeout(this.#timers.retry);
    this.#timers.retry = window.setTimeout(() => void this.#connect(), delay);
  }

  #retryNow() {
    if (this.#connected !== 'reconnecting' && this.#connected !== 'connecting') return;
    window.clearTimeout(this.#timers.retry);
    this.#abort.abort(PAUSED);
    void this.#connect();
  }

  #watchSilence() {
    window.clearTimeout(this.#timers.silence);
    this.#timers.silence = window.setTimeout(() => this.#abort.abort('silent'), SILENCE_MS);
  }

  #visibility() {
    window.clearTimeout(this.#timers.hidden);
    if (document.hidden) {
      this.#timers.hidden = window.setTimeout(() => this.#pause(), HIDDEN_MS);
    } else if (this.#connected === 'paused') {
      this.#connected = this.loaded ? 'reconnecting' : 'connecting';
      void this.#connect();
    }
  }

  #pause() {
    window.clearTimeout(this.#timers.silence);
    window.clearTimeout(this.#timers.retry);
    this.#connected = 'paused';
    this.#abort.abort(PAUSED);
  }

  #countLate() {
    const before = Date.now() - SETTLES_WITHIN_MS;
    let late = 0;
    for (const { view } of this.#known.values()) if (!view.settled && ms(view.updateTime) < before) late += 1;
    this.#late = late;
  }

  // Many changes at once become one change of the page.
  #publish() {
    if (this.#timers.flush) return;
    const interval = this.#known.size > 2000 ? 250 : 50;
    const wait = Math.max(0, this.#lastFlush + interval - performance.now());
    this.#timers.flush = window.setTimeout(() => {
      this.#timers.flush = 0;
      this.#lastFlush = performance.now();
      this.rows = [...this.#known.values()];
    }, wait);
  }
}

export const live = new Live();
