import { defineConfig } from '@playwright/test';

const port = Number(process.env.ETICKET_PAGES_PORT ?? 18099);
const gateway = process.env.ETICKET_GATEWAY;
if (!gateway) throw new Error('set ETICKET_GATEWAY to the address of a running gateway, such as http://127.0.0.1:8088');
// The pages come from the gateway itself, or from a server beside it that sends the same policy.
const own = process.env.ETICKET_PAGES !== 'gateway';

export default defineConfig({
  testDir: 'tests',
  outputDir: 'test-results',
  // Ten thousand tickets come last: the other tests are to see a board that a person could read.
  projects: [
    { name: 'console', testIgnore: ['large.spec.ts', 'tokens.spec.ts'] },
    { name: 'large', testMatch: 'large.spec.ts', dependencies: ['console'] },
    // The gateway of these is that of `eticket dev --tokens`.
    { name: 'tokens', testMatch: 'tokens.spec.ts' },
  ],
  workers: 1,
  retries: 0,
  timeout: 120_000,
  expect: { timeout: 15_000 },
  reporter: [['list']],
  use: {
    baseURL: own ? `http://127.0.0.1:${port}` : gateway,
    locale: 'en-US',
    timezoneId: 'Europe/Berlin',
    trace: 'retain-on-failure',
    launchOptions: {
      executablePath: process.env.ETICKET_CHROMIUM,
      // Browsers do not run as root inside their sandbox, and containers of CI often do.
      // Without a graphics card, drawing in software is faster than emulating one.
      args: ['--disable-gpu', ...(process.getuid?.() === 0 ? ['--no-sandbox'] : [])],
    },
  },
  webServer: own
    ? { command: 'node tests/serve.mjs', url: `http://127.0.0.1:${port}/`, reuseExistingServer: true, env: { ETICKET_GATEWAY: gateway, ETICKET_PAGES_PORT: String(port) } }
    : undefined,
});
