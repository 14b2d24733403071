/** Runs `work` on each item, at most `width` at once, until all are done or `signal` aborts. */
export async function inParallel<T>(items: T[], width: number, signal: AbortSignal, work: (item: T) => Promise<void>) {
  const rest = items[Symbol.iterator]();
  const lane = async () => {
    for (const item of rest) {
      if (signal.aborted) return;
      await work(item);
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, lane));
}
