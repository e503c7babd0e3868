import type { Clock } from "../core/clock.ts";
import type { Counters } from "../core/counters.ts";

/** Limits of the queue; all our choice. What it does not take goes on as if there were nothing to wait for. */
export interface HoldingLimits {
  readonly maxPerKey: number;
  readonly max: number;
  readonly maxMs: number;
}

const HOLDING_LIMITS: HoldingLimits = { maxPerKey: 256, max: 1024, maxMs: 1_000 };

/**
 * Packets that came a moment too early: each waits, in order, until what it waits for has happened, or for so long at most.
 * `name` makes the counters: `steer.<name>` of those that waited, `steer.<name>Full` of those for whom there was no room.
 */
export class HoldingQueue {
  readonly #name: string;
  readonly #clock: Clock;
  readonly #counters: Counters;
  readonly #limits: HoldingLimits;
  readonly #waiting = new Map<string, (() => void)[]>();
  #count = 0;

  constructor(name: string, clock: Clock, counters: Counters, limits: HoldingLimits = HOLDING_LIMITS) {
    this.#name = name;
    this.#clock = clock;
    this.#counters = counters;
    this.#limits = limits;
  }

  /**
   * Calls `goOn` once: when `event` has settled, well or badly, or when the time is over; at once when there is no room. All packets
   * of one key wait for the event of the first.
   */
  hold(key: string, event: () => Promise<void>, goOn: () => void): void {
    const known = this.#waiting.get(key);
    if (this.#count >= this.#limits.max || (known?.length ?? 0) >= this.#limits.maxPerKey) {
      this.#counters.add(`steer.${this.#name}Full`);
      goOn();
      return;
    }
    this.#counters.add(`steer.${this.#name}`);
    this.#count += 1;
    if (known !== undefined) {
      known.push(goOn);
      return;
    }
    const waiting = [goOn];
    this.#waiting.set(key, waiting);
    const release = (): void => {
      timer.cancel();
      if (this.#waiting.get(key) === waiting) this.#release(key, waiting);
    };
    const timer = this.#clock.after(this.#limits.maxMs, release);
    event().then(release, release);
  }

  isHolding(key: string): boolean {
    return this.#waiting.has(key);
  }

  #release(key: string, waiting: readonly (() => void)[]): void {
    this.#waiting.delete(key);
    this.#count -= waiting.length;
    for (const goOn of waiting) goOn();
  }
}
