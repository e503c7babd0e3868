/** Buckets per doubling: a quantile is told at most 1/8 too high. Our choice. */
const STEPS = 8;
/** Doublings from 8 µs on: the last bucket takes everything from 15.7 s on. Our choice. */
const DOUBLINGS = 21;
const BUCKETS = STEPS * (DOUBLINGS + 1);
/** From so many samples on the older ones fade: all counts are halved. Our choice. */
const FADE_SAMPLES = 8192;

/**
 * How long something takes, in microseconds: 176 counters whose widths grow with the value (below 8 µs one each, above that
 * eight per doubling), so that a quantile costs no memory per sample. Old samples fade, for who asks wants to know of now.
 */
export class LatencyHistogram {
  readonly #counts = new Float64Array(BUCKETS);
  #weight = 0;
  #samples = 0;

  /** How many were recorded since the start, faded ones included. */
  get samples(): number {
    return this.#samples;
  }

  /** Takes one latency; a negative one counts as 0. */
  record(us: number): void {
    const index = bucketOf(us);
    this.#counts[index] = (this.#counts[index] ?? 0) + 1;
    this.#weight += 1;
    this.#samples += 1;
    if (this.#weight >= FADE_SAMPLES) this.#fade();
  }

  /** The latency that this part (0 to 1) of the samples did not exceed, rounded up to its bucket's end; null without samples. */
  quantileUs(part: number): number | null {
    let left = part * this.#weight;
    for (let index = 0; index < BUCKETS; index++) {
      left -= this.#counts[index] ?? 0;
      if (left <= 0 && (this.#counts[index] ?? 0) > 0) return endOf(index);
    }
    return null;
  }

  #fade(): void {
    this.#weight /= 2;
    for (let index = 0; index < BUCKETS; index++) this.#counts[index] = (this.#counts[index] ?? 0) / 2;
  }
}

function bucketOf(us: number): number {
  const whole = Math.max(0, Math.floor(us));
  if (whole < STEPS) return whole;
  const doublings = Math.floor(Math.log2(whole / STEPS));
  const step = Math.floor(whole / 2 ** doublings) - STEPS;
  return Math.min(BUCKETS - 1, STEPS * (doublings + 1) + step);
}

/** The first whole microsecond beyond the bucket; of the last one, its start. */
function endOf(index: number): number {
  if (index < STEPS) return index + 1;
  const doublings = Math.floor(index / STEPS) - 1;
  const isLast = index === BUCKETS - 1;
  return (STEPS + (index % STEPS) + (isLast ? 0 : 1)) * 2 ** doublings;
}
