import { LatencyHistogram } from "../../core/latency-histogram.ts";
import type { HolderEffect, HolderEvent } from "../../sequence/holder-events.ts";

const US_PER_MS = 1000;

/** How long refills take, from the event that made the holder ask to more numbers in the kernel. */
export interface RefillLatency {
  /** Since the start. */
  readonly samples: number;
  /** Of the last few thousand: microseconds, rounded up by at most 1/8; null without samples. */
  readonly p50us: number | null;
  readonly p99us: number | null;
}

/**
 * Measures the refills of one SA. T99, the 99th percentile, bounds the packets a second that a lease of L numbers carries without
 * a stop: (L - what is left of it when the refill is asked for) / T99 is the rate at which the rest lasts for one refill.
 * Only a holder's refills are measured: nobody sends while it has nothing. After a refusal the repetition is.
 */
export class RefillClock {
  readonly #histogram = new LatencyHistogram();
  /** When the event came that made the holder ask; null while nothing is asked for. */
  #askedAtMs: number | null = null;
  /** The same of the numbers that were granted and are on their way to the kernel. */
  #installingSinceMs: number | null = null;

  /** After each step of the holder: what happened, what is to be done, and whether it holds a lease now. */
  stepped({ kind, nowMs }: HolderEvent, effects: readonly HolderEffect[], isHeld: boolean): void {
    const kinds = new Set(effects.map((effect) => effect.kind));
    if (kinds.has("install") || kinds.has("extend")) {
      this.#installingSinceMs = this.#askedAtMs;
      this.#askedAtMs = null;
    }
    if (!isHeld) this.#askedAtMs = this.#installingSinceMs = null;
    else if (kind === "refused") this.#askedAtMs = null;
    else if (kinds.has("reserve")) this.#askedAtMs ??= nowMs;
  }

  /** The kernel has the numbers. */
  applied(nowMs: number): void {
    if (this.#installingSinceMs !== null) this.#histogram.record((nowMs - this.#installingSinceMs) * US_PER_MS);
    this.#installingSinceMs = null;
  }

  latency(): RefillLatency {
    const { samples } = this.#histogram;
    return { samples, p50us: this.#histogram.quantileUs(0.5), p99us: this.#histogram.quantileUs(0.99) };
  }
}
