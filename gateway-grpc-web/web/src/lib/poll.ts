import { untrack } from 'svelte';

/** Runs `work` now and every few seconds, but not while the tab is hidden. Returns what ends it, as an effect does. */
export function poll(everyMs: number, work: () => Promise<void>): () => void {
  let running = false;
  const run = async () => {
    // A slow server is asked again only once it has answered.
    if (document.hidden || running) return;
    running = true;
    await work();
    running = false;
  };
  const now = () => void run();
  // What the work reads must not start it again.
  untrack(now);
  const timer = window.setInterval(now, everyMs);
  document.addEventListener('visibilitychange', now);
  return () => {
    window.clearInterval(timer);
    document.removeEventListener('visibilitychange', now);
  };
}
