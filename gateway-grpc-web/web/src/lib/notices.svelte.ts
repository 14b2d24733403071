// Short messages at the edge of the page. Screen readers say them.

export interface Notice {
  id: number;
  text: string;
}

const SHOWN_MS = 8_000;

class Notices {
  list = $state.raw<Notice[]>([]);
  /** Said by screen readers only. */
  spoken = $state('');
  #next = 1;

  show(text: string): number {
    const id = this.#next++;
    this.list = [...this.list.slice(-3), { id, text }];
    window.setTimeout(() => this.close(id), SHOWN_MS);
    return id;
  }

  say(text: string) {
    this.spoken = text;
  }

  close(id: number) {
    this.list = this.list.filter((notice) => notice.id !== id);
  }
}

export const notices = new Notices();
