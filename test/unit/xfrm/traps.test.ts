import { describe, expect, it } from "vitest";
import { hasOurPrefix, TRAP_REQID, tunnelReqid } from "../../../src/net/ids.ts";
import { isOurPolicy, POLICY_PRIORITY, policyKey } from "../../../src/xfrm/policies.ts";
import { NOTHING, plan, type Current } from "../../../src/xfrm/plan.ts";
import { dvipaGuard, shadowOf, trapPolicies, type Trap } from "../../../src/xfrm/shadow.ts";
import { sampleSa } from "../sa/esp-builder.ts";

const sa = { ...sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport"), reqid: tunnelReqid(1) };
const trap: Trap = {
  ...{ dvipa: sa.dvipa, peer: sa.peer, mode: "transport" as const },
  ...{ local: sa.localSelectors, remote: sa.remoteSelectors },
};
const of = (policies: Current["policies"][number][]): Current => ({ states: [], policies });
const inKernel = (wanted: ReturnType<typeof trapPolicies>): Current =>
  of(wanted.map((policy, index) => ({ ...policy, index, isForeign: false })));

describe("policies that wait for an SA", () => {
  it("let nothing out without one: each asks for a state that nobody has", () => {
    const policies = trapPolicies(trap);
    expect(policies.length).toBeGreaterThan(0);
    for (const { direction, template } of policies) {
      expect(direction).toBe("out");
      expect(template).toMatchObject({ mode: "transport", reqid: TRAP_REQID, endpoints: null });
    }
    expect(hasOurPrefix(TRAP_REQID)).toBe(true);
    expect(TRAP_REQID).not.toBe(tunnelReqid(1));
    expect(trapPolicies({ ...trap, mode: "tunnel" })[0]?.template?.endpoints).toEqual({
      source: sa.dvipa,
      destination: sa.peer,
    });
  });

  it("come after every SA's and before the guard", () => {
    const [policy] = trapPolicies(trap);
    expect(policy?.priority).toBeGreaterThan(POLICY_PRIORITY.sa + POLICY_PRIORITY.saSpan);
    const blocks = dvipaGuard(sa.dvipa, "target").filter(({ action }) => action === "block");
    expect(blocks).toHaveLength(4);
    for (const block of blocks) expect(block.priority).toBeGreaterThan(policy?.priority ?? 0);
  });

  it("give way to those of the SA, whatever the order, and take their place again", () => {
    const traps = trapPolicies(trap);
    const shadow = shadowOf(sa, { outbound: null });
    const key = policyKey(traps[0] ?? expect.fail());
    expect(shadow.policies.map(policyKey)).toContain(key);
    for (const both of [
      [...traps, ...shadow.policies],
      [...shadow.policies, ...traps],
    ]) {
      const { steps } = plan(inKernel(traps), { states: [], policies: both });
      const updated = steps.flatMap((step) => (step.kind === "updatePolicy" ? [step.policy.template?.reqid] : []));
      expect(updated).toEqual([sa.reqid]);
    }
    const back = plan(inKernel(shadow.policies.filter((policy) => policyKey(policy) === key)), {
      states: [],
      policies: traps,
    });
    expect(back.steps).toEqual([{ kind: "updatePolicy", policy: traps[0] }]);
  });

  it("are ours, and go with us", () => {
    const kernel = inKernel(trapPolicies(trap));
    expect(kernel.policies.every(isOurPolicy)).toBe(true);
    expect(plan(kernel, NOTHING).steps.map(({ kind }) => kind)).toEqual(kernel.policies.map(() => "deletePolicy"));
  });
});
