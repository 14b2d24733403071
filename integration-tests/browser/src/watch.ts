// A watch that resumes, as docs/clients.md describes it. It stores what it gets for the tests.

import { create, toJson, type JsonValue } from '@bufbuild/protobuf';

import { Failure, type Client } from './client';
import { QueryService, TicketViewSchema, WatchTicketViewsRequestSchema } from './gen/eticket/query/v1/query_pb';

/** What tells a page that repeating the watch makes sense: the server said so, or the browser does not say why the request failed. */
const PASSING = ['Unavailable', 'Unknown', 'Internal'];
const PAUSE_MS = 200;

export interface Seen {
  /** The views in the order in which they arrived, as JSON. */
  views: JsonValue[];
  /** The resume token of each call. */
  calls: string[];
  /** The code and the reason with which each call ended. */
  ends: string[];
  /** Whether the watch is over. */
  over: boolean;
}

export class Watch {
  readonly seen: Seen = { views: [], calls: [], ends: [], over: false };
  readonly #stop = new AbortController();
  #gate: Promise<void> = Promise.resolve();
  #open = () => {};

  constructor(
    private readonly client: Client,
    private readonly ticketIds: string[],
  ) {}

  async run() {
    let token = '';
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const request = create(WatchTicketViewsRequestSchema, { ticketIds: this.ticketIds, resumeToken: token });
      this.seen.calls.push(token);
      try {
        for await (const { view, resumeToken } of this.client.stream(QueryService.method.watchTicketViews, request, { signal })) {
          if (view) this.seen.views.push(toJson(TicketViewSchema, view));
          // Within the snapshot, all messages but the last have none.
          token = resumeToken || token;
        }
        this.seen.ends.push(signal.aborted ? 'stopped' : 'ended');
      } catch (error) {
        const { code, reason } = error as Failure;
        this.seen.ends.push([code, reason].filter(Boolean).join(' '));
        if (!(error instanceof Failure) || !PASSING.includes(code)) break;
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      await this.#gate;
    }
    this.seen.over = true;
  }

  /** The watch makes no further call until it is released. */
  hold() {
    this.#gate = new Promise((resolve) => (this.#open = resolve));
  }

  release() {
    this.#open();
  }

  stop() {
    this.#stop.abort();
    this.release();
  }
}
