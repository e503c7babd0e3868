import { beforeEach, describe, expect, it } from "vitest";
import type { RequestBody } from "../../../src/bus/messages.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { TargetFeed } from "../../../src/daemons/node/target-feed.ts";
import { FakeClock, settle } from "./fake-clock.ts";

/** The parts of one snapshot. */
const PARTS = 3;
/** `MAX_BACKLOG`, `PATIENCE_MS`. */
const MAX_BACKLOG = 4096;
const PATIENCE_MS = 2_000;

let clock: FakeClock;
let feed: TargetFeed;
/** What the target was told, in order, and what waits for its answer. */
let told: string[];
let unanswered: { answer: () => void; fail: (error: Error) => void }[];
let closed: string[];
let synced: number;

beforeEach(() => {
  clock = new FakeClock();
  told = [];
  unanswered = [];
  closed = [];
  synced = 0;
  let snapshots = 0;
  feed = new TargetFeed({
    connection: {
      request: (type: string, body: unknown) => ask(`${type} ${(body as { part: number }).part}`) as never,
      close: (reason) => {
        closed.push(reason);
      },
    },
    parts: function* () {
      const snapshot = snapshots++;
      for (let part = 0; part < PARTS; part++) {
        const dvipas = [{ address: `192.0.2.${snapshot}`, epoch: 1n, ports: "ALL" as const, handsOver: false }];
        yield { part, last: part === PARTS - 1, dvipas, sas: [] } satisfies RequestBody<"snapshot">;
      }
    },
    onSynced: () => {
      synced++;
    },
    clock,
  });
});

function ask(what: string): Promise<object> {
  told.push(what);
  return new Promise((resolve, reject) => unanswered.push({ answer: () => resolve({}), fail: reject }));
}

/** The target answers what it was asked, one thing after the other, until nothing waits. */
async function answerAll(): Promise<void> {
  await settle();
  while (unanswered.length > 0) {
    unanswered.shift()?.answer();
    await settle();
  }
}

/** Whether the promise has settled by now. */
async function isDone(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  void promise.finally(() => (done = true)).catch(() => {});
  await settle();
  return done;
}

describe("a target that is told everything", () => {
  it("gets a part when it has taken the one before", async () => {
    feed.tellAll();
    await settle();
    expect(told).toEqual(["snapshot 0"]);
    expect(feed.isSynced).toBe(false);
    unanswered.shift()?.answer();
    await settle();
    expect(told).toEqual(["snapshot 0", "snapshot 1"]);
    await answerAll();
    expect(told).toEqual(["snapshot 0", "snapshot 1", "snapshot 2"]);
    expect([feed.isSynced, synced]).toEqual([true, 1]);
  });

  it("gets the changes of that time after it, one after the other in their order, and is waited for", async () => {
    feed.tellAll();
    const first = feed.deliver(() => ask("first"));
    unanswered.shift()?.answer();
    const second = feed.deliver(() => ask("second"));
    await settle();
    expect(await isDone(first)).toBe(false);
    unanswered.shift()?.answer();
    await settle();
    unanswered.shift()?.answer();
    await settle();
    expect(told).toEqual(["snapshot 0", "snapshot 1", "snapshot 2", "first"]);
    expect([feed.isSynced, synced]).toEqual([false, 0]);
    unanswered.shift()?.answer();
    expect(await isDone(first)).toBe(true);
    expect(told.at(-1)).toBe("second");
    await answerAll();
    await second;
    expect([feed.isSynced, synced]).toEqual([true, 1]);
    // From now on at once, beside each other.
    void feed.deliver(() => ask("third"));
    void feed.deliver(() => ask("fourth"));
    expect(told.slice(-2)).toEqual(["third", "fourth"]);
  });

  it("is not waited for once it was too slow for one change, until it has followed", async () => {
    feed.tellAll();
    const first = feed.deliver(() => ask("first"));
    await clock.advance(PATIENCE_MS - 1);
    expect(await isDone(first)).toBe(false);
    await clock.advance(1);
    expect(await isDone(first)).toBe(true);
    expect(await isDone(feed.deliver(() => ask("second")))).toBe(true);
    await answerAll();
    expect(told.slice(-2)).toEqual(["first", "second"]);
    feed.tellAll();
    expect(await isDone(feed.deliver(() => ask("third")))).toBe(false);
  });

  it("is told everything once more when that is wanted meanwhile, however often", async () => {
    feed.tellAll();
    feed.tellAll();
    feed.tellAll();
    const change = feed.deliver(() => ask("change"));
    await answerAll();
    await change;
    const snapshot = ["snapshot 0", "snapshot 1", "snapshot 2"];
    expect(told).toEqual([...snapshot, ...snapshot, "change"]);
    expect(synced).toBe(1);
  });

  it("is told everything once more when too many changes wait", async () => {
    feed.tellAll();
    const changes = Array.from({ length: MAX_BACKLOG + 1 }, (_, i) => feed.deliver(() => ask(`change ${i}`)));
    await Promise.all(changes);
    await answerAll();
    const snapshot = ["snapshot 0", "snapshot 1", "snapshot 2"];
    expect(told).toEqual([...snapshot, ...snapshot]);
    expect(feed.isSynced).toBe(true);
  });

  it.each([
    ["a part", 1],
    ["a change behind the parts", 3],
  ])("loses its connection when it does not take %s; nobody waits for it any more", async (_what, answers) => {
    feed.tellAll();
    const changes = [feed.deliver(() => ask("first")), feed.deliver(() => ask("second"))];
    for (let i = 0; i < answers; i++) {
      await settle();
      unanswered.shift()?.answer();
    }
    await settle();
    unanswered.shift()?.fail(new EsplexError("bus.timeout", "no answer"));
    await Promise.all(changes);
    expect(closed).toEqual(["snapshot failed: no answer"]);
    expect(synced).toBe(0);
  });
});

it("a change waits for a target that was told nothing yet", async () => {
  const change = feed.deliver(() => ask("change"));
  await settle();
  expect([told, feed.isSynced]).toEqual([[], false]);
  feed.tellAll();
  await answerAll();
  await change;
  expect(told.at(-1)).toBe("change");
});

it("a change for a target that has everything is as good as its answer", async () => {
  feed.tellAll();
  await answerAll();
  const failing = feed.deliver(() => ask("change"));
  unanswered.shift()?.fail(new EsplexError("bus.timeout", "no answer"));
  await expect(failing).rejects.toMatchObject({ code: "bus.timeout" });
  expect(closed).toEqual([]);
});
