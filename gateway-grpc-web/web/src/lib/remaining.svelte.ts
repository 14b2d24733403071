// How long the reader's token still lasts by this computer's clock. The server decides; this only prepares the reader.

import { who } from './who.svelte';

const SOON_MINUTES = 10;

class Remaining {
  #now = $state(Date.now());
  /** Rounded up; NaN without a token that says when it ends. */
  readonly minutes = $derived(Math.max(0, Math.ceil(((who.claims?.expires ?? Number.NaN) - this.#now) / 60_000)));
  readonly soon = $derived(this.minutes <= SOON_MINUTES);

  constructor() {
    window.setInterval(() => (this.#now = Date.now()), 5_000);
  }
}

export const remaining = new Remaining();
