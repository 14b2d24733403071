// The policy in force, and what a ticket would cost somebody.

import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { SvelteMap } from 'svelte/reactivity';

import type { Price, PricingPolicy } from '../gen/eticket/pricing/v1/pricing_pb';
import { UserGrade } from '../gen/eticket/reservation/v1/reservation_pb';
import { pricing } from './api';
import { readerZone } from './format';
import { problemOf, type Problem } from './problem';
import { dayIn } from './zoned';

const WIDTH = 6;
const RELOAD_MS = 60_000;

class Prices {
  policy = $state.raw<PricingPolicy | null>(null);
  problem = $state.raw<Problem | null>(null);
  readonly zone = $derived(this.policy?.businessTimeZone || readerZone);

  #quotes = new SvelteMap<string, Price>();
  #asked = new Set<string>();
  #queue: (() => Promise<void>)[] = [];
  #running = 0;

  start() {
    void this.load();
    window.setInterval(() => void this.load(), RELOAD_MS);
  }

  async load() {
    try {
      const { policy } = await pricing.getPricingPolicy({});
      if (policy?.version !== this.policy?.version) {
        this.#quotes.clear();
        this.#asked.clear();
      }
      this.policy = policy ?? null;
      this.problem = null;
    } catch (cause) {
      this.problem = problemOf(cause);
    }
  }

  /** The price of a ticket that starts then, for a grade; undefined until it is known. Rules speak of days, so one quote serves a day. */
  quote(start: number, grade: UserGrade): Price | undefined {
    if (!this.policy || !start) return undefined;
    return this.#quotes.get(this.#key(start, grade));
  }

  /** Asks for a quote that is not known yet. */
  want(start: number, grade: UserGrade) {
    const key = this.#key(start, grade);
    if (!this.policy || !start || this.#asked.has(key)) return;
    this.#asked.add(key);
    this.#queue.push(async () => {
      try {
        const { price } = await pricing.quotePrice({ startTime: timestampFromMs(start), userGrade: grade });
        if (price) this.#quotes.set(key, price);
      } catch {
        // Asked again the next time that somebody wants it.
        this.#asked.delete(key);
      }
    });
    void this.#work();
  }

  #key(start: number, grade: UserGrade): string {
    return `${this.policy?.version} ${dayIn(start, this.zone)} ${grade}`;
  }

  async #work() {
    while (this.#running < WIDTH) {
      const next = this.#queue.shift();
      if (!next) return;
      this.#running += 1;
      void next().finally(() => {
        this.#running -= 1;
        void this.#work();
      });
    }
  }
}

export const prices = new Prices();
