/** What one measurement gives. */
export interface Cell {
  /** Calls a second. */
  readonly ops: number;
  readonly p50us: number;
  readonly p99us: number;
}

/** One call of one caller; resolves when it has its answer. */
export type Call = (caller: number) => Promise<void>;

/** Runs `callers` loops that each have one call outstanding, and measures those that start after the warm-up. */
export async function measure(call: Call, callers: number, warmUpMs: number, lengthMs: number): Promise<Cell> {
  const startMs = performance.now() + warmUpMs;
  const endMs = startMs + lengthMs;
  const latenciesMs: number[] = [];
  const loop = async (caller: number): Promise<void> => {
    for (let beforeMs = performance.now(); beforeMs < endMs;) {
      await call(caller);
      const afterMs = performance.now();
      if (beforeMs >= startMs && afterMs <= endMs) latenciesMs.push(afterMs - beforeMs);
      beforeMs = afterMs;
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, caller) => loop(caller)));
  const sorted = Float64Array.from(latenciesMs).sort();
  const percentileUs = (part: number): number => round((sorted[Math.floor(part * sorted.length)] ?? NaN) * 1000);
  return {
    ops: Math.round(sorted.length / (lengthMs / 1000)),
    p50us: percentileUs(0.5),
    p99us: percentileUs(0.99),
  };
}

/** The middle of several values; the upper one of two. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}

/** Largest minus smallest, as a part of the median. */
export function spread(values: readonly number[]): number {
  return round((Math.max(...values) - Math.min(...values)) / median(values), 100);
}

/** Rounds to a `steps`-th; to a tenth unless told otherwise. */
export function round(value: number, steps = 10): number {
  return Math.round(value * steps) / steps;
}
