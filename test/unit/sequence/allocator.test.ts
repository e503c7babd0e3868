import { beforeEach, expect, test } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { Allocator } from "../../../src/sequence/allocator.ts";
import type { Grant } from "../../../src/sequence/number-line.ts";
import type { ReserveOutcome } from "../../../src/sequence/reservation.ts";
import { FakeClock, FakeDisk, FakeStore, settled } from "./fakes.ts";

const SA = "a".repeat(32);
const DVIPA = "192.0.2.100";
const END_32 = 1n << 32n;

let clock: FakeClock;
let disk: FakeDisk;
let store: FakeStore;
let recalls: string[];
let rekeys: string[];
let counters: Counters;
let allocator: Allocator;

function start(): void {
  store = new FakeStore(disk);
  store.auto = true;
  allocator = new Allocator({
    store,
    clock,
    counters,
    limits: { ceilingStepNumbers: 1000n },
    events: {
      recall: (node, _sa, highWater, holders) => recalls.push(`${node} ${highWater} ${holders}`),
      granted: () => {},
      rekeySoon: (sa) => rekeys.push(sa),
      stopped: () => {},
    },
  });
}

beforeEach(async () => {
  clock = new FakeClock();
  disk = new FakeDisk();
  counters = new Counters();
  recalls = [];
  rekeys = [];
  start();
  await allocator.own(DVIPA, "d1");
});

const register = (firstNumber = 1n, esn = false, windowPackets = 64, epoch = 1n): Promise<void> =>
  allocator.register({ sa: SA, dvipa: DVIPA, epoch, firstNumber, windowPackets, esn, counterNonce: false });

/** The outcome, which must be there at once unless `pending`. */
function reserve(node: string, count: number, nextUnsent = 0n, epoch = 1n): { outcome: ReserveOutcome | null } {
  const result: { outcome: ReserveOutcome | null } = { outcome: null };
  allocator.reserve({ sa: SA, node, epoch, count, nextUnsent }, (outcome) => (result.outcome = outcome));
  return result;
}

function grant(node: string, count: number, nextUnsent = 0n): Grant {
  const { outcome } = reserve(node, count, nextUnsent);
  if (outcome === null || !("grant" in outcome)) throw new Error(`no grant: ${JSON.stringify(outcome)}`);
  return outcome.grant;
}

const refusal = (result: { outcome: ReserveOutcome | null }): string | null =>
  result.outcome !== null && "refused" in result.outcome ? result.outcome.refused.code : null;

test("A1 blocks follow on each other; the same node's are contiguous", async () => {
  await register(7n);
  expect(grant("t1", 10)).toEqual({ first: 7n, end: 17n, highWater: 17n, holders: 1, rekeySoon: false });
  expect(grant("t1", 5, 12n)).toMatchObject({ first: 17n, end: 22n });
  expect(grant("t2", 5)).toMatchObject({ first: 22n, end: 27n, holders: 2 });
});

test("A5 only the current epoch of the DVIPA is served, also after the SA was carried over", async () => {
  await register();
  grant("t1", 10);
  expect(refusal(reserve("t1", 1, 0n, 0n))).toBe("cluster.staleEpoch");
  expect(await allocator.own(DVIPA, "d2")).toBe(2n);
  expect(refusal(reserve("t1", 1))).toBe("cluster.staleEpoch");
  expect(refusal(reserve("t1", 1, 0n, 2n))).toBe("cluster.staleEpoch");
  await expect(register(1n, false, 64, 1n)).rejects.toMatchObject({ code: "cluster.staleEpoch" });
  await register(1n, false, 64, 2n);
  const { outcome } = reserve("t1", 1, 0n, 2n);
  expect(outcome).toMatchObject({ grant: { first: 11n } });
});

test("A5 a request that waits is refused when its epoch ends", async () => {
  await register();
  grant("t1", 100);
  const waiting = reserve("t2", 4);
  expect(waiting.outcome).toBeNull();
  await allocator.own(DVIPA, "d2");
  expect(refusal(waiting)).toBe("cluster.staleEpoch");
});

test("A5 a retired SA is gone for good, also over a restart", async () => {
  await register();
  await allocator.retire(SA);
  expect(refusal(reserve("t1", 1))).toBe("cluster.unknownSa");
  await expect(register()).rejects.toMatchObject({ code: "cluster.unknownSa" });
  start();
  await expect(register()).rejects.toMatchObject({ code: "cluster.unknownSa" });
});

test("registering twice changes nothing; with other facts it is refused", async () => {
  await register();
  grant("t1", 10);
  await register();
  expect(grant("t2", 10)).toMatchObject({ first: 11n });
  await expect(register(1n, true)).rejects.toMatchObject({ code: "cluster.notServing" });
});

test("A3 a restart goes on at the old ceiling; epoch and owner are kept", async () => {
  await register();
  grant("t1", 10);
  const ceiling = disk.ceiling(SA);
  start();
  expect(allocator.ownerOf(DVIPA)).toEqual({ owner: "d1", epoch: 1n });
  // The line is at its ceiling: the first request waits for a new one.
  const first = reserve("t1", 10, 5n);
  expect(first.outcome).toBeNull();
  await settled();
  expect(first.outcome).toMatchObject({ grant: { first: ceiling } });
});

test("A6 numbers end at 2^32 - 1, long after the first call for a rekey", async () => {
  await register(END_32 - 20n);
  expect(grant("t1", 16)).toMatchObject({ rekeySoon: true });
  expect(rekeys).toEqual([SA]);
  expect(grant("t1", 16, END_32 - 4n)).toMatchObject({ first: END_32 - 4n, end: END_32 });
  expect(refusal(reserve("t1", 1))).toBe("cluster.exhausted");
});

test("A6 with ESN numbers go on, up to 2^64 - 1", async () => {
  await register(END_32 - 2n, true);
  expect(grant("t1", 10)).toMatchObject({ end: END_32 + 8n, rekeySoon: false });
  await allocator.retire(SA);
  const sa = "b".repeat(32);
  const last = (1n << 64n) - 1n;
  await allocator.register({
    sa,
    dvipa: DVIPA,
    epoch: 1n,
    firstNumber: last,
    windowPackets: 64,
    esn: true,
    counterNonce: false,
  });
  const got: ReserveOutcome[] = [];
  for (let i = 0; i < 2; i++) {
    allocator.reserve({ sa, node: "t1", epoch: 1n, count: 10, nextUnsent: 0n }, (outcome) => got.push(outcome));
  }
  expect(got[0]).toMatchObject({ grant: { first: last, end: last + 1n } });
  expect(got[1]).toMatchObject({ refused: { code: "cluster.exhausted" } });
});

/** t1 stays at 1; t2 uses up all that the window leaves it. W 64, allowance 4: t2 may go up to 1 + 60. */
function leaveBehind(): void {
  grant("t1", 32);
  expect(grant("t2", 32)).toMatchObject({ first: 33n, end: 43n });
  expect(grant("t2", 32, 43n)).toMatchObject({ end: 58n });
  expect(grant("t2", 10, 58n)).toMatchObject({ first: 58n, end: 61n });
}

test("A7 a grant that the window does not allow recalls the one in the way, and waits for it", async () => {
  await register();
  leaveBehind();
  expect(recalls).toEqual(["t1 58 2"]);
  const waiting = reserve("t3", 8);
  expect(waiting.outcome).toBeNull();
  clock.advance(100);
  expect(recalls).toContain("t1 61 3");
  // t1 refreshes: its low moves up, t3 is served.
  expect(grant("t1", 6, 30n)).toMatchObject({ first: 61n });
  expect(waiting.outcome).toMatchObject({ grant: { first: 67n } });
});

test("A7 a holder that gives its lease back, or is gone for long, no longer binds others", async () => {
  await register();
  leaveBehind();
  const released = reserve("t3", 4);
  await allocator.release(SA, "t1");
  expect(released.outcome).toMatchObject({ grant: { first: 61n } });

  for (let next = 65n; next < 118n;) next = grant("t3", 8, next).end;
  const held = reserve("t4", 8);
  expect(held.outcome).toBeNull();
  allocator.disconnected("t2");
  clock.advance(100);
  expect(held.outcome).toBeNull();
  clock.advance(200);
  expect(refusal(held)).toBe("cluster.windowHeld");
  expect(counters.get("allocator.windowHeld")).toBe(1);
  clock.advance(3000);
  expect(reserve("t4", 8).outcome).toMatchObject({ grant: { first: 118n } });
});

test("a later request of a node takes the place of its waiting one", async () => {
  await register();
  leaveBehind();
  const first = reserve("t3", 4);
  const second = reserve("t3", 4);
  expect(refusal(first)).toBe("cluster.windowHeld");
  expect(second.outcome).toBeNull();
  allocator.disconnected("t3");
  expect(refusal(second)).toBe("cluster.windowHeld");
});

test("A7 who joins a sole holder waits until that one has moved to a short lease, and its packets have settled", async () => {
  await register();
  expect(grant("t1", 500)).toMatchObject({ end: 501n, holders: 1 });
  const joining = reserve("t2", 500);
  expect(joining.outcome).toBeNull();
  expect(recalls).toEqual(["t1 501 2"]);
  // Contiguous, but t1 still sends low numbers.
  expect(grant("t1", 500, 200n)).toMatchObject({ first: 501n, end: 503n, holders: 2 });
  expect(joining.outcome).toBeNull();
  allocator.report({ sa: SA, node: "t1", epoch: 0n, nextUnsent: 501n });
  clock.advance(50);
  expect(joining.outcome).toBeNull();
  allocator.report({ sa: SA, node: "t1", epoch: 1n, nextUnsent: 501n });
  // What t1 says on the way does not put it off.
  clock.advance(5);
  allocator.report({ sa: SA, node: "t1", epoch: 1n, nextUnsent: 502n });
  expect(joining.outcome).toBeNull();
  clock.advance(20);
  expect(joining.outcome).toMatchObject({ grant: { first: 503n, end: 513n, holders: 2 } });
});

test("A8 a report of numbers that were never granted spoils the SA", async () => {
  await register();
  grant("t1", 10);
  allocator.report({ sa: SA, node: "t1", epoch: 1n, nextUnsent: 5000n });
  expect(refusal(reserve("t1", 1))).toBe("cluster.exhausted");
});

test("a lease that the high-water mark leaves behind by half a window is recalled, again only after a while", async () => {
  await register();
  grant("t1", 4);
  for (let next = 5n; next < 35n;) next = grant("t2", 10, next === 5n ? 0n : next).end;
  expect(recalls).toEqual([]);
  grant("t2", 10, 35n);
  expect(recalls).toEqual(["t1 45 2"]);
  grant("t2", 1, 44n);
  expect(recalls).toHaveLength(1);
  clock.advance(150);
  grant("t2", 1, 44n);
  expect(recalls).toHaveLength(2);
});

test("a sole holder's range is bounded, whatever it asks for; one among several is bounded by the window", async () => {
  await register();
  const long = reserve("t1", 1_000_000);
  await settled();
  expect(long.outcome).toMatchObject({ grant: { end: 8193n } });
  const longer = reserve("t1", 1_000_000, 8100n);
  await settled();
  expect(longer.outcome).toMatchObject({ grant: { end: 8100n + 12_288n } });
  await allocator.release(SA, "t1");
  expect(grant("t2", 5)).toMatchObject({ first: 20_388n });
  expect(grant("t1", 1_000_000)).toMatchObject({ first: 20_393n, end: 20_403n });
});

test("A8 a node that claims numbers nobody granted spoils the SA", async () => {
  await register();
  grant("t1", 10);
  expect(refusal(reserve("t2", 1, 5000n))).toBe("cluster.exhausted");
  expect(refusal(reserve("t1", 1, 3n))).toBe("cluster.exhausted");
  expect(rekeys).toEqual([SA]);
  expect(counters.get("allocator.spoilt")).toBe(1);
});

test("A8 a spoilt SA stays so over a restart, and a claim is acknowledged when that is durable", async () => {
  await register();
  grant("t1", 10);
  store.auto = false;
  let isHeard = false;
  const claim = allocator.release(SA, "t1", 5000n).then(() => (isHeard = true));
  await settled();
  expect(isHeard).toBe(false);
  store.flush();
  await claim;
  expect(isHeard).toBe(true);
  start();
  await register();
  expect(refusal(reserve("t1", 1))).toBe("cluster.exhausted");
  expect(rekeys).toEqual([SA, SA]);
});

test.each([
  ["a request", (): unknown => reserve("t2", 1, 5000n)],
  ["a report", (): unknown => allocator.report({ sa: SA, node: "t1", epoch: 1n, nextUnsent: 5000n })],
  ["a registration", (): unknown => register(5000n)],
])("A8 %s that spoils an SA does so for good", async (_name, spoil) => {
  await register();
  grant("t1", 10);
  await spoil();
  start();
  expect(refusal(reserve("t1", 1))).toBe("cluster.exhausted");
});

test("A2 callers wait while a ceiling is written, and are answered in order", async () => {
  await register();
  store.auto = false;
  let next = 1n;
  while (next < 960n) next = grant("t1", 32, next).end;
  expect(store.waiting).toBe(1);
  expect(grant("t1", 40, next).end).toBe(1001n);
  const waiting = reserve("t1", 32);
  expect(waiting.outcome).toBeNull();
  store.flush();
  await settled();
  expect(waiting.outcome).toMatchObject({ grant: { first: 1001n } });
});

test("A4 a failed write refuses what waits and everything after it", async () => {
  await register();
  store.auto = false;
  store.broken = true;
  let next = 1n;
  while (next < 960n) next = grant("t1", 32, next).end;
  const waiting = reserve("t1", 48);
  store.flush();
  await settled();
  expect(refusal(waiting)).toBe("store.failed");
  expect(refusal(reserve("t2", 1))).toBe("store.failed");
  await expect(allocator.own(DVIPA, "d1")).rejects.toMatchObject({ code: "store.failed" });
  await expect(register()).rejects.toMatchObject({ code: "store.failed" });
  expect(allocator.failure?.code).toBe("store.failed");
});

test("an SA is carried over while its ceiling is being raised", async () => {
  await register();
  await allocator.own(DVIPA, "d2");
  start();
  await register(1n, false, 64, 2n);
  store.auto = false;
  const { outcome } = reserve("t1", 1, 0n, 2n);
  expect(outcome).toBeNull();
  store.auto = true;
  await allocator.own(DVIPA, "d3");
  const carried = register(1n, false, 64, 3n);
  store.flush();
  await carried;
  expect(reserve("t1", 1, 0n, 3n).outcome).toMatchObject({ grant: { first: 1001n } });
});

test("an SA of an old epoch that nobody carries over is dropped in the end", async () => {
  await register();
  await allocator.own(DVIPA, "d2");
  for (let i = 0; i < 70; i++) {
    clock.advance(10_000);
    await settled();
    if (i === 50) expect(allocator.lines()).toHaveLength(1);
  }
  expect(allocator.lines()).toHaveLength(0);
});
