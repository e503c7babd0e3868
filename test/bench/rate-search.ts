/** What one run at a rate came to. */
export interface RateRun {
  /** Packets a second that were really sent. */
  readonly pps: number;
  readonly passed: boolean;
}

export interface RateSearch {
  readonly firstPps: number;
  /** From here on the sender is not paced: it sends as fast as it can. */
  readonly ceilingPps: number;
  /** The search ends when the lowest rate that failed is at most this much above the highest one that passed, as a part of it. */
  readonly precision: number;
}

/** Below this no rate is looked for, packets a second. */
const LEAST_PPS = 10;

/**
 * The highest rate at which `run` passes, as it was really sent: doubling until it fails, then bisection of the ratio. `null` asks for
 * as fast as it goes. Null when nothing passes.
 */
export async function highestRate<R extends RateRun>(
  { firstPps, ceilingPps, precision }: RateSearch,
  run: (pps: number | null) => Promise<R>,
): Promise<R | null> {
  let best: R | null = null;
  let passedPps = 0;
  let failedPps = Infinity;
  for (let pps = firstPps; failedPps > passedPps * (1 + precision) && pps >= LEAST_PPS; pps = next()) {
    const result = await run(pps >= ceilingPps ? null : pps);
    if (!result.passed) {
      failedPps = pps;
      continue;
    }
    passedPps = pps;
    if (best === null || result.pps > best.pps) best = result;
    if (pps >= ceilingPps) break;
  }
  return best;

  function next(): number {
    if (failedPps === Infinity) return passedPps * 2;
    return passedPps === 0 ? failedPps / 2 : Math.sqrt(passedPps * failedPps);
  }
}
