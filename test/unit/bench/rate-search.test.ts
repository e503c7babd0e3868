import { describe, expect, it } from "vitest";
import { highestRate, type RateRun } from "../../bench/rate-search.ts";

const CEILING_PPS = 50_000;
const SEARCH = { firstPps: 500, ceilingPps: CEILING_PPS, precision: 0.1 };

/** A sender that is stopped above `limitPps`, and reaches the ceiling unpaced. */
function senderWith(limitPps: number): { asked: (number | null)[]; run: (pps: number | null) => Promise<RateRun> } {
  const asked: (number | null)[] = [];
  return {
    asked,
    run: (pps) => {
      asked.push(pps);
      const sent = pps ?? CEILING_PPS;
      return Promise.resolve({ pps: sent, passed: sent <= limitPps });
    },
  };
}

describe("highestRate", () => {
  it.each([501, 700, 4_321, 16_000, 49_000])(
    "finds %d packets a second within the precision, from below",
    async (limit) => {
      const { run } = senderWith(limit);
      const best = await highestRate(SEARCH, run);
      expect(best?.pps).toBeLessThanOrEqual(limit);
      expect(best?.pps).toBeGreaterThan(limit / 1.1);
    },
  );

  it("goes below its first rate when that fails", async () => {
    const best = await highestRate(SEARCH, senderWith(60).run);
    expect(best?.pps).toBeLessThanOrEqual(60);
    expect(best?.pps).toBeGreaterThan(60 / 1.1);
  });

  it("lets the sender go as fast as it can from the ceiling on, and no further", async () => {
    const { asked, run } = senderWith(Infinity);
    const best = await highestRate(SEARCH, run);
    expect(best?.pps).toBe(CEILING_PPS);
    expect(asked.at(-1)).toBeNull();
    expect(asked.filter((pps) => pps === null)).toHaveLength(1);
  });

  it("ends when nothing passes", async () => {
    expect(await highestRate(SEARCH, senderWith(0).run)).toBeNull();
  });
});
