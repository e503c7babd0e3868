import { expect, test } from "vitest";
import { RateLimit } from "../../../src/core/rate-limit.ts";

test("allows so many events a second, and again as many in the next one", () => {
  const limit = new RateLimit(2);
  expect([0, 1, 2, 999].map((nowMs) => limit.take(nowMs))).toEqual([true, true, false, false]);
  expect([1000, 1001, 1002].map((nowMs) => limit.take(nowMs))).toEqual([true, true, false]);
  expect(limit.take(9000)).toBe(true);
});
