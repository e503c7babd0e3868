import { expect, it } from "vitest";
import { tunnelReqid } from "../../../src/net/ids.ts";
import type { XfrmEvent } from "../../../src/xfrm/events.ts";
import type { PolicySpec } from "../../../src/xfrm/policies.ts";
import { Capture, espSequences } from "../support/capture.ts";
import { eventually } from "../support/eventually.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { UdpHandlers } from "../support/udp-worker.ts";
import type { Worker } from "../support/worker.ts";
import { AH_256, testState } from "./fixtures.ts";
import type { PlainState } from "./plain.ts";
import type { XfrmHandlers } from "./xfrm-worker.ts";

// Numbers in test names are the invariants of src/xfrm/leases.ts.
//
//   s 192.0.2.1 ───── veth ───── 192.0.2.2 r
//   out policy, state          captures what arrives

const S = "192.0.2.1";
const R = "192.0.2.2";
const SPI = 0x5151;
const PORT = 9999;

const GEOMETRIES: readonly [string, Partial<PlainState>, bigint][] = [
  ["32-bit numbers, no window", {}, 100n],
  ["32-bit numbers, window 32", { replayWindowPackets: 32 }, 100n],
  ["32-bit numbers, window 1024", { replayWindowPackets: 1024 }, 100n],
  ["extended numbers, window 1024", { esn: true, replayWindowPackets: 1024 }, 100n],
  ["extended numbers beyond 2^32", { esn: true, replayWindowPackets: 32 }, 2n ** 32n + 100n],
  ["AH, 32-bit numbers", { suite: AH_256 }, 100n],
  ["AH, window 1024", { suite: AH_256, replayWindowPackets: 1024 }, 100n],
  ["AH, extended numbers over the edge of 2^32", { suite: AH_256, esn: true, replayWindowPackets: 32 }, 2n ** 32n - 4n],
  ["extended numbers over the edge of 2^32", { esn: true, replayWindowPackets: 32 }, 2n ** 32n - 4n],
];

describeWithEsp("leases in the kernel", () => {
  it.each(GEOMETRIES)("1: exactly the lease leaves, then the state dies: %s", async (_name, changes, first) => {
    await using lab = await Lab.create();
    const state = await lab.parkedState(changes);
    await lab.xfrm.call("subscribe", { groups: ["EXPIRE"] });
    await lab.xfrm.call("install", { state, range: { first, end: first + 10n } });
    expect(await lab.xfrm.call("readLease", state.id)).toMatchObject({
      oseq: first - 1n,
      leftNumbers: 10n,
      lastSendable: first + 9n,
    });

    await using capture = await Capture.start(lab.r, "veth0", `src host ${S} and not arp`);
    await lab.udp.call("send", { address: R, port: PORT, count: 25 });
    const expired = await lab.xfrm.event(isExpiry);
    expect(expired).toMatchObject({ hard: true, id: state.id, reqid: state.reqid });
    expect(await lab.xfrm.call("getState", state.id)).toBeNull();
    await lab.udp.call("send", { address: R, port: PORT, count: 5 });

    const packets = await capture.stop();
    const low = (number: bigint): number => Number(number & 0xffffffffn);
    expect(espSequences(packets, SPI)).toEqual(Array.from({ length: 10 }, (_, i) => low(first + BigInt(i))));
    expect(packets.filter(({ esp }) => esp === null)).toEqual([]);
  });

  it("2: a lease that begins below what may have been sent is refused, and nothing changes", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({});
    await lab.xfrm.call("install", { state, range: { first: 100n, end: 110n } });
    for (const range of [
      { first: 1n, end: 50n },
      { first: 109n, end: 120n },
    ]) {
      const refusal = { code: "kernel.refused", details: { code: "EINVAL", lastSendable: 109n } };
      await expect(lab.xfrm.call("install", { state, range })).rejects.toMatchObject(refusal);
    }
    expect(await lab.xfrm.call("readLease", state.id)).toMatchObject({ oseq: 99n, lastSendable: 109n });
    const beyond = { first: 2n ** 32n - 1n, end: 2n ** 32n + 1n };
    await expect(lab.xfrm.call("install", { state, range: beyond })).rejects.toThrow("not possible");
  });

  it("3: extending while packets go out burns nothing, repeats nothing, passes no end", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({});
    const end = 16_501n;
    await lab.xfrm.call("install", { state, range: { first: 1n, end: 2501n } });
    await using capture = await Capture.start(lab.r, "veth0", `src host ${S} and not arp`);
    const race = lab.xfrm.call("extendRace", { state, block: 2000n, refillAt: 1900n, end });
    await lab.udp.call("start", { address: R, port: PORT, pauseMs: 1 });
    const { extensions, passed } = await race;
    await eventually("the state's end", async () => (await lab.xfrm.call("getState", state.id)) === null);
    await lab.udp.call("stop", undefined);

    const packets = await capture.stop();
    const sequences = espSequences(packets, SPI);
    expect(extensions).toBeGreaterThan(3);
    expect(passed).toBe(0);
    expect(sequences.length).toBeGreaterThan(5000);
    expect(new Set(sequences).size).toBe(sequences.length);
    expect(Math.max(...sequences)).toBeLessThan(Number(end));
    expect(sequences).toEqual(Array.from({ length: sequences.length }, (_, i) => i + 1));
    expect(packets.filter(({ esp }) => esp === null)).toEqual([]);
  });

  it("3: what an extension leaves out comes back with the next", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({});
    await lab.xfrm.call("install", { state, range: { first: 1n, end: 101n } });
    // 100 left: 20 more would be less than that, so nothing is written yet.
    expect(await lab.xfrm.call("extend", { state, end: 121n })).toMatchObject({
      leftNumbers: 100n,
      pendingNumbers: 20n,
    });
    await lab.udp.call("send", { address: R, port: PORT, count: 90 });
    expect(await lab.xfrm.call("extend", { state, end: 121n })).toMatchObject({
      leftNumbers: 20n,
      pendingNumbers: 10n,
    });
    await lab.udp.call("send", { address: R, port: PORT, count: 15 });
    const again = await lab.xfrm.call("extend", { state, end: 121n, threshold: 7 });
    expect(again).toMatchObject({ leftNumbers: 10n, pendingNumbers: 5n, eventThresholdPackets: 7 });
  });

  it("1: installing while packets go out: no number twice, none outside", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({ replayWindowPackets: 1024 });
    await lab.xfrm.call("install", { state, range: { first: 1n, end: 201n } });
    await using capture = await Capture.start(lab.r, "veth0", `src host ${S} and not arp`);
    await lab.udp.call("start", { address: R, port: PORT, pauseMs: 1 });
    const race = { state, first: 1000n, size: 200n, gap: 50n, count: 40 };
    const { ranges } = await lab.xfrm.call("installRace", race);
    await eventually("the state's end", async () => (await lab.xfrm.call("getState", state.id)) === null);
    await lab.udp.call("stop", undefined);

    const sequences = espSequences(await capture.stop(), SPI);
    const leased = [{ first: 1n, end: 201n }, ...ranges];
    const isLeased = (n: number): boolean => leased.some(({ first, end }) => n >= first && n < end);
    expect(ranges).toHaveLength(race.count);
    expect(sequences.length).toBeGreaterThan(200);
    expect(new Set(sequences).size).toBe(sequences.length);
    expect(sequences.filter((n) => !isLeased(n))).toEqual([]);
  });

  it("5: numbers that no packet counted trip the wire: the state is deleted, and the error says up to where", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({});
    await lab.xfrm.call("install", { state, range: { first: 100n, end: 140n } });
    await lab.udp.call("send", { address: R, port: PORT, count: 5 });
    expect(await lab.xfrm.call("readLease", state.id)).toMatchObject({ oseq: 104n, lastSendable: 139n });
    // Another program moves the number, as a GSO packet does that counts once; its own tripwire has nothing to compare.
    await lab.xfrm.call("foreignInstall", { state, range: { first: 150n, end: 180n } });
    await lab.udp.call("send", { address: R, port: PORT, count: 2 });
    const tripped = { code: "kernel.offload", details: { expected: 139n, oseq: 151n, found: 179n, lastUsable: 179n } };
    await expect(lab.xfrm.call("readLease", state.id)).rejects.toMatchObject(tripped);
    expect(await lab.xfrm.call("getState", state.id)).toBeNull();
    expect(await lab.xfrm.call("readLease", state.id)).toBeNull();

    // Made anew, it is compared with its own lease only; and every write looks before it writes.
    await lab.xfrm.call("addState", { ...state, allowance: { kind: "lease", range: { first: 200n, end: 240n } } });
    expect(await lab.xfrm.call("readLease", state.id)).toMatchObject({ oseq: 199n, lastSendable: 239n });
    await lab.xfrm.call("foreignPark", state.id);
    const late = lab.xfrm.call("extend", { state, end: 280n });
    await expect(late).rejects.toMatchObject({ code: "kernel.offload", details: { lastUsable: 239n } });
    expect(await lab.xfrm.call("getState", state.id)).toBeNull();
  });

  it("5: a lease is not extended on a state that somebody made anew: its numbers would start over", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({});
    await lab.xfrm.call("install", { state, range: { first: 100n, end: 140n } });
    await lab.udp.call("send", { address: R, port: PORT, count: 5 });
    await lab.xfrm.call("deleteState", state.id);
    await lab.xfrm.call("addState", state);
    const late = lab.xfrm.call("extend", { state, end: 180n });
    await expect(late).rejects.toMatchObject({ code: "kernel.offload", details: { found: 0n, lastUsable: 139n } });
    expect(await lab.xfrm.call("getState", state.id)).toBeNull();
  });

  it("a reading while the state is being added waits for it, and takes no number for sent", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({});
    await lab.xfrm.call("deleteState", state.id);
    const range = { first: 100n, end: 612n };
    expect(await lab.xfrm.call("addAndRead", { state, range })).toMatchObject({ oseq: 99n, lastSendable: 611n });
    await lab.udp.call("send", { address: R, port: PORT, count: 5 });
    expect(await lab.xfrm.call("readLease", state.id)).toMatchObject({ oseq: 104n, lastSendable: 611n });
    expect(await lab.xfrm.call("sentPackets", state.id)).toBe(5n);
  });

  it("a parked state sends nothing: its first packet kills it", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({});
    await lab.xfrm.call("install", { state, range: { first: 5n, end: 50n } });
    expect(await lab.xfrm.call("park", state.id)).toMatchObject({ oseq: 4n, leftNumbers: 0n, lastSendable: 4n });
    await using capture = await Capture.start(lab.r, "veth0", `src host ${S} and not arp`);
    await lab.udp.call("send", { address: R, port: PORT, count: 3 });
    await eventually("the state's end", async () => (await lab.xfrm.call("getState", state.id)) === null);
    expect(await capture.stop()).toEqual([]);
    expect(await lab.xfrm.call("readLease", state.id)).toBeNull();
    const late = lab.xfrm.call("install", { state, range: { first: 50n, end: 60n } });
    await expect(late).rejects.toMatchObject({ details: { code: "ESRCH" } });
  });

  it("sequence events: by packet threshold, and by our own writes", async () => {
    await using lab = await Lab.create();
    const state = await lab.parkedState({ eventThresholdPackets: 4 });
    await lab.xfrm.call("subscribe", { groups: ["AEVENTS", "SA"] });
    await lab.xfrm.call("install", { state, range: { first: 100n, end: 120n } });
    const writerPort = await lab.xfrm.call("port", undefined);
    const update = { kind: "sequence", cause: "update", id: state.id, oseq: 99n, leftNumbers: 20n, writerPort };
    expect(await lab.xfrm.event(isSequence("update"))).toMatchObject(update);

    await lab.udp.call("send", { address: R, port: PORT, count: 5 });
    // One packet behind `oseq`, as measured: 103 was sent, its packet not counted yet.
    const threshold = { id: state.id, oseq: 103n, leftNumbers: 17n };
    expect(await lab.xfrm.event(isSequence("threshold"))).toMatchObject(threshold);

    await lab.xfrm.call("setThreshold", { id: state.id, packets: 9 });
    expect(await lab.xfrm.call("readLease", state.id)).toMatchObject({ eventThresholdPackets: 9, oseq: 104n });
    await lab.xfrm.call("deleteState", state.id);
    const deleted = (event: unknown): event is XfrmEvent => (event as XfrmEvent).kind === "deleted";
    expect(await lab.xfrm.event(deleted)).toMatchObject({ id: state.id, writerPort });
  });
});

function isExpiry(event: unknown): event is XfrmEvent {
  return (event as XfrmEvent).kind === "expired";
}

function isSequence(cause: string): (event: unknown) => event is XfrmEvent {
  return (event): event is XfrmEvent => {
    const known = event as XfrmEvent;
    return known.kind === "sequence" && known.cause === cause;
  };
}

/** The two namespaces, a worker for XFRM and one that sends. */
class Lab implements AsyncDisposable {
  readonly s: Namespace;
  readonly r: Namespace;
  readonly xfrm: Worker<XfrmHandlers>;
  readonly udp: Worker<UdpHandlers>;

  private constructor(s: Namespace, r: Namespace, xfrm: Worker<XfrmHandlers>, udp: Worker<UdpHandlers>) {
    this.s = s;
    this.r = r;
    this.xfrm = xfrm;
    this.udp = udp;
  }

  static async create(): Promise<Lab> {
    const [s, r] = await Promise.all([Namespace.create("s"), Namespace.create("r")]);
    await veth(
      { namespace: s, name: "veth0", addresses: [`${S}/24`] },
      { namespace: r, name: "veth0", addresses: [`${R}/24`] },
    );
    await s.exec("ping", ["-c", "1", "-W", "5", R]);
    const workers = [
      s.worker<XfrmHandlers>("test/netns/xfrm/xfrm-worker.ts"),
      s.worker<UdpHandlers>("test/netns/support/udp-worker.ts"),
    ] as const;
    const [xfrm, udp] = await Promise.all(workers);
    return new Lab(s, r, xfrm, udp);
  }

  /** An outbound state with its policy. */
  async parkedState(changes: Partial<PlainState>): Promise<PlainState> {
    const state = testState(S, R, SPI, { allowance: { kind: "parked" }, ...changes });
    const port = { port: 0, mask: 0 };
    const policy: PolicySpec = {
      direction: "out",
      selector: {
        source: { address: S, prefixBits: 32 },
        destination: { address: R, prefixBits: 32 },
        protocol: 0,
        sourcePort: port,
        destinationPort: port,
      },
      action: "allow",
      priority: 46_000,
      template: { protocol: state.id.protocol, mode: "transport", reqid: tunnelReqid(1), endpoints: null },
    };
    await this.xfrm.call("addPolicy", policy);
    await this.xfrm.call("addState", state);
    return state;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.xfrm[Symbol.asyncDispose]();
    await this.udp[Symbol.asyncDispose]();
    await this.s[Symbol.asyncDispose]();
    await this.r[Symbol.asyncDispose]();
  }
}
