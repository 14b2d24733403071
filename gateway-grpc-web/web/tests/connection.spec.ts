import { createServer, connect, type AddressInfo, type Socket } from 'node:net';

import { as, expect, registered, test } from './support';

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

test('on a slow network the page says what it waits for, and one’s own action is not lost', async ({ page }) => {
  const title = `Slow ${Date.now()}`;
  const ticketId = await registered(title);
  await as(page, 'slow-user', 1);
  const client = await page.context().newCDPSession(page);
  // A bad mobile connection: 50 kB/s, and two seconds to each answer.
  await client.send('Network.emulateNetworkConditions', { offline: false, latency: 2_000, downloadThroughput: 50_000, uploadThroughput: 20_000 });
  await page.goto(`/#/tickets/${ticketId}`);
  await expect(page.getByRole('status').filter({ hasText: 'Loading…' })).toBeVisible();
  await expect(page.getByRole('heading', { level: 1, name: title })).toBeVisible({ timeout: 60_000 });
  await page.getByRole('button', { name: 'Reserve', exact: true }).click();
  const dialog = page.getByRole('dialog');
  const reserve = dialog.locator('.primary');
  await expect(reserve).toHaveText(/^Reserve for/, { timeout: 60_000 });
  await reserve.click();
  // A second click would be a second command.
  await expect(reserve).toHaveText('Reserving…');
  await expect(reserve).toBeDisabled();
  await expect(page.getByText(`Reserved: ${title}.`)).toBeVisible({ timeout: 60_000 });
  await expect(page.locator('.pass .status')).toHaveText('Reserved', { timeout: 60_000 });
});
