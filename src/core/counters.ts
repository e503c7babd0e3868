/**
 * Named counters, the answer to "why was it dropped". A name is `area.reason`, from code and never from the network,
 * so the table cannot grow without bound.
 */
export class Counters {
  readonly #values = new Map<string, number>();

  add(name: string, count = 1): void {
    this.#values.set(name, (this.#values.get(name) ?? 0) + count);
  }

  get(name: string): number {
    return this.#values.get(name) ?? 0;
  }

  /** All counters, sorted by name. */
  snapshot(): Record<string, number> {
    return Object.fromEntries([...this.#values].sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}
