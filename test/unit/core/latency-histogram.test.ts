import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LatencyHistogram } from "../../../src/core/latency-histogram.ts";

const filled = (values: readonly number[]): LatencyHistogram => {
  const histogram = new LatencyHistogram();
  for (const value of values) histogram.record(value);
  return histogram;
};

describe("latency histogram", () => {
  it("knows nothing before the first sample", () => {
    expect(new LatencyHistogram().quantileUs(0.5)).toBeNull();
    expect(new LatencyHistogram().samples).toBe(0);
  });

  it("tells quantiles that are never below the true ones, and at most an eighth and 1 µs above", () => {
    const latency = fc.double({ min: 0, max: 15_000_000, noNaN: true });
    const part = fc.double({ min: 0.01, max: 1, noNaN: true });
    fc.assert(
      fc.property(fc.array(latency, { minLength: 1, maxLength: 200 }), part, (values, wanted) => {
        const sorted = [...values].sort((a, b) => a - b);
        const exact = sorted[Math.max(0, Math.ceil(wanted * sorted.length) - 1)] ?? NaN;
        const told = filled(values).quantileUs(wanted) ?? NaN;
        expect(told).toBeGreaterThanOrEqual(exact);
        expect(told).toBeLessThanOrEqual(exact * 1.125 + 1);
      }),
    );
  });

  it("tells the 99th percentile apart from the middle", () => {
    const histogram = filled([...Array<number>(97).fill(100), 5000, 5000, 5000]);
    expect(histogram.quantileUs(0.5)).toBe(104);
    expect(histogram.quantileUs(0.99)).toBe(5120);
    expect(histogram.samples).toBe(100);
  });

  it("puts what is too long into the last bucket, and nothing below the first", () => {
    expect(filled([1e12]).quantileUs(1)).toBe(15 * 2 ** 20);
    expect(filled([-3]).quantileUs(1)).toBe(1);
  });

  it("lets old samples fade", () => {
    const histogram = filled(Array<number>(8192).fill(10_000));
    for (let i = 0; i < 6 * 8192; i++) histogram.record(100);
    expect(histogram.quantileUs(0.99)).toBe(104);
    expect(histogram.samples).toBe(7 * 8192);
  });
});
