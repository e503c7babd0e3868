/** A client repeats its SYN after 1 s, then after 3 (RFC 6298 §2.1, §5.5): what comes sooner is a doubled packet. */
const SOONEST_MS = 500;
const LATEST_MS = 4_000;

/**
 * What was refused a short while ago and is asked for once more: a client that means it repeats its first segment, a flood that takes
 * ever other ports does not.
 */
export class SecondTry {
  readonly #refusedMs = new Map<string, number>();
  readonly #max: number;

  /** Remembers `max` refusals at most, the youngest. */
  constructor(max: number) {
    this.#max = max;
  }

  /** True when the name was refused, long enough ago; it is forgotten then. Else it is refused now, unless it is already. */
  isSecond(name: string, nowMs: number): boolean {
    for (const [first, atMs] of this.#refusedMs) {
      if (nowMs - atMs <= LATEST_MS && this.#refusedMs.size < this.#max) break;
      this.#refusedMs.delete(first);
    }
    const atMs = this.#refusedMs.get(name);
    if (atMs === undefined) this.#refusedMs.set(name, nowMs);
    else if (nowMs - atMs >= SOONEST_MS) return this.#refusedMs.delete(name);
    return false;
  }
}
