import './styles/base.css';
import './styles/parts.css';
import './styles/board.css';
import './styles/pages.css';
import './styles/print.css';

import { mount } from 'svelte';

import App from './App.svelte';
import { live } from './lib/live.svelte';
import { prices } from './lib/prices.svelte';

prices.start();
live.start();
mount(App, { target: document.body });
