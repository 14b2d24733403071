// Serves the built pages beside a gateway, from one origin and with the content security policies that the gateway sends.

import { createReadStream, existsSync } from 'node:fs';
import { createServer, request as call } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const dist = fileURLToPath(new URL('../dist', import.meta.url));
const description = fileURLToPath(new URL('../../openapi.json', import.meta.url));
const gateway = new URL(process.env.ETICKET_GATEWAY ?? 'http://127.0.0.1:8088');
const port = Number(process.env.ETICKET_PAGES_PORT ?? 18099);

const policy = (images, trusted) =>
  [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    `img-src ${images}`,
    "connect-src 'self'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "require-trusted-types-for 'script'",
    `trusted-types ${trusted}`,
  ].join('; ');
const policies = { console: policy("'self'", 'svelte-trusted-html'), docs: policy("'self' data:", 'default dompurify') };

const types = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.json': 'application/json',
};
const names = { '/': '/index.html', '/docs': '/docs/index.html', '/docs/': '/docs/index.html' };

function page(path, response) {
  const file = path === '/openapi.json' ? description : join(dist, normalize(names[path] ?? path));
  if (!(file === description || file.startsWith(dist)) || !existsSync(file)) {
    response.writeHead(404).end();
    return;
  }
  const headers = { 'content-type': types[extname(file)] ?? 'application/octet-stream', 'x-content-type-options': 'nosniff' };
  const which = file.startsWith(join(dist, 'docs')) ? 'docs' : 'console';
  response.writeHead(200, { ...headers, 'content-security-policy': policies[which] });
  createReadStream(file).pipe(response);
}

function pass(incoming, response) {
  const headers = { ...incoming.headers, host: gateway.host, origin: gateway.origin };
  const options = { host: gateway.hostname, port: gateway.port, path: incoming.url, method: incoming.method, headers };
  const outgoing = call(options, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    response.flushHeaders();
    answer.pipe(response);
    answer.on('error', () => response.destroy());
  });
  outgoing.on('error', () => response.destroy());
  response.on('close', () => outgoing.destroy());
  incoming.pipe(outgoing);
}

createServer((incoming, response) => {
  const path = new URL(incoming.url ?? '/', gateway).pathname;
  if (incoming.method === 'POST' || path.startsWith('/v1/')) pass(incoming, response);
  else page(path, response);
}).listen(port, '127.0.0.1', () => console.log(`http://127.0.0.1:${port}`));
