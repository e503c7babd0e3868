interface Entry<T> {
  readonly item: T;
  readonly atMs: number;
}

/**
 * Items by the time at which each is due: a binary heap that knows the place of every item. Setting and removing one costs
 * O(log n), asking for the first nothing.
 */
export class Deadlines<T> {
  readonly #heap: Entry<T>[] = [];
  readonly #places = new Map<T, number>();

  get size(): number {
    return this.#heap.length;
  }

  /** The earliest, null when there is none. */
  get firstMs(): number | null {
    return this.#heap[0]?.atMs ?? null;
  }

  has(item: T): boolean {
    return this.#places.has(item);
  }

  /** The earliest one itself. */
  get first(): T | undefined {
    return this.#heap[0]?.item;
  }

  /** Null: never. */
  set(item: T, atMs: number | null): void {
    const place = this.#places.get(item);
    if (atMs === null) this.delete(item);
    else if (place === undefined) this.#rise(this.#heap.length, { item, atMs });
    else if (this.#heap[place]?.atMs !== atMs) this.#settle(place, { item, atMs });
  }

  delete(item: T): void {
    const place = this.#places.get(item);
    if (place === undefined) return;
    this.#places.delete(item);
    const last = this.#heap.pop();
    if (last !== undefined && last.item !== item) this.#settle(place, last);
  }

  /** Everything that is due, the earliest first. It stays until it is set anew. */
  due(nowMs: number): T[] {
    const found: Entry<T>[] = [];
    const look = (place: number): void => {
      const entry = this.#heap[place];
      if (entry === undefined || entry.atMs > nowMs) return;
      found.push(entry);
      look(2 * place + 1);
      look(2 * place + 2);
    };
    look(0);
    return found.sort((a, b) => a.atMs - b.atMs).map(({ item }) => item);
  }

  #settle(place: number, entry: Entry<T>): void {
    const above = this.#heap[(place - 1) >> 1];
    if (place > 0 && above !== undefined && entry.atMs < above.atMs) this.#rise(place, entry);
    else this.#sink(place, entry);
  }

  #rise(start: number, entry: Entry<T>): void {
    let place = start;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      const above = this.#heap[parent];
      if (above === undefined || above.atMs <= entry.atMs) break;
      this.#put(place, above);
      place = parent;
    }
    this.#put(place, entry);
  }

  #sink(start: number, entry: Entry<T>): void {
    let place = start;
    for (;;) {
      const [left, right] = [this.#heap[2 * place + 1], this.#heap[2 * place + 2]];
      if (left === undefined) break;
      const isRight = right !== undefined && right.atMs < left.atMs;
      const child = isRight ? right : left;
      if (child.atMs >= entry.atMs) break;
      this.#put(place, child);
      place = 2 * place + (isRight ? 2 : 1);
    }
    this.#put(place, entry);
  }

  #put(place: number, entry: Entry<T>): void {
    this.#heap[place] = entry;
    this.#places.set(entry.item, place);
  }
}
