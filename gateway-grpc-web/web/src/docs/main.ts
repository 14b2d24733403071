// The viewer of the REST interface: Swagger UI with the OpenAPI document of the gateway that serves this page.

import SwaggerUI from 'swagger-ui-dist/swagger-ui-es-bundle.js';
import licenses from 'swagger-ui-dist/swagger-ui-es-bundle.js.LICENSE.txt?url';
import 'swagger-ui-dist/swagger-ui.css';

import { accessible } from './accessible';
import './docs.css';

// Swagger UI assigns HTML that DOMPurify has sanitized. Text that would become a script is still refused.
window.trustedTypes?.createPolicy('default', { createHTML: (html) => html });

const wanted = window.matchMedia('(prefers-color-scheme: dark)');

function paint() {
  let chosen: string | null = null;
  try {
    chosen = localStorage.getItem('eticket.theme');
  } catch {
    // Storage may be refused; then the choice made in the console is unknown here.
  }
  const dark = chosen === 'dark' || (chosen !== 'light' && wanted.matches);
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  document.documentElement.classList.toggle('dark-mode', dark);
}

document.querySelector('#licenses')?.setAttribute('href', licenses);
wanted.addEventListener('change', paint);
paint();

SwaggerUI({
  url: '/openapi.json',
  dom_id: '#viewer',
  plugins: [accessible],
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  // Swagger UI shows a response when it is complete, so a stream without a deadline would never show.
  requestInterceptor: (request) => {
    const headers = request.headers as Record<string, string> | undefined;
    if (headers?.accept === 'text/event-stream') headers['X-Timeout-Ms'] ??= '5000';
    return request;
  },
});
