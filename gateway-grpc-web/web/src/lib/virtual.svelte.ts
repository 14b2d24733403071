// The rows of a long list that are in view, while the window scrolls.

import { observeWindowOffset, observeWindowRect, Virtualizer, windowScroll, type VirtualItem } from '@tanstack/virtual-core';

export class WindowRows {
  items = $state.raw<VirtualItem[]>([]);
  total = $state(0);
  #virtualizer: Virtualizer<Window, Element>;
  #options;

  constructor() {
    this.#options = {
      count: 0,
      overscan: 6,
      scrollMargin: 0,
      getScrollElement: () => window,
      estimateSize: () => 1,
      observeElementRect: observeWindowRect,
      observeElementOffset: observeWindowOffset,
      scrollToFn: windowScroll,
      onChange: () => this.#read(),
    } as ConstructorParameters<typeof Virtualizer<Window, Element>>[0];
    this.#virtualizer = new Virtualizer(this.#options);
  }

  mount(): () => void {
    const unmount = this.#virtualizer._didMount();
    this.#virtualizer._willUpdate();
    return unmount;
  }

  update(count: number, height: number, scrollMargin: number) {
    const resized = this.#options.estimateSize(0) !== height;
    this.#options = { ...this.#options, count, scrollMargin, estimateSize: () => height };
    this.#virtualizer.setOptions(this.#options);
    if (resized) this.#virtualizer.measure();
    this.#virtualizer._willUpdate();
    this.#read();
  }

  show(index: number) {
    this.#virtualizer.scrollToIndex(index, { align: 'auto' });
  }

  get scrollMargin() {
    return this.#options.scrollMargin ?? 0;
  }

  #read() {
    this.items = this.#virtualizer.getVirtualItems();
    this.total = this.#virtualizer.getTotalSize();
  }
}
