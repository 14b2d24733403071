// The page and its state stand behind the `#` of the address, so that the server has one page to serve.

const LOGIN = /^#\/login\/(.+)$/;

class Router {
  #hash = $state(window.location.hash);
  readonly path = $derived(decode(this.#hash.replace(/^#/, '').split('?')[0] || '/'));
  readonly query = $derived(new URLSearchParams(this.#hash.split('?')[1] ?? ''));

  constructor() {
    window.addEventListener('hashchange', () => {
      this.#hash = window.location.hash;
      const code = this.takeCode();
      if (code) this.oncode(code);
    });
  }

  /** Called with the code of a log-in link that is opened in this page. */
  oncode: (code: string) => void = () => {};

  /** The code of a log-in link, which leaves the address bar and the history of the tab at once. */
  takeCode(): string | undefined {
    const code = LOGIN.exec(window.location.hash)?.[1];
    if (code) {
      window.history.replaceState(null, '', '#/');
      this.#hash = window.location.hash;
    }
    return code;
  }

  go(path: string) {
    window.location.hash = path;
  }

  /** Sets parameters of the current page without an entry in the browser's history. Empty values are left out. */
  set(parameters: Record<string, string>) {
    const query = new URLSearchParams(this.query);
    for (const [key, value] of Object.entries(parameters)) {
      if (value) query.set(key, value);
      else query.delete(key);
    }
    const text = query.toString();
    const path = this.#hash.replace(/^#/, '').split('?')[0] || '/';
    window.history.replaceState(null, '', `#${path}${text && `?${text}`}`);
    this.#hash = window.location.hash;
  }
}

function decode(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

export const router = new Router();

export const ticketLink = (ticketId: string) => `#/tickets/${encodeURIComponent(ticketId)}`;
