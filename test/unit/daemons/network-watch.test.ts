import { describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { silentLog } from "../../../src/core/log.ts";
import { NetworkWatch } from "../../../src/daemons/node/network-watch.ts";
import { FakeClock } from "./fake-clock.ts";

/** A host whose network another program changes. */
class World {
  readonly clock = new FakeClock();
  readonly counters = new Counters();
  readonly watch: NetworkWatch;
  lost: string[] = [];
  looks = 0;
  restored = 0;
  closed = 0;
  /** What stands in the way of the next attempts. */
  faults: string[] = [];
  change: () => void = () => {};

  constructor() {
    this.watch = new NetworkWatch({
      missing: () => {
        this.looks += 1;
        return Promise.resolve(this.lost);
      },
      restore: () => {
        const fault = this.faults.shift();
        if (fault !== undefined) return Promise.reject(new Error(fault));
        this.restored += 1;
        this.lost = [];
        // What is put back is a change too.
        this.change();
        return Promise.resolve();
      },
      events: (onChange) => {
        this.change = onChange;
        return [{ close: () => (this.closed += 1) }];
      },
      clock: this.clock,
      counters: this.counters,
      log: silentLog,
    });
    this.watch.start();
  }
}

describe("NetworkWatch", () => {
  it("puts back what is missing, and comes to rest", async () => {
    const world = new World();
    world.lost = ["table inet esplex"];
    world.change();
    await world.clock.advance(20);
    expect([world.looks, world.restored]).toEqual([1, 1]);
    expect(world.counters.get("network.foreignChange")).toBe(1);
    await world.clock.advance(60_000);
    expect([world.looks, world.restored, world.clock.waiting]).toEqual([2, 1, 0]);
  });

  it("does nothing where nothing of ours is missing", async () => {
    const world = new World();
    world.change();
    await world.clock.advance(10_000);
    expect([world.looks, world.restored, world.counters.get("network.foreignChange")]).toEqual([1, 0, 0]);
  });

  it("looks once for a bunch of changes, and once a second however many there are", async () => {
    const world = new World();
    for (let i = 0; i < 500; i++) {
      world.change();
      await world.clock.advance(10);
    }
    expect(world.looks).toBeGreaterThanOrEqual(4);
    expect(world.looks).toBeLessThanOrEqual(6);
  });

  it("tries again what could not be put back, without another change", async () => {
    const world = new World();
    world.lost = ["a route of table 1163919361"];
    world.faults = ["ENETDOWN", "ENETDOWN"];
    world.change();
    await world.clock.advance(11_000);
    expect([world.restored, world.lost]).toEqual([1, []]);
    expect(world.counters.get("network.restoreFailed")).toBe(2);
  });

  it("does nothing once it is closed", async () => {
    const world = new World();
    world.lost = ["address 192.0.2.100"];
    world.change();
    world.watch.close();
    world.change();
    await world.clock.advance(10_000);
    expect([world.looks, world.restored, world.closed]).toEqual([0, 0, 1]);
  });
});
