import fc from "fast-check";
import { expect, test } from "vitest";
import { Deadlines } from "../../../src/core/deadlines.ts";

test("says at every moment what a list would say", () => {
  const item = fc.integer({ min: 0, max: 12 });
  const change = fc.record({ item, atMs: fc.option(fc.integer({ min: 0, max: 20 }), { nil: null }) });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60 }), fc.integer({ min: -1, max: 21 }), (changes, nowMs) => {
      const deadlines = new Deadlines<number>();
      const list = new Map<number, number>();
      for (const { item: changed, atMs } of changes) {
        deadlines.set(changed, atMs);
        if (atMs === null) list.delete(changed);
        else list.set(changed, atMs);
        const first = list.size === 0 ? null : Math.min(...list.values());
        expect([deadlines.size, deadlines.firstMs]).toEqual([list.size, first]);
        expect(deadlines.first === undefined ? null : list.get(deadlines.first)).toBe(first);
      }
      const due = deadlines.due(nowMs);
      const wanted = [...list].filter(([, atMs]) => atMs <= nowMs);
      expect([...due].sort((a, b) => a - b)).toEqual(wanted.map(([one]) => one).sort((a, b) => a - b));
      const times = due.map((one) => list.get(one) ?? 0);
      expect(times).toEqual([...times].sort((a, b) => a - b));
    }),
    { numRuns: 500 },
  );
});
