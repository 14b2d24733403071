import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

// The gateway that `npm run dev` calls. The built pages call the origin they come from.
const gateway = process.env.ETICKET_GATEWAY ?? 'http://127.0.0.1:8088';

export default defineConfig({
  root: 'src',
  plugins: [svelte()],
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    target: ['chrome111', 'firefox114', 'safari16.4'],
    // The content security policy allows no data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: { '^/(eticket|grpc)\\.': { target: gateway, changeOrigin: true } },
  },
});
