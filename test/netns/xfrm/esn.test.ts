import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { tunnelReqid } from "../../../src/net/ids.ts";
import type { ChildSuite } from "../../../src/sa/suite.ts";
import { IPPROTO_ESP } from "../../../src/xfrm/constants.ts";
import { receivedNumbers } from "../../../src/xfrm/replay.ts";
import type { StateId } from "../../../src/xfrm/states.ts";
import { eventually } from "../support/eventually.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { UdpHandlers } from "../support/udp-worker.ts";
import type { Worker } from "../support/worker.ts";
import { GCM_128, testState } from "./fixtures.ts";
import type { PlainState } from "./plain.ts";
import type { XfrmHandlers } from "./xfrm-worker.ts";

// Extended numbers between two kernels around 2^32 (RFC 4303 appendix A2.2). Every `send` is another host of the
// same SA: its state is new and born with that host's lease.
//
//   s 192.0.2.1 ───── veth ───── 192.0.2.2 r
//   out policy, state          inbound state, decrypts

const S = "192.0.2.1";
const R = "192.0.2.2";
const PORT = 9999;
const EDGE = 2n ** 32n;
const CBC: ChildSuite = { kind: "aes-cbc", keyBits: 128, integrity: "hmac-sha2-256" };

let s: Namespace;
let r: Namespace;
let sender: Worker<XfrmHandlers>;
let receiver: Worker<XfrmHandlers>;
let sendUdp: Worker<UdpHandlers>;
let receiveUdp: Worker<UdpHandlers>;

beforeAll(async () => {
  [s, r] = await Promise.all([Namespace.create("s"), Namespace.create("r")]);
  await veth(
    { namespace: s, name: "veth0", addresses: [`${S}/24`] },
    { namespace: r, name: "veth0", addresses: [`${R}/24`] },
  );
  await s.exec("ping", ["-c", "1", "-W", "5", R]);
  const xfrm = "test/netns/xfrm/xfrm-worker.ts";
  const udp = "test/netns/support/udp-worker.ts";
  [sender, receiver] = await Promise.all([s.worker<XfrmHandlers>(xfrm), r.worker<XfrmHandlers>(xfrm)]);
  [sendUdp, receiveUdp] = await Promise.all([s.worker<UdpHandlers>(udp), r.worker<UdpHandlers>(udp)]);
  await receiveUdp.call("listen", { address: R, port: PORT });
  const everyPort = { port: 0, mask: 0 };
  await sender.call("addPolicy", {
    direction: "out",
    selector: {
      source: { address: S, prefixBits: 32 },
      destination: { address: R, prefixBits: 32 },
      protocol: 0,
      sourcePort: everyPort,
      destinationPort: everyPort,
    },
    action: "allow",
    priority: 46_000,
    template: { protocol: IPPROTO_ESP, mode: "transport", reqid: tunnelReqid(1), endpoints: null },
  });
});

afterAll(async () => {
  for (const part of [sender, receiver, sendUdp, receiveUdp, s, r]) await part[Symbol.asyncDispose]();
});

afterEach(async () => {
  await Promise.all([s.ip("xfrm state flush"), r.ip("xfrm state flush")]);
});

const PATHS: readonly [string, ChildSuite, number][] = [
  ["AES-GCM, window 32", GCM_128, 32],
  ["AES-GCM, window 4096", GCM_128, 4096],
  ["AES-CBC with HMAC, window 1024", CBC, 1024],
];

describeWithEsp("extended numbers around 2^32", () => {
  it.each(PATHS)("one lease spans the edge: all decrypted, the window moves on: %s", async (_name, suite, window) => {
    const sa = await openSa(suite, window);
    await sa.send(EDGE - BigInt(window), 1);
    await sa.send(EDGE - 10n, 20);
    expect(await sa.seen()).toEqual({ decrypted: 21, highest: EDGE + 9n, replayed: 0, tooOld: 0, forged: 0 });
  });

  it.each(PATHS)(
    "hosts on both sides of the edge, out of order; a repeat is caught: %s",
    async (_name, suite, window) => {
      const sa = await openSa(suite, window);
      await sa.send(EDGE - BigInt(window), 1);
      await sa.send(EDGE + 3n, 4);
      await sa.send(EDGE - 5n, 5);
      await sa.send(EDGE, 3);
      expect(await sa.seen()).toEqual({ decrypted: 13, highest: EDGE + 6n, replayed: 0, tooOld: 0, forged: 0 });
      await sa.send(EDGE - 3n, 6);
      expect(await sa.seen()).toMatchObject({ decrypted: 13, replayed: 6, forged: 0 });
      // One below the window: taken for the next 2^32 numbers, so it is the ICV that stops it.
      await sa.send(EDGE + 6n - BigInt(window), 1);
      expect(await sa.seen()).toMatchObject({ decrypted: 13, highest: EDGE + 6n, forged: 1 });
    },
  );

  // What a receiver that saw `seen` last makes of `next`; nothing seen: a state that was made a moment ago.
  const bounds = [32n, 4096n].flatMap((window): [string, bigint, bigint | null, bigint, boolean][] => [
    [`window ${window}: new, last that it can place`, window, null, EDGE - window, true],
    [`window ${window}: new, one further`, window, null, EDGE - window + 1n, false],
    [`window ${window}: new, beyond the edge`, window, null, EDGE + 5n, false],
    [`window ${window}: idle for 2^32 - W numbers`, window, 5000n, 5000n + EDGE - window, true],
    [`window ${window}: idle for one more`, window, 5000n, 5000n + EDGE - window + 1n, false],
  ]);
  it.each(bounds)("how far a receiver can fall behind: %s", async (_name, window, seen, next, isHeard) => {
    const sa = await openSa(GCM_128, Number(window));
    if (seen !== null) await sa.send(seen, 1);
    const before = await sa.seen();
    await sa.send(next, 1);
    // A receiver that is deaf stays so: nothing that follows is let in, nothing moves its window.
    await sa.send(next + 1n, 3);
    const expected = isHeard
      ? { ...before, decrypted: before.decrypted + 4, highest: next + 3n }
      : { ...before, forged: 4 };
    expect(await sa.seen()).toEqual(expected);
  });
});

describeWithEsp("what a receiving state has authenticated", () => {
  const near = (first: bigint): readonly (readonly [bigint, number])[] => [
    [first, 3],
    [first + 15n, 2],
    [first + 5n, 1],
  ];
  const cases: readonly [string, number, boolean, bigint][] = [
    ["32 bits, window 32", 32, false, 5n],
    ["32 bits, window 64", 64, false, 1n],
    ["32 bits, window 4096, past its size", 4096, false, 10_000n],
    ["extended, window 32", 32, true, 40n],
    ["extended, window 4096, over the edge", 4096, true, EDGE - 7n],
  ];
  it.each(cases)("reads as the numbers that came: %s", async (_name, window, esn, first) => {
    const sa = await openSa(GCM_128, window, esn);
    if (first > EDGE / 2n) await sa.send(first - BigInt(window), 1);
    const sent = near(first).flatMap(([from, count]) => Array.from({ length: count }, (_, i) => from + BigInt(i)));
    for (const [from, count] of near(first)) await sa.send(from, count);
    expect((await sa.received()).filter((number) => number >= first)).toEqual(sent.sort((a, b) => Number(a - b)));
  });

  it.each(cases)("is not let in again by a state that starts with it: %s", async (_name, window, esn, first) => {
    const sa = await openSa(GCM_128, window, esn);
    if (first > EDGE / 2n) await sa.send(first - BigInt(window), 1);
    for (const [from, count] of near(first)) await sa.send(from, count);
    const [before, numbers] = [await sa.seen(), await sa.received()];
    await sa.remake();
    expect(await sa.received()).toEqual(numbers);
    for (const [from, count] of near(first)) await sa.send(from, count);
    expect(await sa.seen()).toMatchObject({ decrypted: 0, replayed: 6, highest: before.highest, forged: 0 });
    // What did not come before is let in, left and right of the highest number.
    await sa.send(first + 14n, 1);
    await sa.send(first + 17n, 1);
    expect(await sa.seen()).toMatchObject({ decrypted: 2, replayed: 6, highest: first + 17n });
  });
});

interface Seen {
  readonly decrypted: number;
  /** Highest number that was authenticated. */
  readonly highest: bigint;
  readonly replayed: number;
  readonly tooOld: number;
  /** Wrong ICV: also what a wrong guess of the high 32 bits looks like. */
  readonly forged: number;
}

let lastSpi = 0x6000;

/** An inbound state at r, and hosts at s that send on it. */
async function openSa(suite: ChildSuite, replayWindowPackets: number, esn = true) {
  lastSpi += 1;
  const state = testState(S, R, lastSpi, { suite, esn, replayWindowPackets });
  const { id } = state;
  await receiver.call("addState", state);
  let delivered = await receiveUdp.call("received", undefined);
  let sent = 0;
  const seen = async (): Promise<Seen> => {
    const found = await readSeen(id);
    expect(await receiveUdp.call("received", undefined)).toBe(delivered + found.decrypted);
    return found;
  };
  /** A host sends `count` numbers from `first` on; resolves once r has dealt with all of them. */
  const send = async (first: bigint, count: number): Promise<void> => {
    const allowance: PlainState["allowance"] = { kind: "lease", range: { first, end: first + BigInt(count) } };
    await sender.call("addState", { ...state, allowance });
    expect(await sendUdp.call("send", { address: R, port: PORT, count })).toEqual({ sent: count, failed: 0 });
    expect((await sender.call("getState", id))?.replay.oseq).toBe(first + BigInt(count) - 1n);
    await sender.call("deleteState", id);
    sent += count;
    await eventually("the receiver's verdict", async () => {
      const { decrypted, replayed, tooOld, forged } = await readSeen(id);
      return decrypted + replayed + tooOld + forged === sent;
    });
  };
  /** The numbers of the window that were authenticated, ascending. */
  const received = async (): Promise<bigint[]> => {
    const state = await receiver.call("getState", id);
    if (state === null) throw new Error("the receiver's state is gone");
    const { highest, bits } = receivedNumbers(state.replay);
    const offsets = Array.from({ length: bits.length * 8 }, (_, offset) => offset).reverse();
    return offsets
      .filter((offset) => ((bits[offset >> 3] ?? 0) & (1 << (offset & 7))) !== 0)
      .map((offset) => highest - BigInt(offset));
  };
  /** The receiver's state is made anew, with what it has received; its counters begin at 0. */
  const remake = async (): Promise<void> => {
    const before = await receiver.call("getState", id);
    if (before === null) throw new Error("the receiver's state is gone");
    await receiver.call("deleteState", id);
    await receiver.call("addState", { ...state, received: { numbers: receivedNumbers(before.replay) } });
    delivered = await receiveUdp.call("received", undefined);
    sent = 0;
  };
  return { send, seen, received, remake };
}

async function readSeen(id: StateId): Promise<Seen> {
  const state = await receiver.call("getState", id);
  if (state === null) throw new Error("the receiver's state is gone");
  const { replay, replayWindow, integrity } = state.drops;
  return {
    decrypted: Number(state.packets),
    highest: state.replay.seq,
    replayed: replay,
    tooOld: replayWindow,
    forged: integrity,
  };
}
