import { expect, test } from "vitest";
import { type HolderState, initialHolder, leaseOf, stepHolder } from "../../../src/sequence/holder.ts";
import type { HolderEffect, HolderEvent } from "../../../src/sequence/holder-events.ts";
import { sharedLeaseNumbers, windowCarriesBursts } from "../../../src/sequence/size.ts";

const W = 64;

/** Feeds events; gives the last state and all effects of the last event. */
function after(
  state: HolderState,
  ...events: readonly HolderEvent[]
): { state: HolderState; effects: readonly HolderEffect[] } {
  let effects: readonly HolderEffect[] = [];
  for (const event of events) ({ state, effects } = stepHolder(state, event));
  return { state, effects };
}

/** A sole lease that keeps one length. */
const parked = (): HolderState => initialHolder(W, true, { firstNumbers: 32, longestNumbers: 32 });
const want: HolderEvent = { kind: "want", nowMs: 0 };
const granted = (first: bigint, end: bigint, nowMs = 0, holders = 1): HolderEvent => ({
  kind: "granted",
  first,
  end,
  holders,
  nowMs,
});
const threshold = (oseq: bigint, nowMs = 0): HolderEvent => ({ kind: "threshold", oseq, nowMs });
const held = (): HolderState => after(parked(), want, granted(1n, 33n)).state;

test("want: reserve, install, ready; a second want while held is ready at once", () => {
  const asked = after(parked(), want);
  expect(asked.effects).toEqual([{ kind: "reserve", count: 32, nextUnsent: 0n }]);
  const got = after(asked.state, want, granted(1n, 33n));
  expect(got.effects).toEqual([{ kind: "install", first: 1n, end: 33n, token: 1 }, { kind: "ready" }]);
  expect(leaseOf(got.state)).toEqual({ nextUnsent: 1n, end: 33n });
  expect(after(got.state, want).effects).toEqual([{ kind: "ready" }]);
});

test("H4 the refill starts at half of the lease, once", () => {
  expect(after(held(), threshold(15n)).effects).toEqual([]);
  const { state, effects } = after(held(), threshold(16n));
  expect(effects).toEqual([{ kind: "reserve", count: 32, nextUnsent: 17n }]);
  expect(after(state, threshold(20n)).effects).toEqual([]);
});

test("H3 a contiguous block is credit alone, and no more than lies above what could be sent before", () => {
  const asked = after(held(), threshold(16n)).state;
  const { state, effects } = after(asked, granted(33n, 65n));
  expect(effects).toEqual([{ kind: "extend", newEnd: 65n, creditNumbers: 32n, token: 2 }]);
  // The kernel was at 20 when the credit was written: it reaches 52, so 12 numbers are to spare.
  const applied = after(state, { kind: "applied", token: 2, oseq: 20n, lastSendable: 52n, nowMs: 0 }).state;
  const refill = after(applied, threshold(36n));
  expect(refill.effects).toEqual([{ kind: "reserve", count: 20, nextUnsent: 37n }]);
  expect(after(refill.state, granted(65n, 85n)).effects).toEqual([
    { kind: "extend", newEnd: 85n, creditNumbers: 32n, token: 3 },
  ]);
});

test("H3 a block too short to be worth the loss of the running credit waits for the next", () => {
  const asked = after(held(), threshold(16n)).state;
  const short = after(asked, granted(33n, 37n));
  expect(short.effects).toEqual([{ kind: "reserve", count: 28, nextUnsent: 17n }]);
  expect(after(short.state, granted(37n, 65n)).effects).toEqual([
    { kind: "extend", newEnd: 65n, creditNumbers: 32n, token: 2 },
  ]);
});

test("a block elsewhere replaces the lease and burns its rest", () => {
  const asked = after(held(), threshold(16n)).state;
  const { state, effects } = after(asked, granted(100n, 110n, 0, 2));
  expect(effects).toEqual([
    { kind: "install", first: 100n, end: 110n, token: 2 },
    { kind: "burnt", first: 17n, end: 33n, why: "replaced" },
  ]);
  // Two holders share half a window: 64 / 2 / 3.
  expect(after(state, threshold(104n)).effects).toEqual([{ kind: "reserve", count: 10, nextUnsent: 105n }]);
});

test("H2 late and repeated grants are never installed", () => {
  const { state } = after(held(), threshold(16n), granted(33n, 65n));
  expect(after(state, granted(33n, 65n)).effects).toEqual([]);
  expect(after(state, granted(90n, 95n)).effects).toEqual([{ kind: "burnt", first: 90n, end: 95n, why: "unasked" }]);
  const asking = after(state, threshold(60n)).state;
  expect(asking.isAsking).toBe(true);
  expect(after(asking, granted(33n, 65n)).effects).toEqual([]);
});

test("H1 a kernel that is beyond its lease loses all credit", () => {
  const tripped = after(held(), threshold(40n));
  const burnt = { kind: "burnt", first: 1n, end: 33n, why: "tripped" };
  expect(tripped.effects).toEqual([{ kind: "park" }, burnt, { kind: "release", nextUnsent: 41n }]);
  expect(tripped.state.kind).toBe("parked");
  const applied: HolderEvent = { kind: "applied", token: 1, oseq: 4n, lastSendable: 33n, nowMs: 0 };
  expect(after(held(), applied).effects[0]).toEqual({ kind: "park" });
});

test("H1 H2 what the tripwire found used is never sent again, and told when it was not ours", () => {
  const within = after(held(), { kind: "tripped", lastUsable: 32n, nowMs: 0 });
  const burnt = { kind: "burnt", first: 1n, end: 33n, why: "tripped" };
  expect(within.effects).toEqual([burnt, expect.objectContaining({ kind: "reserve", nextUnsent: 0n })]);
  const beyond = after(held(), { kind: "tripped", lastUsable: 33n, nowMs: 0 });
  expect(beyond.effects.slice(0, 2)).toEqual([burnt, { kind: "release", nextUnsent: 34n }]);
  expect(after(beyond.state, granted(33n, 65n)).effects).toEqual([]);
});

test("events from before the lease, and of older leases, are ignored", () => {
  const asked = after(held(), threshold(16n), granted(100n, 132n)).state;
  expect(after(asked, threshold(30n)).state).toEqual(asked);
  expect(after(asked, { kind: "applied", token: 1, oseq: 3n, lastSendable: 500n, nowMs: 0 }).state).toEqual(asked);
});

test("an expired state is born again with the next lease", () => {
  const { state, effects } = after(held(), threshold(10n), { kind: "expired", nowMs: 0 });
  expect(effects).toEqual([{ kind: "reserve", count: 32, nextUnsent: 0n }]);
  expect(after(state, granted(33n, 65n)).effects).toEqual([{ kind: "reinstall", first: 33n, end: 65n, token: 2 }]);
  expect(after(parked(), { kind: "expired", nowMs: 0 }).effects).toHaveLength(1);
});

test("recall: a busy holder refreshes, an idle one asks to park, a parked one says so", () => {
  const recall = (nowMs: number): HolderEvent => ({ kind: "recall", holders: 2, nowMs });
  expect(after(held(), threshold(3n, 900), recall(1000)).effects).toEqual([
    { kind: "reserve", count: 10, nextUnsent: 4n },
  ]);
  const idle = after(held(), threshold(3n, 0), recall(1000));
  expect(idle.effects).toEqual([{ kind: "askPark" }]);
  const denied = after(idle.state, { kind: "parkDenied", nowMs: 1000 });
  expect(denied.effects).toEqual([{ kind: "reserve", count: 10, nextUnsent: 4n }]);
  expect(after(parked(), recall(0)).effects).toEqual([{ kind: "release", nextUnsent: 0n }]);
});

/** One of two holders, with a lease of 32 all the same. */
const heldAmongTwo = (): HolderState => after(parked(), want, granted(1n, 33n, 0, 2)).state;

test("an idle holder that is alone keeps its lease until a recall: given back, its numbers would be burnt", () => {
  const later: HolderEvent = { kind: "tick", oseq: null, nowMs: 60_000 };
  expect(after(held(), later).effects).toEqual([]);
  expect(after(held(), { kind: "recall", holders: 2, nowMs: 60_000 }).effects).toEqual([{ kind: "askPark" }]);
});

test("an idle holder that may not park keeps its lease and asks again later; recalled, it asks again sooner", () => {
  const idle = (nowMs: number): HolderEvent => ({ kind: "tick", oseq: null, nowMs });
  const denied = after(heldAmongTwo(), idle(3000), { kind: "parkDenied", nowMs: 3000 });
  expect(denied.effects).toEqual([]);
  expect(after(denied.state, idle(7900)).effects).toEqual([]);
  expect(after(denied.state, idle(8000)).effects).toEqual([{ kind: "askPark" }]);
  const recall = (nowMs: number): HolderEvent => ({ kind: "recall", holders: 2, nowMs });
  expect(after(denied.state, recall(3400)).effects).toMatchObject([{ kind: "reserve" }]);
  expect(after(denied.state, recall(3600)).effects).toEqual([{ kind: "askPark" }]);
});

test("H5 parking: credit away first, then the release; a want in between cancels it", () => {
  const asking = after(heldAmongTwo(), { kind: "tick", oseq: null, nowMs: 5000 });
  expect(asking.effects).toEqual([{ kind: "askPark" }]);
  const allowed: HolderEvent = { kind: "parkAllowed", nowMs: 5000 };
  expect(after(asking.state, allowed).effects).toEqual([
    { kind: "park" },
    { kind: "burnt", first: 1n, end: 33n, why: "parked" },
    { kind: "release", nextUnsent: 0n },
  ]);
  expect(after(asking.state, want, allowed).effects).toEqual([]);
  expect(after(asking.state, threshold(5n, 5000), allowed).effects).toEqual([]);
});

test("a lease that is about to come is not given away: no release overtakes its installation", () => {
  const asking = after(
    held(),
    threshold(3n, 0),
    { kind: "tick", oseq: null, nowMs: 5000 },
    { kind: "recall", holders: 1, nowMs: 5000 },
  );
  expect(asking.state).toMatchObject({ isParking: true });
  const both: HolderState = { ...asking.state, isAsking: true };
  expect(after(both, { kind: "parkAllowed", nowMs: 5000 }).effects).toEqual([]);
});

test("refusals: a passing one is tried again, a final one ends all asking", () => {
  const asked = after(parked(), want).state;
  const passing = after(asked, { kind: "refused", code: "bus.timeout", nowMs: 0 });
  expect(passing.effects).toEqual([]);
  expect(after(passing.state, { kind: "tick", oseq: null, nowMs: 50 }).effects).toEqual([]);
  expect(after(passing.state, { kind: "tick", oseq: null, nowMs: 100 }).effects).toHaveLength(1);
  const final = after(asked, { kind: "refused", code: "cluster.exhausted", nowMs: 0 });
  expect(final.effects).toEqual([{ kind: "unready", code: "cluster.exhausted" }]);
  expect(after(final.state, want).effects).toEqual([{ kind: "unready", code: "cluster.exhausted" }]);
  expect(after(final.state, { kind: "tick", oseq: null, nowMs: 9999 }).effects).toEqual([]);
});

test("adopted: a new block is asked for at once and replaces what was found", () => {
  const found = after(parked(), { kind: "adopted", oseq: 9n, lastSendable: 20n, nowMs: 0 });
  expect(found.effects).toEqual([{ kind: "reserve", count: 32, nextUnsent: 10n }]);
  expect(after(found.state, granted(21n, 53n)).effects).toEqual([
    { kind: "install", first: 21n, end: 53n, token: 1 },
    { kind: "burnt", first: 10n, end: 21n, why: "replaced" },
  ]);
  const empty = after(parked(), { kind: "adopted", oseq: 20n, lastSendable: 20n, nowMs: 0 });
  expect(empty.effects).toEqual([]);
  // H2 also over the restart: a grant of the earlier process comes late.
  expect(after(empty.state, want, granted(15n, 25n)).effects).toEqual([]);
});

test("lease sizes follow the window and the number of holders", () => {
  expect([2, 3, 8].map((holders) => sharedLeaseNumbers(1024, holders))).toEqual([170, 128, 56]);
  expect(sharedLeaseNumbers(32, 40)).toBe(1);
  expect([1, 2].map((holders) => windowCarriesBursts(32, holders))).toEqual([true, false]);
  expect(windowCarriesBursts(128, 3)).toBe(true);
});

/** How many numbers are asked for when half of `[first, end)` is used at `nowMs`; and the grant that follows. */
function refillOf(state: HolderState, nowMs: number): { count: number; state: HolderState } {
  const lease = leaseOf(state);
  if (lease === null) throw new Error("no lease");
  const asked = after(state, threshold((lease.nextUnsent + lease.end) / 2n, nowMs));
  const [reserve] = asked.effects;
  if (reserve?.kind !== "reserve") throw new Error("no refill");
  return {
    count: reserve.count,
    state: after(asked.state, granted(lease.end, lease.end + BigInt(reserve.count), nowMs)).state,
  };
}

test("a sole holder's leases grow while they are used fast, and shrink while they are not", () => {
  const start = initialHolder(W, true, { firstNumbers: 32, longestNumbers: 128 });
  const held = after(start, want, granted(1n, 33n)).state;
  const first = refillOf(held, 50);
  const second = refillOf(first.state, 100);
  const third = refillOf(second.state, 150);
  const fourth = refillOf(third.state, 2000);
  const fifth = refillOf(fourth.state, 2500);
  expect([first, second, third, fourth, fifth].map(({ count }) => count)).toEqual([32, 64, 128, 128, 64]);
});

test("a sole holder whose kernel ran out of numbers gets more at once", () => {
  const start = initialHolder(W, true, { firstNumbers: 32, longestNumbers: 128 });
  const held = after(start, want, granted(1n, 33n)).state;
  expect(after(held, { kind: "expired", nowMs: 5000 }).effects).toContainEqual({
    kind: "reserve",
    count: 64,
    nextUnsent: 0n,
  });
});

test("H6 after a recall a contiguous block replaces the lease, and its start is reported when the kernel has it", () => {
  const recalled = after(held(), threshold(4n), { kind: "recall", holders: 2, nowMs: 0 });
  expect(recalled.effects).toEqual([{ kind: "reserve", count: 10, nextUnsent: 5n }]);
  const moved = after(recalled.state, granted(33n, 43n, 0, 2));
  expect(moved.effects).toEqual([
    { kind: "install", first: 33n, end: 43n, token: 2 },
    { kind: "burnt", first: 5n, end: 33n, why: "replaced" },
  ]);
  const applied: HolderEvent = { kind: "applied", token: 2, oseq: 32n, lastSendable: 42n, nowMs: 0 };
  const reported = after(moved.state, applied);
  expect(reported.effects).toEqual([{ kind: "report", nextUnsent: 33n }]);
  // Once, and the next block extends again.
  const refill = after(reported.state, threshold(38n));
  const { effects } = after(refill.state, granted(43n, 53n, 0, 2));
  expect(effects).toEqual([{ kind: "extend", newEnd: 53n, creditNumbers: 10n, token: 3 }]);
});
