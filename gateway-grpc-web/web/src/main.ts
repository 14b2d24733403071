import './styles/base.css';
import './styles/parts.css';
import './styles/board.css';
import './styles/pages.css';
import './styles/print.css';

import { mount } from 'svelte';

import App from './App.svelte';
import { live } from './lib/live.svelte';
import { ask, useCode } from './lib/login';
import { prices } from './lib/prices.svelte';
import { router } from './lib/router.svelte';
import { who } from './lib/who.svelte';

async function start() {
  const code = router.takeCode();
  router.oncode = (next) => void useCode(next);
  if (code) await useCode(code);
  if (!who.token) void ask();
  prices.start();
  live.start();
}

void start();
mount(App, { target: document.body });
