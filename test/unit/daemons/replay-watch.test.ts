import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { silentLog } from "../../../src/core/log.ts";
import { ReplayWatch } from "../../../src/daemons/node/replay-watch.ts";
import type { StateReceived } from "../../../src/sa/received-numbers.ts";
import { InboundReplay } from "../../../src/steer/inbound-replay.ts";
import { sampleSa } from "../sa/esp-builder.ts";
import { FakeClock } from "./fake-clock.ts";

const sa = sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport");

let clock: FakeClock;
let counters: Counters;
let replay: InboundReplay;
let watch: ReplayWatch;
let asked: string[];
let down: Set<string>;
let answer: (node: string) => Promise<StateReceived | null>;

/** A kernel that has received these, of the last eight. */
function kernelWith(...numbers: readonly number[]): StateReceived {
  const highest = Math.max(0, ...numbers);
  const bits = numbers.reduce((sum, number) => sum | (1 << (highest - number)), 0);
  return { highest: BigInt(highest), bits: new Uint8Array([bits]), bornSeconds: 1n };
}

beforeEach(() => {
  clock = new FakeClock();
  counters = new Counters();
  replay = new InboundReplay(64, false);
  asked = [];
  down = new Set();
  answer = () => Promise.resolve(kernelWith());
  watch = new ReplayWatch({
    sas: [{ sa, replay }],
    isReachable: (node) => !down.has(node),
    ask: async (node, saIds) => {
      asked.push(node);
      expect(saIds).toEqual([sa.id]);
      return [await answer(node)];
    },
    ...{ clock, counters, log: silentLog },
  });
  watch.start();
});

/** Of every packet here; whether it is the one that was passed on. */
const MARK = 1;
const isTwin = (number: number): boolean => replay.admit(number) === "doubled" && replay.isTwin(number, MARK);

describe("the watch over what nodes have received", () => {
  it("asks the nodes that packets were passed to, until all is settled, and nobody while nothing comes", async () => {
    await clock.advance(5_000);
    expect(asked).toEqual([]);
    replay.passed(3, "t1", MARK, clock.nowMs());
    answer = () => Promise.resolve(kernelWith(3));
    await clock.advance(5_000);
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.length).toBeLessThanOrEqual(3);
    expect(new Set(asked)).toEqual(new Set(["t1"]));
    expect(replay.admit(3)).toBe("replayed");
  });

  it("takes what went to a node that is out of reach, or that does not have the SA, as lost", async () => {
    replay.passed(3, "t1", MARK, clock.nowMs());
    down.add("t1");
    watch.lost("t1");
    expect([isTwin(3), replay.isBusy]).toEqual([true, false]);
    // Its daemon is away; its kernel still gets the packets of its connections.
    replay.passed(4, "t1", MARK, clock.nowMs());
    await clock.advance(200);
    expect([isTwin(4), replay.isBusy]).toEqual([true, false]);
    replay.passed(5, "t2", MARK, clock.nowMs());
    answer = () => Promise.resolve(null);
    await clock.advance(200);
    expect([isTwin(5), replay.isBusy]).toEqual([true, false]);
  });

  it("counts a report that is refused, and asks again", async () => {
    replay.passed(3, "t1", MARK, clock.nowMs());
    answer = () => Promise.resolve(kernelWith(4_000));
    await clock.advance(300);
    expect(counters.get("replay.ahead")).toBeGreaterThan(1);
    expect(replay.received()).toBeNull();
    answer = () => Promise.resolve(kernelWith(3));
    await clock.advance(300);
    expect(replay.admit(3)).toBe("replayed");
  });

  it("asks a slow node less often", async () => {
    answer = () => new Promise((resolve) => clock.after(200, () => resolve(kernelWith())));
    for (let i = 0; i < 100; i++) {
      replay.passed(i + 1, "t1", MARK, clock.nowMs());
      await clock.advance(100);
    }
    expect(asked.length).toBeGreaterThanOrEqual(3);
    expect(asked.length).toBeLessThanOrEqual(6);
  });

  it("asks a node that was slow once before what it got since is given up", async () => {
    answer = () => new Promise((resolve) => clock.after(3_000, () => resolve(kernelWith(1))));
    replay.passed(1, "t1", MARK, clock.nowMs());
    await clock.advance(3_500);
    answer = () => Promise.resolve(kernelWith(1, 2));
    replay.passed(2, "t1", MARK, clock.nowMs());
    await clock.advance(10_000);
    expect([replay.admit(1), replay.admit(2)]).toEqual(["replayed", "replayed"]);
  });
});
