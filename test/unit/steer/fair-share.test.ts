import fc from "fast-check";
import { expect, it } from "vitest";
import { FairShare } from "../../../src/steer/fair-share.ts";

it("knows who has the most, and everybody's oldest, whatever comes and goes", () => {
  const step = fc.record({
    owner: fc.constantFrom("a", "b", "c"),
    entry: fc.integer({ min: 1, max: 5 }),
    adds: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const share = new FairShare();
      const model = new Map<string, string[]>();
      for (const { owner, entry, adds } of steps) {
        const name = `${owner}${entry}`;
        const entries = model.get(owner) ?? [];
        if (!adds) share.remove(owner, name);
        else share.add(owner, name);
        const without = entries.filter((one) => one !== name);
        model.set(owner, !adds ? without : entries.includes(name) ? entries : [...entries, name]);
        const most = Math.max(...[...model.values()].map(({ length }) => length));
        expect(share.most).toBe(most);
        for (const one of ["a", "b", "c"]) {
          expect(share.countOf(one)).toBe(model.get(one)?.length ?? 0);
          expect(share.oldestOf(one)).toBe(model.get(one)?.[0] ?? null);
        }
        const oldest = [...model.values()].filter(({ length }) => length === most && most > 0).map(([first]) => first);
        if (most === 0) expect(share.oldestOfTheMost()).toBeNull();
        else expect(oldest).toContain(share.oldestOfTheMost());
      }
    }),
  );
});
