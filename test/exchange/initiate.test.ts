import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { EXCHANGE } from "../../src/ike/wire/constants.ts";
import { WIRE_LIMITS } from "../../src/ike/wire/limits.ts";
import { CBC_SUITE, ESP_CBC, GCM_SUITE, Lab, MODP_SUITE, peerConfig, psk } from "./lab.ts";
import { World, type End } from "./two-cores.ts";

/** Against a hang: 300 runs take three seconds. */
const PROPERTY_LIMIT_MS = 120_000;

const initiate = { kind: "initiate", peerName: "b", dvipa: null } as const;

function reach(world: World): void {
  world.command(world.a, initiate);
  world.flush();
}

describe("we reach a peer", () => {
  for (const mode of ["transport", "tunnel"] as const) {
    test(`${mode} mode: IKE_SA_INIT, IKE_AUTH, and both have the same SA`, () => {
      const world = new World({ a: { initiate: { start: "none", dvipa: null, mode } } });
      reach(world);
      expect(world.disagreements()).toEqual([]);
      expect(world.a.up).toHaveLength(1);
      expect([...world.a.kernel.values()]).toMatchObject([{ outbound: "now", sa: { mode } }]);
      expect([...world.b.kernel.values()]).toMatchObject([{ outbound: "now", sa: { mode } }]);
    });
  }

  test("subnets behind the peer, in tunnel mode", () => {
    const remoteSubnets = ["10.1.0.0/16"];
    const world = new World({ a: { remoteSubnets, initiate: { start: "none", dvipa: null, mode: "tunnel" } } });
    reach(world);
    // The peer's core allows its own address only: what it does not allow is refused, and nothing is left.
    expect(world.a.up).toHaveLength(0);
    expect(world.a.counts.get("ike.initiateFailed")).toBe(1);
  });

  for (const suite of [CBC_SUITE, GCM_SUITE, MODP_SUITE]) {
    test(`a peer that takes group ${suite.group} only: INVALID_KE_PAYLOAD is followed`, () => {
      const world = new World({ b: { ikeSuites: [suite], espSuites: [ESP_CBC] } });
      reach(world);
      expect(world.disagreements()).toEqual([]);
      expect([...world.a.kernel.values()]).toMatchObject([{ sa: { suite: ESP_CBC } }]);
    });
  }

  test("IKE_SA_INIT is one packet, whatever the link and the group", () => {
    const world = new World({ a: { ikeSuites: null }, b: { ikeSuites: [{ ...GCM_SUITE, group: 16 }] } });
    world.command(world.a, initiate);
    for (const group of [31, 16]) {
      const { header, payloads } = decodeMessage(world.wire[0]?.bytes ?? new Uint8Array());
      expect(header.exchange).toBe(EXCHANGE.IKE_SA_INIT);
      expect(payloads.find(({ kind }) => kind === "ke")).toMatchObject({ group });
      expect(world.wire[0]?.bytes.length).toBeLessThanOrEqual(WIRE_LIMITS.unfragmentedBytes);
      world.deliver(0);
      world.deliver(0);
    }
    world.flush();
    expect(world.disagreements()).toEqual([]);
    expect(world.a.up).toHaveLength(1);
  });

  test("a peer that wants a COOKIE gets it", () => {
    const world = new World({ limits: { cookieThreshold: 0 } });
    reach(world);
    expect(world.disagreements()).toEqual([]);
    expect(world.a.up).toHaveLength(1);
    expect(world.b.counts.get("ike.cookieDemanded")).toBe(1);
  });

  test("a COOKIE and then INVALID_KE_PAYLOAD", () => {
    const world = new World({ b: { ikeSuites: [MODP_SUITE] }, limits: { cookieThreshold: 0 } });
    reach(world);
    expect(world.disagreements()).toEqual([]);
    expect(world.a.up).toHaveLength(1);
  });

  test("a wrong key on either side: nothing is installed, tried again with pauses, given up", () => {
    for (const side of ["a", "b"] as const) {
      const world = new World({ [side]: { auth: { kind: "psk", psk: psk("another key") } } });
      reach(world);
      expect(world.a.kernel.size + world.b.kernel.size).toBe(0);
      world.pass(600_000);
      expect(world.a.counts.get("ike.initiated")).toBe(5);
      expect([...world.a.core.snapshot().ikeSas]).toEqual([]);
      expect(world.a.wakeAtMs).toBeNull();
    }
  });

  test("a peer that is not the one we wanted is left alone", () => {
    const world = new World({ a: { remoteIdentity: "mars.lab" }, b: { localIdentity: "mars.lab" } });
    reach(world);
    expect(world.disagreements()).toEqual([]);
    const wrong = new World({ b: { localIdentity: "mars.lab" } });
    reach(wrong);
    wrong.flush();
    expect(wrong.a.kernel.size + wrong.b.kernel.size).toBe(0);
  });

  test("no answer: six times, then a pause and a fresh attempt", () => {
    const world = new World();
    world.command(world.a, initiate);
    world.pass(63_000, true);
    expect(world.wire).toHaveLength(6);
    world.pass(6_000, true);
    expect(world.wire.length).toBeGreaterThan(6);
    const [first, last] = [world.wire[0], world.wire.at(-1)];
    expect(decodeMessage(first?.bytes ?? new Uint8Array()).header.spiI).not.toEqual(
      decodeMessage(last?.bytes ?? new Uint8Array()).header.spiI,
    );
  });

  test("forged refusals do not stop us", () => {
    const world = new World();
    world.command(world.a, initiate);
    const [request] = world.wire;
    if (request === undefined) throw new Error("no request");
    const { header } = decodeMessage(request.bytes);
    for (const type of [14, 7, 24]) {
      const bytes = Uint8Array.from([
        ...header.spiI,
        ...new Uint8Array(8),
        41,
        0x20,
        34,
        0x20,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        36,
      ]);
      world.wire.push({
        from: request.to,
        to: request.from,
        bytes: Uint8Array.from([...bytes, 0, 0, 0, 8, 0, 0, 0, type]),
      });
    }
    while (world.wire.length > 1) world.deliver(1);
    expect(world.a.counts.get("ike.initUseless")).toBe(3);
    world.flush();
    expect(world.disagreements()).toEqual([]);
    expect(world.a.up).toHaveLength(1);
  });

  test("many peers at once: no more than the limit at a time, the next when one is through", () => {
    const peers = Array.from({ length: 40 }, (_, i) =>
      peerConfig({ name: `p${i}`, address: `198.51.100.${i + 1}`, remoteIdentity: `p${i}.lab` }),
    );
    const lab = new Lab({ peers, limits: { initiating: 4 } });
    const asked = new Set<string>();
    const watch = (): number => {
      const running = lab.effects.filter((effect) => effect.kind === "send").map(({ remote }) => remote.address);
      for (const address of running) asked.add(address);
      return asked.size;
    };
    for (const { name } of peers) lab.command({ kind: "initiate", peerName: name, dvipa: null });
    expect(watch()).toBe(4);
    lab.pass(62_999);
    expect(watch()).toBe(4);
    lab.pass(1);
    expect(watch()).toBe(8);
    lab.pass(3_600_000);
    expect(watch()).toBe(40);
    expect(lab.count("initiated")).toBe(40 * 5);
  });

  test("a command for a peer that is not there", () => {
    const world = new World();
    world.command(world.a, { kind: "initiate", peerName: "x", dvipa: null });
    world.command(world.a, { kind: "initiate", peerName: "b", dvipa: "192.0.2.99" });
    expect(world.a.counts.get("ike.commandForUnknownPeer")).toBe(2);
    expect(world.wire).toEqual([]);
  });

  test("already there: nothing is sent", () => {
    const world = new World();
    reach(world);
    world.command(world.a, initiate);
    expect(world.wire).toEqual([]);
    expect(world.a.up).toHaveLength(1);
  });
});

describe("standing peers (auto)", () => {
  const auto = { initiate: { start: "auto", dvipa: null, mode: "transport" } } as const;

  test("reached at the start, within the spread, and again after the peer was lost", () => {
    const world = new World({ a: auto });
    world.command(world.a, { kind: "initiateAll" });
    world.pass(3_000);
    expect(world.a.up).toHaveLength(1);
    world.command(world.b, { kind: "deleteAll" });
    world.flush();
    expect(world.a.up).toHaveLength(0);
    world.pass(10_000);
    expect(world.a.up).toHaveLength(1);
    expect(world.disagreements()).toEqual([]);
  });

  test("a Child SA that the peer deleted is made again on the same IKE SA", () => {
    const world = new World({ a: auto });
    world.command(world.a, { kind: "initiateAll" });
    world.pass(3_000);
    const ike = world.a.up[0]?.id;
    world.command(world.b, { kind: "deleteChild", saId: world.b.children()[0]?.saId ?? "" });
    world.pass(10_000);
    expect(world.a.up.map(({ id, children }) => [id, children.length])).toEqual([[ike, 1]]);
    expect(world.disagreements()).toEqual([]);
  });

  test("not any more once everything was deleted by order", () => {
    const world = new World({ a: auto });
    world.command(world.a, { kind: "initiateAll" });
    world.pass(3_000);
    world.command(world.a, { kind: "deleteAll" });
    world.pass(60_000);
    expect(world.a.up).toHaveLength(0);
    expect(world.a.wakeAtMs).toBeNull();
  });
});

describe("an heir that its maker takes back", () => {
  test("the SA that it had replaced counts again, and is rekeyed at once", () => {
    const world = new World();
    reach(world);
    world.isPrompt = false;
    const old = world.b.children()[0]?.saId ?? "";
    world.command(world.a, { kind: "rekeyChild", saId: world.a.children()[0]?.saId ?? "" });
    world.deliver(0);
    world.report(world.b);
    world.deliver(0);
    // The kernels of `a` never report. Meanwhile `b` has begun to send on the heir.
    world.pass(9_000, true);
    expect([...world.b.kernel.values()].map(({ outbound }) => outbound)).toEqual(["now", "now"]);
    world.a.installing.length = 0;
    world.isPrompt = true;
    world.pass(2_000);
    expect(world.a.counts.get("ike.installFailed")).toBe(1);
    expect(world.b.counts.get("ike.childReinstated")).toBe(1);
    world.pass(3_000);
    expect(world.disagreements()).toEqual([]);
    expect(world.b.children()).toHaveLength(1);
    expect(world.b.children()[0]?.saId).not.toBe(old);
    expect(world.a.counts.get("ike.refusedByPeer.TEMPORARY_FAILURE")).toBeUndefined();
  });
});

/** What may happen to the two cores and the wire between them. */
const ACTION = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("deliver" as const), index: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("repeat" as const), index: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("lose" as const), index: fc.nat(7) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("pass" as const), ms: fc.constantFrom(100, 1_000, 3_000) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("report" as const), isA: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("hear" as const), isA: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("rekeyChild" as const), isA: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("rekeyIke" as const), isA: fc.boolean() }) },
);

const SYNCHRONISE = fc.record({ kind: fc.constant("synchronise" as const), isA: fc.boolean() });
type Action =
  | (typeof ACTION extends fc.Arbitrary<infer A> ? A : never)
  | (typeof SYNCHRONISE extends fc.Arbitrary<infer A> ? A : never);

/** Does all that, lets the wire heal, and waits until everything has come to rest: whoever forgot an SA is found by DPD. */
function live(actions: readonly Action[], seen: Map<string, number>): World {
  const world = new World();
  reach(world);
  world.isPrompt = false;
  if (world.a.up.length === 0) throw new Error("not connected");
  for (const action of actions) perform(world, action);
  world.isPrompt = true;
  for (const end of [world.a, world.b]) world.report(end);
  world.pass(400_000);
  expect(world.disagreements()).toEqual([]);
  for (const end of [world.a, world.b]) {
    for (const [name, count] of end.counts) seen.set(name, (seen.get(name) ?? 0) + count);
  }
  return world;
}

describe("two cores on a bad wire", () => {
  test(
    "whatever is lost, repeated, late or out of order: both end with the same SAs, and one that works",
    () => {
      const seen = new Map<string, number>();
      fc.assert(
        fc.property(fc.array(ACTION, { minLength: 5, maxLength: 60 }), (actions) => {
          const world = live(actions, seen);
          expect(world.a.up.length).toBe(1);
          expect(world.a.children().length).toBe(1);
        }),
        { numRuns: 300 },
      );
      // The runs have been where they were meant to go.
      for (const name of ["childRekeyCollisionLost", "childRekeyCollisionWon", "ikeRekeyed", "requestRetransmitted"]) {
        expect(seen.get(`ike.${name}`), name).toBeGreaterThan(0);
      }
    },
    PROPERTY_LIMIT_MS,
  );

  // RFC 6311 is for an end that has lost count. Where it has not, what is under way may fall between the two counts, and the IKE SA
  // is ended (§8.3): by both.
  test(
    "message IDs synchronised at any moment: both end with the same SAs, most with one that works",
    () => {
      const seen = new Map<string, number>();
      let working = 0;
      const runs = 150;
      const action = fc.oneof({ weight: 18, arbitrary: ACTION }, { weight: 1, arbitrary: SYNCHRONISE });
      fc.assert(
        fc.property(fc.array(action, { minLength: 5, maxLength: 60 }), (actions) => {
          working += live(actions, seen).a.children().length;
        }),
        { numRuns: runs },
      );
      expect(seen.get("ike.messageIdsSynchronised")).toBeGreaterThan(0);
      expect(working).toBeGreaterThan(runs / 2);
    },
    PROPERTY_LIMIT_MS,
  );
});

function perform(world: World, action: Action): void {
  const end = (isA: boolean): End => (isA ? world.a : world.b);
  switch (action.kind) {
    case "deliver":
      world.deliver(Math.min(action.index, world.wire.length - 1));
      return;
    case "repeat":
      world.deliver(Math.min(action.index, world.wire.length - 1), true);
      return;
    case "lose":
      world.wire.splice(Math.min(action.index, world.wire.length - 1), 1);
      return;
    case "pass":
      world.pass(action.ms, true);
      return;
    case "report":
      world.report(end(action.isA));
      return;
    case "synchronise":
      world.command(end(action.isA), { kind: "synchroniseIke", ikeSaId: end(action.isA).up[0]?.id ?? "" });
      return;
    case "hear":
      world.hear(end(action.isA));
      return;
    case "rekeyChild":
      world.command(end(action.isA), { kind: "rekeyChild", saId: end(action.isA).children()[0]?.saId ?? "" });
      return;
    case "rekeyIke":
      world.command(end(action.isA), { kind: "rekeyIke", ikeSaId: end(action.isA).up[0]?.id ?? "" });
      return;
  }
}

test("the exchanges of a connection are four datagrams", () => {
  const world = new World();
  world.command(world.a, initiate);
  const exchanges: number[] = [];
  while (world.wire.length > 0) {
    exchanges.push(decodeMessage(world.wire[0]?.bytes ?? new Uint8Array()).header.exchange);
    world.deliver(0);
  }
  const { IKE_SA_INIT, IKE_AUTH } = EXCHANGE;
  expect(exchanges).toEqual([IKE_SA_INIT, IKE_SA_INIT, IKE_AUTH, IKE_AUTH]);
});
