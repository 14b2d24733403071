import { defineConfig } from '@playwright/test';

if (!process.env.ETICKET_BINARY) throw new Error('set ETICKET_BINARY to the path of a built eticket, such as target/debug/eticket');

// The names of these pages lead to this machine. Only one of them may call the gateway.
const names = ['page.example', 'stranger.example'].map((name) => `MAP ${name} 127.0.0.1`);

export default defineConfig({
  testDir: 'tests',
  outputDir: 'test-results',
  workers: 1,
  retries: 0,
  timeout: 60_000,
  expect: { timeout: 15_000 },
  reporter: [['list']],
  use: {
    locale: 'en-US',
    launchOptions: {
      executablePath: process.env.ETICKET_CHROMIUM,
      args: [
        `--host-resolver-rules=${names.join(',')}`,
        // A proxy would resolve the names itself.
        '--no-proxy-server',
        '--disable-gpu',
        // Browsers do not run as root inside their sandbox, and containers of CI often do.
        ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
      ],
    },
  },
});
