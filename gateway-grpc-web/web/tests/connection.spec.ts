import { createServer, connect, type AddressInfo, type Socket } from 'node:net';

import { expect, registered, test } from './support';

/** A connection to the pages that can be cut. */
class Wire {
  #sockets = new Set<Socket>();
  #server = createServer((near) => this.#join(near));
  #cut = false;

  constructor(private readonly target: URL) {}

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  cut() {
    this.#cut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend() {
    this.#cut = false;
  }

  close() {
    this.cut();
    this.#server.close();
  }

  #join(near: Socket) {
    if (this.#cut) return void near.destroy();
    const far = connect(Number(this.target.port), this.target.hostname);
    for (const [socket, other] of [[near, far], [far, near]] as const) {
      this.#sockets.add(socket);
      socket.on('error', () => socket.destroy());
      socket.on('close', () => (this.#sockets.delete(socket), other.destroy()));
    }
    near.pipe(far).pipe(near);
  }
}

test('a dropped connection is shown, and resumes with what changed in the meantime', async ({ page, baseURL, watchdog }) => {
  const wire = new Wire(new URL(baseURL ?? ''));
  const origin = await wire.listen();
  watchdog.origins.add(origin);
  const watches: number[] = [];
  page.on('request', (request) => {
    if (request.url().endsWith('/WatchTicketViews')) watches.push(request.postDataBuffer()?.length ?? 0);
  });
  const word = `drop${Date.now()}`;
  await registered(`Before ${word}`);
  await page.goto(`${origin}/#/?q=${word}`);
  await expect(page.locator('.ticket')).toHaveCount(1);
  await expect(page.locator('.connection')).toHaveText('Live');

  wire.cut();
  await expect(page.locator('.connection')).toHaveText('Reconnecting…');
  // The board stays readable, and screen readers hear of it.
  await expect(page.locator('.ticket')).toHaveCount(1);
  await expect(page.locator('[aria-live=polite].unseen')).toHaveText('Reconnecting…');
  await registered(`Meanwhile ${word}`);
  wire.mend();
  await expect(page.locator('.connection')).toHaveText('Live', { timeout: 30_000 });
  await expect(page.locator('.ticket')).toHaveCount(2);
  // An empty request is five bytes and asks for all tickets; the last one continued by its token.
  expect(watches[0]).toBe(5);
  expect(watches.at(-1)).toBeGreaterThan(5);
  wire.close();
});
