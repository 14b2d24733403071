import { svelte } from '@sveltejs/vite-plugin-svelte';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

// The gateway that `npm run dev` calls. The built pages call the origin they come from.
const gateway = process.env.ETICKET_GATEWAY ?? 'http://127.0.0.1:8088';
const source = (path: string) => fileURLToPath(new URL(`src/${path}`, import.meta.url));
// The gateway serves the viewer at /docs also if a folder replaces the console, so its files are apart.
const folder = (name = '') => (/^(docs|swagger-ui)/.test(name) ? 'docs/assets' : 'assets');

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
    rolldownOptions: {
      input: { index: source('index.html'), docs: source('docs/index.html') },
      output: {
        entryFileNames: ({ name }) => `${folder(name)}/[name]-[hash].js`,
        assetFileNames: ({ names }) => `${folder(names[0])}/[name]-[hash][extname]`,
      },
    },
  },
  server: {
    proxy: { '^/((eticket|grpc)\\.|v1/|openapi\\.json$)': { target: gateway, changeOrigin: true } },
  },
});
