/** Chooses targets in turn. The order is that of `available`; one that is missing from it is passed over. */
export class RoundRobin {
  #last: string | null = null;

  /** The target after the one chosen last; null when `available` is empty. */
  next(available: readonly string[]): string | null {
    const after = this.#last === null ? -1 : available.findIndex((name) => name === this.#last);
    const chosen = available[(after + 1) % available.length] ?? null;
    if (chosen !== null) this.#last = chosen;
    return chosen;
  }
}
