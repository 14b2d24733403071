// The rows of a long list that are in view, while the window scrolls.

import { observeWindowOffset, observeWindowRect, Virtualizer, windowScroll, type Range, type VirtualItem } from '@tanstack/virtual-core';

const OVERSCAN = 5;

export class WindowRows {
  items = $state.raw<VirtualItem[]>([]);
  total = $state(0);
  #virtualizer: Virtualizer<Window, Element>;
  #options;

  constructor() {
    this.#options = {
      count: 0,
      overscan: OVERSCAN,
      rangeExtractor: (range: Range) => this.#range(range),
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

  // Always the same number of rows, so that a row that leaves at one end can be used again at the other: making rows is what
  // costs time while scrolling.
  #range({ startIndex, count }: Range): number[] {
    const size = Math.min(count, Math.ceil(window.innerHeight / this.#options.estimateSize(0)) + 2 + 2 * OVERSCAN);
    const first = Math.max(0, Math.min(startIndex - OVERSCAN, count - size));
    return Array.from({ length: size }, (_, index) => first + index);
  }

  #read() {
    this.items = this.#virtualizer.getVirtualItems();
    this.total = this.#virtualizer.getTotalSize();
  }
}
