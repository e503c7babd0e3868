/** Allows so many events in each second of the clock: for what strangers can cause, and what costs more than a drop. */
export class RateLimit {
  readonly #perSecond: number;
  #second = Number.NEGATIVE_INFINITY;
  #left = 0;

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
  }

  /** True when one more may happen now; it is counted then. */
  take(nowMs: number): boolean {
    const second = Math.floor(nowMs / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#left = this.#perSecond;
    }
    if (this.#left === 0) return false;
    this.#left -= 1;
    return true;
  }
}
