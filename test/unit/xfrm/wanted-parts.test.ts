import fc from "fast-check";
import { expect, it } from "vitest";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { plan, type Current } from "../../../src/xfrm/plan.ts";
import { policyKey } from "../../../src/xfrm/policies.ts";
import { dvipaGuard, type Wanted } from "../../../src/xfrm/shadow.ts";
import { stateKey } from "../../../src/xfrm/states.ts";
import { WantedParts, type Change } from "../../../src/xfrm/wanted-parts.ts";
import { perform, sa, shadow, V } from "./model-kernel.ts";

const EMPTY: Current = { states: [], policies: [] };
const DISTRIBUTOR: Wanted = { states: [], policies: dvipaGuard(V, "distributor") };
const TARGET: Wanted = { states: [], policies: dvipaGuard(V, "target") };

/** What the reconciler sees of the kernel when it looks at a change. */
function lookAt({ states, policies }: Current, { wanted, gone }: Change): Current {
  const stateKeys = new Set([...wanted.states.map(({ id }) => id), ...gone.states].map(stateKey));
  const policyKeys = new Set([...wanted.policies, ...gone.policies].map(policyKey));
  return {
    states: states.filter(({ id }) => stateKeys.has(stateKey(id))),
    policies: policies.filter((policy) => policyKeys.has(policyKey(policy))),
  };
}

/** An SA that replaces number `n`: other SPIs and keys, the same selectors and reqid. */
function rekeyed(n: number): SharedSa {
  const old = sa(n, 1);
  const { inbound, outbound } = sa(n + 50, 2);
  return { ...old, inbound, outbound };
}

it("change by change the kernel gets to where a plan over everything has nothing to do", () => {
  const part = fc.integer({ min: 1, max: 3 });
  const step = fc.record({
    part: fc.oneof(
      part.map((n) => ({ name: `sa ${n}`, wanted: shadow(sa(n, 1)) })),
      part.map((n) => ({ name: `rekeyed ${n}`, wanted: shadow(rekeyed(n)) })),
      fc.constantFrom({ name: "own", wanted: DISTRIBUTOR }, { name: "other", wanted: TARGET }),
    ),
    isGone: fc.boolean(),
    /** The kernel gets it now; else together with the next. */
    isApplied: fc.boolean(),
    fails: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      const parts = new WantedParts();
      let kernel = EMPTY;
      const apply = (): void => {
        const change = parts.takeChange();
        kernel = perform(kernel, plan(lookAt(kernel, change), change.wanted).steps);
      };
      for (const { part: one, isGone, isApplied, fails } of steps) {
        parts.set(one.name, isGone ? null : one.wanted);
        if (fails) parts.putBack(parts.takeChange());
        if (isApplied) apply();
      }
      apply();
      expect(parts.changes).toBe(0);
      expect(plan(kernel, parts.takeAll()).steps).toEqual([]);
    }),
  );
});

it("a change names what one SA is made of, however many there are", () => {
  const parts = new WantedParts();
  for (let n = 1; n <= 200; n++) parts.set(`sa ${n}`, shadow(sa(n, 1)));
  expect(parts.size).toBe(200 * 4);
  parts.takeAll();
  parts.set("sa 7", null);
  const { wanted, gone } = parts.takeChange();
  expect([wanted.states.length + wanted.policies.length, gone.states.length, gone.policies.length]).toEqual([0, 2, 2]);
  parts.set("sa 7", shadow(sa(7, 1)));
  expect(parts.changes).toBe(4);
});
