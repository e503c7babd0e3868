import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { HoldingQueue } from "../../../src/steer/holding-queue.ts";
import { OfferedSpis } from "../../../src/steer/offered-spis.ts";
import { FakeClock, settle } from "../daemons/fake-clock.ts";

let clock: FakeClock;
let counters: Counters;
let queue: HoldingQueue;
let gone: string[];
let happen: () => void;
let fail: () => void;
let asked: number;

beforeEach(() => {
  clock = new FakeClock();
  counters = new Counters();
  queue = new HoldingQueue("early", clock, counters, { maxPerKey: 3, max: 4, maxMs: 1_000 });
  gone = [];
  asked = 0;
});

const event = (): Promise<void> =>
  new Promise((resolve, reject) => {
    asked += 1;
    happen = resolve;
    fail = () => reject(new Error("planted"));
  });
const hold = (key: string, name: string): void => queue.hold(key, event, () => gone.push(name));

describe("HoldingQueue", () => {
  it.each(["well", "badly"])("lets all of a key go, in order, when its event settles %s", async (how) => {
    hold("a", "1");
    hold("a", "2");
    await settle();
    expect([gone, asked, queue.isHolding("a")]).toEqual([[], 1, true]);
    if (how === "well") happen();
    else fail();
    await settle();
    expect([gone, queue.isHolding("a")]).toEqual([["1", "2"], false]);
    await clock.advance(5_000);
    expect(gone).toEqual(["1", "2"]);
    expect(counters.get("steer.early")).toBe(2);
  });

  it("lets them go when the time is over, and an event that comes later touches nobody else", async () => {
    hold("a", "1");
    const late = happen;
    await clock.advance(999);
    expect(gone).toEqual([]);
    await clock.advance(1);
    expect(gone).toEqual(["1"]);
    hold("a", "2");
    late();
    await settle();
    expect(gone).toEqual(["1"]);
    await clock.advance(1_000);
    expect(gone).toEqual(["1", "2"]);
  });

  it("has room for so many, per key and altogether; the others do not wait", async () => {
    for (const name of ["1", "2", "3", "4"]) hold("a", name);
    hold("b", "5");
    hold("c", "6");
    expect(gone).toEqual(["4", "6"]);
    expect(counters.get("steer.earlyFull")).toBe(2);
    await clock.advance(1_000);
    hold("c", "7");
    expect(gone).toEqual(["4", "6", "1", "2", "3", "5"]);
  });
});

describe("OfferedSpis", () => {
  it("waits for an SPI from its offer until it is settled", async () => {
    const offered = new OfferedSpis();
    expect(offered.untilInstalled(7)).toBeNull();
    offered.offer(7, 0);
    let isInstalled = false;
    void offered.untilInstalled(7)?.then(() => (isInstalled = true));
    await settle();
    expect([offered.has(7), isInstalled]).toEqual([true, false]);
    offered.settle(7);
    await settle();
    expect([offered.has(7), isInstalled, offered.untilInstalled(7)]).toEqual([false, true, null]);
  });

  it("remembers so many, and lets those of the oldest go", async () => {
    const offered = new OfferedSpis();
    offered.offer(256, 0);
    let isOver = false;
    void offered.untilInstalled(256)?.then(() => (isOver = true));
    for (let spi = 257; spi < 256 + 16_384; spi++) offered.offer(spi, 0);
    expect(offered.has(256)).toBe(true);
    offered.offer(99_999, 0);
    await settle();
    expect([offered.has(256), isOver, offered.has(257), offered.has(99_999)]).toEqual([false, true, true, true]);
  });

  it("forgets offers that came to nothing", async () => {
    const offered = new OfferedSpis();
    offered.offer(7, 0);
    let isOver = false;
    void offered.untilInstalled(7)?.then(() => (isOver = true));
    offered.offer(8, 299_999);
    expect(offered.has(7)).toBe(true);
    offered.offer(9, 300_000);
    await settle();
    expect([offered.has(7), isOver, offered.has(8), offered.has(9)]).toEqual([false, true, true, true]);
  });
});
