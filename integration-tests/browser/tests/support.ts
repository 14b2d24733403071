// The pages of the tests: another server than the gateway serves them, so they have another origin.

import { expect, test as base, type Page } from '@playwright/test';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { build, type Rolldown } from 'vite';

import type { Outcome } from '../src/main';
import type { Name } from '../src/names';
import type { Seen } from '../src/watch';
import { freePort, Server } from './server';

export { expect };

const ROOT = fileURLToPath(new URL('../src', import.meta.url));

/** The files of the page, built in memory. */
async function bundle(): Promise<Map<string, string | Uint8Array>> {
  const built = (await build({ root: ROOT, logLevel: 'warn', configFile: false, build: { write: false } })) as Rolldown.RolldownOutput;
  return new Map(built.output.map((file) => [`/${file.fileName}`, file.type === 'chunk' ? file.code : file.source]));
}

/** Calls from an open page, by one of the libraries. */
export class Eticket {
  constructor(readonly page: Page) {}

  call(path: string, request: object, options: { headers?: Record<string, string>; timeoutMs?: number } = {}): Promise<Outcome> {
    return this.page.evaluate(([path, request, options]) => window.eticket.call(path, request, options), [path, request, options] as const);
  }

  cancel() {
    return this.page.evaluate(() => window.eticket.cancel());
  }

  watch(ticketIds: string[]) {
    return this.page.evaluate((ticketIds) => window.eticket.watch(ticketIds), ticketIds);
  }

  seen(): Promise<Seen> {
    return this.page.evaluate(() => window.eticket.watching.seen);
  }

  control(action: 'hold' | 'release' | 'stop') {
    return this.page.evaluate((action) => window.eticket.watching[action](), action);
  }
}

interface OfWorker {
  pages: { origin: string; stranger: string };
  server: Server;
}

interface OfTest {
  /** Opens the page and selects the library. */
  open: (name: Name, origin?: string) => Promise<Eticket>;
}

export const test = base.extend<OfTest, OfWorker>({
  pages: [
    async ({}, use) => {
      const files = await bundle();
      const server = createServer((request, response) => {
        const path = request.url === '/' ? '/index.html' : request.url ?? '';
        const type = path.endsWith('.html') ? 'text/html; charset=utf-8' : 'text/javascript; charset=utf-8';
        const file = files.get(path);
        response.writeHead(file === undefined ? 404 : 200, { 'content-type': type }).end(file);
      });
      const port = await freePort();
      server.listen(port, '127.0.0.1');
      await once(server, 'listening');
      await use({ origin: `http://page.example:${port}`, stranger: `http://stranger.example:${port}` });
      server.close();
      server.closeAllConnections();
    },
    { scope: 'worker' },
  ],
  server: [
    async ({ pages }, use) => {
      const server = await Server.create(pages.origin);
      await server.start();
      await use(server);
      await server.remove();
    },
    { scope: 'worker' },
  ],
  open: async ({ page, pages, server }, use) => {
    await use(async (name, origin = pages.origin) => {
      await page.goto(origin);
      await page.evaluate(([name, gateway]) => window.use(name, gateway), [name, server.gateway] as const);
      return new Eticket(page);
    });
    await page.close();
    // The next test counts calls.
    await expect.poll(() => server.metric('eticket_rpc_in_flight', { service: 'gateway' })).toBe(0);
  },
});
