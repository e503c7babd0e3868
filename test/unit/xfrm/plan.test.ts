import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tunnelReqid } from "../../../src/net/ids.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { NOTHING, plan, type Current, type Step } from "../../../src/xfrm/plan.ts";
import { isOurPolicy, POLICY_PRIORITY, policyKey, type KernelPolicy } from "../../../src/xfrm/policies.ts";
import { hosts, perform, sa, shadow, V } from "./model-kernel.ts";
import { dvipaGuard, joinWanted, outboundId, returnPathOf, shadowOf, type Wanted } from "../../../src/xfrm/shadow.ts";
import { stateKey, type KeyedKernelState, type StateSpec } from "../../../src/xfrm/states.ts";

describe("plan", () => {
  it("reaches what is wanted from whatever there is, touches nothing of others, and then has nothing to do", () => {
    fc.assert(
      fc.property(anyWanted(), anyWanted(), anyForeign(), (first, second, foreign) => {
        for (const wanted of [second, NOTHING]) {
          const before = perform(foreign, plan(foreign, first).steps);
          const steps = plan(before, wanted).steps;
          const after = perform(before, steps);
          expect(plan(after, wanted).steps).toEqual([]);
          for (const state of foreign.states) expect(after.states).toContain(state);
          for (const policy of foreign.policies) expect(after.policies).toContain(policy);
          const live = new Set(foreign.states.map(({ id }) => stateKey(id)));
          for (const { id } of wanted.states) {
            const there = after.states.some((state) => stateKey(state.id) === stateKey(id));
            expect(there || live.has(stateKey(id))).toBe(true);
          }
        }
      }),
    );
  });

  it("never deletes or adds a live key again", () => {
    fc.assert(
      fc.property(anyWanted(), anyWanted(), (first, second) => {
        const before = perform({ states: [], policies: [] }, plan({ states: [], policies: [] }, first).steps);
        const kept = new Set(
          first.states.filter((a) => second.states.some((b) => sameStateAndKey(a, b))).map(({ id }) => stateKey(id)),
        );
        for (const step of plan(before, second).steps) {
          if (step.kind === "deleteState") expect(kept.has(stateKey(step.id))).toBe(false);
          if (step.kind === "addState") expect(kept.has(stateKey(step.state.id))).toBe(false);
        }
      }),
    );
  });

  it("guards come first and go last: at every moment a DVIPA that keeps its guard has it", () => {
    fc.assert(
      fc.property(anyWanted(), anyWanted(), (first, second) => {
        const empty = { states: [], policies: [] };
        let current = perform(empty, plan(empty, first).steps);
        const keys = blocks(first).filter((key) => blocks(second).includes(key));
        for (const step of plan(current, second).steps) {
          current = perform(current, [step]);
          const there = new Set(current.policies.map(policyKey));
          for (const key of keys) expect(there).toContain(key);
        }
      }),
    );
  });

  it("order for a new SA: block, states inbound first, then its policies; the reverse on the way out", () => {
    const wanted = joinWanted(guard(V), shadow(sa(1, 7)));
    const steps = plan({ states: [], policies: [] }, wanted).steps;
    const label = (step: Step): string =>
      "policy" in step ? `${step.kind} ${step.policy.template === null ? "guard" : "sa"}` : step.kind;
    const distinct = (labels: readonly string[]): string[] => labels.filter((text, i) => text !== labels[i - 1]);
    expect(distinct(steps.map(label))).toEqual(["addPolicy guard", "addState", "addPolicy sa"]);
    const added = steps.flatMap((step) => (step.kind === "addState" ? [step.state.allowance.kind] : []));
    expect(added).toEqual(["unlimited", "parked"]);
    const full = perform({ states: [], policies: [] }, steps);
    const away = plan(full, NOTHING).steps.map(label);
    expect(distinct(away)).toEqual(["deletePolicy sa", "deleteState", "deletePolicy guard"]);
  });

  it("an SA policy with the selector of a block takes its place in one step, and gives it back", () => {
    const all = { startAddress: "0.0.0.0", endAddress: "255.255.255.255", protocol: 0, startPort: 0, endPort: 65535 };
    const wide: SharedSa = { ...sa(1, 7), mode: "tunnel", remoteSelectors: [all] };
    const both = joinWanted(guard(V), shadow(wide));
    const guarded = perform({ states: [], policies: [] }, plan({ states: [], policies: [] }, guard(V)).steps);
    const steps = plan(guarded, both).steps;
    expect(steps.filter(({ kind }) => kind === "updatePolicy")).toHaveLength(2);
    const back = plan(perform(guarded, steps), guard(V)).steps;
    expect(back.map(({ kind }) => kind)).toEqual(["updatePolicy", "updatePolicy", "deleteState", "deleteState"]);
  });

  it("a reused SPI with another key replaces the old SA; a live key under another reqid is a conflict", () => {
    const old = perform({ states: [], policies: [] }, plan({ states: [], policies: [] }, shadow(sa(1, 7))).steps);
    const reused = plan(old, shadow(sa(1, 8))).steps.map(({ kind }) => kind);
    expect(reused).toEqual(["deleteState", "addState", "deleteState", "addState"]);
    const moved = plan(old, shadow({ ...sa(1, 7), reqid: tunnelReqid(9) }));
    expect(moved.conflicts.map(({ why }) => why)).toEqual(Array(2).fill(expect.stringContaining("another reqid")));
    expect(moved.steps.every(({ kind }) => kind.endsWith("Policy"))).toBe(true);
  });

  it("in UDP: the outbound state alone; another port changes it in place, a UDP header more or less is a conflict", () => {
    const inUdp = (peerUdpPort: number | null): Wanted => shadow({ ...sa(1, 7), peerUdpPort });
    const full = perform({ states: [], policies: [] }, plan({ states: [], policies: [] }, inUdp(40_000)).steps);
    const ports = ({ states }: Current): unknown[] => states.map(({ encapsulation }) => encapsulation);
    expect(ports(full)).toEqual([null, { sourcePort: 4500, destinationPort: 40_000 }]);
    expect(plan(full, inUdp(40_000))).toEqual({ steps: [], conflicts: [] });
    const { steps } = plan(full, inUdp(40_001));
    expect(steps.map(({ kind }) => kind)).toEqual(["movePorts"]);
    expect(ports(perform(full, steps))).toEqual([null, { sourcePort: 4500, destinationPort: 40_001 }]);
    expect(plan(full, inUdp(null))).toMatchObject({
      steps: [],
      conflicts: [{ why: expect.stringContaining("encapsulation") as string }],
    });
    const bare = perform({ states: [], policies: [] }, plan({ states: [], policies: [] }, inUdp(null)).steps);
    expect(plan(bare, inUdp(40_000))).toMatchObject({ steps: [], conflicts: [{}] });
  });

  it("a state that is never to be added is kept while it is there, not put back, and removed when nobody wants it", () => {
    const wanted = shadow(sa(1, 7));
    const neverAdd = new Set([stateKey(outboundId(sa(1, 7)))]);
    const kinds = (current: Current, wish: Wanted): string[] =>
      plan(current, wish, { neverAdd }).steps.map(({ kind }) => kind);
    const full = perform({ states: [], policies: [] }, plan({ states: [], policies: [] }, wanted).steps);
    expect(kinds(full, wanted)).toEqual([]);
    expect(kinds({ ...full, states: [] }, wanted)).toEqual(["addState"]);
    expect(kinds(full, shadow(sa(1, 8)))).toEqual(["deleteState", "addState", "deleteState"]);
    expect(kinds(full, { ...NOTHING, policies: wanted.policies })).toEqual(["deleteState", "deleteState"]);
  });

  it("larval states of ours are removed by their own step", () => {
    const [outbound] = perform(
      { states: [], policies: [] },
      plan({ states: [], policies: [] }, shadow(sa(1, 7))).steps,
    ).states;
    if (outbound === undefined) throw new Error("no state");
    const larval = { ...outbound, id: { ...outbound.id, spi: 0 }, keyed: null };
    expect(plan({ states: [larval], policies: [] }, NOTHING).steps.map(({ kind }) => kind)).toEqual(["deleteLarval"]);
  });
});

describe("shadow", () => {
  it("holds the outbound state back until told", () => {
    const { states, policies } = shadowOf(sa(1, 7), { outbound: null });
    expect(states.map(({ id }) => id.destination)).toEqual([V]);
    expect(policies.map(({ direction }) => direction).sort()).toEqual(["in", "out"]);
  });

  it("a distributor that filters forwards what comes out of its tunnels, and its targets take that by a mark", () => {
    const tunnel = { ...sa(1, 7), mode: "tunnel" } as const;
    const directions = (routesOn: boolean): string[] =>
      shadowOf(tunnel, { outbound: null, routesOn }).policies.map(({ direction }) => direction);
    expect([directions(true), directions(false)]).toEqual([
      ["out", "in", "fwd"],
      ["out", "in"],
    ]);
    const marked = dvipaGuard(V, "target").filter(({ action }) => action === "allow");
    const [icmp, handedOver] = marked;
    expect(marked).toHaveLength(2);
    expect(icmp).toMatchObject({ direction: "in", mark: 0x4553fffe, selector: { protocol: 1 } });
    expect(handedOver).toMatchObject({ direction: "in", mark: 0x4553ffff, selector: { protocol: 6 } });
    // Beside a policy without a mark, not in its place.
    expect(policyKey({ ...defined(handedOver), mark: undefined })).not.toBe(policyKey(defined(handedOver)));
  });

  it("an SA that ends at its distributor has that address, and hands over what comes out of it", () => {
    const one: SharedSa = { ...sa(1, 7), mode: "tunnel", gateway: "192.0.2.1" };
    const { states, policies } = shadow(one);
    expect(states.map(({ source, id }) => [source, id.destination])).toEqual([
      [one.peer, "192.0.2.1"],
      ["192.0.2.1", one.peer],
    ]);
    expect(policies.map(({ direction, template }) => [direction, template?.endpoints?.source])).toEqual([
      ["out", "192.0.2.1"],
      ["in", one.peer],
      ["fwd", one.peer],
    ]);
  });

  it("its targets have no state of it, and send TCP in clear where it leads, nothing else", () => {
    const one: SharedSa = { ...sa(1, 7), mode: "tunnel", gateway: "192.0.2.1" };
    const { states, policies } = returnPathOf(one);
    expect(states).toEqual([]);
    expect(policies).toMatchObject([{ direction: "out", action: "allow", template: null, selector: { protocol: 6 } }]);
    const [local] = one.localSelectors;
    const udp = { ...one, localSelectors: local === undefined ? [] : [{ ...local, protocol: 17 }] };
    expect(returnPathOf(udp).policies).toEqual([]);
    const foreign = { ...one, localSelectors: [hosts("192.0.2.101")] };
    expect(() => returnPathOf(foreign)).toThrow(expect.objectContaining({ code: "wire.unsupported" }) as Error);
  });

  it("a tunnel has a fwd policy only where inner packets are routed on", () => {
    const behind = { startAddress: "10.1.0.0", endAddress: "10.1.255.255", protocol: 0, startPort: 0, endPort: 65535 };
    const directions = (one: SharedSa): string[] => shadow(one).policies.map(({ direction }) => direction);
    expect(directions({ ...sa(1, 7), mode: "tunnel" })).toEqual(["out", "in"]);
    expect(directions({ ...sa(1, 7), mode: "tunnel", localSelectors: [behind] })).toEqual(["out", "in", "fwd"]);
  });

  it("every policy is recognised as ours, narrower ones first, blocks last", () => {
    const { policies } = joinWanted(guard(V), shadow(sa(1, 7)));
    for (const policy of policies) expect(isOurPolicy({ ...policy, index: 1, isForeign: false })).toBe(true);
    const wide = shadow({ ...sa(1, 7), remoteSelectors: [{ ...hosts("198.51.100.0"), endAddress: "198.51.100.255" }] });
    const narrow = shadow({ ...sa(1, 7), remoteSelectors: [hosts("198.51.100.1")] });
    expect(narrow.policies[0]?.priority).toBeLessThan(wide.policies[0]?.priority ?? 0);
    expect(Math.max(...wide.policies.map(({ priority }) => priority))).toBeLessThan(POLICY_PRIORITY.block);
  });

  it("exempts forwarded ESP and IKE at the distributor only, and what each node marks", () => {
    const allowed = (role: "distributor" | "target"): string[] =>
      dvipaGuard(V, role)
        .filter(({ action }) => action === "allow")
        .map(policyKey);
    const icmpErrors = "in 0.0.0.0/0 → 192.0.2.100/32 proto 1 mark 0x4553fffe";
    expect(allowed("target")).toEqual([icmpErrors, "in 0.0.0.0/0 → 192.0.2.100/32 proto 6 mark 0x4553ffff"]);
    expect(allowed("distributor")).toEqual([
      icmpErrors,
      "fwd 192.0.2.100/32 → 0.0.0.0/0 proto 6 mark 0x4553fffd",
      "fwd 0.0.0.0/0 → 192.0.2.100/32 proto 1",
      "out 192.0.2.100/32 → 192.0.2.100/32 proto 1",
      "out 192.0.2.100/32 port 500 → 0.0.0.0/0 proto 17",
      "in 0.0.0.0/0 → 192.0.2.100/32 port 500 proto 17",
      "out 192.0.2.100/32 port 4500 → 0.0.0.0/0 proto 17",
      "in 0.0.0.0/0 → 192.0.2.100/32 port 4500 proto 17",
      "fwd 0.0.0.0/0 → 192.0.2.100/32 proto 50",
      "fwd 192.0.2.100/32 → 0.0.0.0/0 proto 50",
      "fwd 0.0.0.0/0 → 192.0.2.100/32 proto 51",
      "fwd 192.0.2.100/32 → 0.0.0.0/0 proto 51",
      "fwd 192.0.2.100/32 port 4500 → 0.0.0.0/0 proto 17",
    ]);
    expect(dvipaGuard("2001:DB8:0::100", "distributor").map(policyKey)).toContain(
      "out 2001:db8::100/128 port 135 → ::/0 proto 58",
    );
  });

  it("outbound states run on leases, inbound ones have a window", () => {
    const one = sa(1, 7);
    const states = shadow({ ...one, esn: true, inboundWindowPackets: 4096 }).states;
    expect(states.map(({ replayWindowPackets, allowance }) => [replayWindowPackets, allowance.kind])).toEqual([
      [4096, "unlimited"],
      [32, "parked"],
    ]);
    expect(states[1]?.id).toEqual(outboundId(one));
  });
});

/** SA number n, with keys made from `key`. */
function guard(dvipa: string): Wanted {
  return { states: [], policies: dvipaGuard(dvipa, "distributor") };
}

/** Tiny numbers, so that SPIs, keys and DVIPAs meet often. */
function anyWanted(): fc.Arbitrary<Wanted> {
  const one = fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 2 }), fc.boolean(), fc.boolean());
  const sas = fc.uniqueArray(one, { selector: ([n]) => n, maxLength: 4 });
  return fc.tuple(sas, fc.boolean()).map(([list, isGuarded]) => {
    const shadows = list.map(([n, key, isTunnel, isHeld]) => {
      const known: SharedSa = { ...sa(n, key), mode: isTunnel ? "tunnel" : "transport" };
      return isHeld ? shadowOf(known, { outbound: null }) : shadow(known);
    });
    return joinWanted(...(isGuarded ? [guard(V)] : []), ...shadows);
  });
}

/** Somebody else's states and policies, some with names that we want. */
function anyForeign(): fc.Arbitrary<Current> {
  const state = fc.integer({ min: 1, max: 6 }).map((n): KeyedKernelState => {
    const { states } = perform(
      { states: [], policies: [] },
      plan({ states: [], policies: [] }, shadow(sa(n, 9))).steps,
    );
    const [inbound] = states;
    if (inbound === undefined) throw new Error("no state");
    return { ...inbound, reqid: 7 };
  });
  const policy = fc.integer({ min: 1, max: 6 }).map((n): KernelPolicy => {
    const [first] = shadow(sa(n, 9)).policies;
    if (first === undefined) throw new Error("no policy");
    return { ...first, priority: 1000, index: n, isForeign: false };
  });
  return fc.record({
    states: fc.uniqueArray(state, { selector: ({ id }) => stateKey(id), maxLength: 3 }),
    policies: fc.uniqueArray(policy, { selector: policyKey, maxLength: 3 }),
  });
}

function sameStateAndKey(a: StateSpec, b: StateSpec): boolean {
  return stateKey(a.id) === stateKey(b.id) && a.encryptionKey.equals(b.encryptionKey);
}

function blocks({ policies }: Wanted): string[] {
  return policies.filter(({ action }) => action === "block").map(policyKey);
}

function defined<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("nothing there");
  return value;
}
