import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { LEASE_PACKET_LIMIT, type KernelState } from "../../../src/xfrm/states.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace } from "../support/namespace.ts";
import { GCM_128, testState } from "./fixtures.ts";
import type { Worker } from "../support/worker.ts";
import type { PlainState } from "./plain.ts";
import type { XfrmHandlers } from "./xfrm-worker.ts";
import { AH_SUITES, ESP_SUITES, suiteName } from "../../../src/sa/suite.ts";

const A = "192.0.2.1";
const B = "192.0.2.2";

let namespace: Namespace;
let worker: Worker<XfrmHandlers>;

beforeAll(async () => {
  namespace = await Namespace.create("states");
  worker = await namespace.worker<XfrmHandlers>("test/netns/xfrm/xfrm-worker.ts");
});

afterEach(async () => {
  await namespace.ip("xfrm state flush");
});

afterAll(async () => {
  await worker[Symbol.asyncDispose]();
  await namespace[Symbol.asyncDispose]();
});

// One namespace, no packets: what we add is what `ip xfrm state` and our own reader list.
describeWithEsp("states: add, list by both readers, delete, list empty", () => {
  const geometries: readonly [string, Partial<PlainState>][] = [
    ["32-bit numbers, window 32", { replayWindowPackets: 32 }],
    ["32-bit numbers, window 1024", { replayWindowPackets: 1024 }],
    ["32-bit numbers, window 4096", { replayWindowPackets: 4096 }],
    ["extended numbers, window 4096", { esn: true, replayWindowPackets: 4096 }],
    ["tunnel mode, window 33", { mode: "tunnel", replayWindowPackets: 33 }],
    ["born with a lease", { allowance: { kind: "lease", range: { first: 100n, end: 110n } } }],
    [
      "born with a lease beyond 2^32",
      { esn: true, replayWindowPackets: 32, allowance: lease(2n ** 32n + 5n, 2n ** 32n + 9n) },
    ],
    ["born parked", { allowance: { kind: "parked" } }],
  ];

  it.each(geometries)("%s", async (_name, changes) => {
    const wanted = testState(A, B, 0xabcd, { eventThresholdPackets: 7, ...changes });
    await worker.call("addState", wanted);

    const [state] = await worker.call("listStates", undefined);
    expect(state).toMatchObject(expectedFacts(wanted));
    expect(await worker.call("getState", wanted.id)).toEqual(state);
    const text = await namespace.ip("-s xfrm state list nokeys");
    expect(text).toContain(`src ${A} dst ${B}`);
    expect(text).toContain("spi 0x0000abcd");
    expect(text).toContain(`mode ${wanted.mode}`);

    await worker.call("deleteState", wanted.id);
    expect(await worker.call("listStates", undefined)).toEqual([]);
    expect(await namespace.ip("xfrm state list nokeys")).toBe("");
    expect(await worker.call("getState", wanted.id)).toBeNull();
  });

  it.each([...ESP_SUITES, ...AH_SUITES].map((suite) => [suiteName(suite), suite] as const))(
    "suite %s",
    async (_name, suite) => {
      await worker.call("requireSuite", suite);
      expect(await namespace.ip("xfrm state list nokeys")).toBe("");
    },
  );

  it("IPv6", async () => {
    await worker.call("addState", testState("2001:db8::1", "2001:db8::2", 0x777, { mode: "tunnel" }));
    const [state] = await worker.call("listStates", undefined);
    expect(state).toMatchObject({
      source: "2001:db8::1",
      id: { destination: "2001:db8::2", spi: 0x777 },
      mode: "tunnel",
    });
    expect(await namespace.ip("xfrm state list nokeys")).toContain("src 2001:db8::1 dst 2001:db8::2");
  });

  it("a burst of requests is held back to what the receive buffer takes", async () => {
    const state = testState(A, B, 0x4444);
    await worker.call("addState", state);
    expect(await worker.call("burst", { id: state.id, count: 500 })).toBe(500);
  });

  it("refusals carry errno, operation and no key", async () => {
    const state = testState(A, B, 0x1111);
    await worker.call("addState", state);
    const again = worker.call("addState", state);
    const details = { code: "EEXIST", errno: 17, operation: "add state 192.0.2.2/0x00001111" };
    await expect(again).rejects.toMatchObject({ code: "kernel.refused", details });
    const missing = worker.call("deleteState", { ...state.id, spi: 0x2222 });
    await expect(missing).rejects.toMatchObject({ code: "kernel.refused", details: { code: "ESRCH" } });
    const wide = worker.call("addState", testState(A, B, 0x3333, { replayWindowPackets: 5000, suite: GCM_128 }));
    await expect(wide).rejects.toMatchObject({ code: "kernel.refused", details: { code: "EINVAL" } });
  });
});

function lease(first: bigint, end: bigint): PlainState["allowance"] {
  return { kind: "lease", range: { first, end } };
}

function expectedFacts(wanted: PlainState): Record<string, unknown> {
  const { allowance, id, source, mode, reqid, esn, replayWindowPackets } = wanted;
  const range = allowance.kind === "lease" ? allowance.range : null;
  const facts: Partial<KernelState> = {
    id,
    source,
    mode,
    reqid,
    esn,
    packets: allowance.kind === "unlimited" ? 0n : LEASE_PACKET_LIMIT - (range === null ? 0n : range.end - range.first),
    hardPacketLimit: allowance.kind === "unlimited" ? 2n ** 64n - 1n : LEASE_PACKET_LIMIT,
    drops: { replayWindow: 0, replay: 0, integrity: 0 },
  };
  const replay = { oseq: range === null ? 0n : range.first - 1n, seq: 0n, windowPackets: replayWindowPackets };
  return { ...facts, replay };
}
