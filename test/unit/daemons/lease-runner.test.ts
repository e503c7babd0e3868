import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { silentLog } from "../../../src/core/log.ts";
import { eventThreshold, LeaseRunner, type LeaseKernel } from "../../../src/daemons/node/lease-runner.ts";
import type { SoleLease } from "../../../src/sequence/size.ts";
import type { LeaseReading } from "../../../src/xfrm/leases.ts";
import type { SequenceRange } from "../../../src/xfrm/states.ts";
import { sampleSa } from "../sa/esp-builder.ts";
import { FakeClock, settle } from "./fake-clock.ts";

/** One outbound state: sends what its lease allows, dies at the next packet. */
class FakeKernel {
  oseq = 0n;
  last = 0n;
  isAlive = true;
  readonly sent: bigint[] = [];
  readonly writes: string[] = [];
  /** What the tripwire found, once. */
  tripwire: EsplexError | null = null;
  /** Holds the answers to writes up. */
  answering: Promise<undefined> = Promise.resolve(undefined);

  /** True when the packet left. */
  send(): boolean {
    if (!this.isAlive) return false;
    if (this.oseq >= this.last) {
      this.isAlive = false;
      return false;
    }
    this.oseq += 1n;
    this.sent.push(this.oseq);
    return true;
  }

  readonly leases: LeaseKernel = {
    read: () => {
      const { tripwire } = this;
      this.tripwire = null;
      if (tripwire === null) return Promise.resolve(this.isAlive ? this.#reading() : null);
      this.isAlive = false;
      return Promise.reject(tripwire);
    },
    install: (_state, range) => this.#write(`install [${range.first}, ${range.end})`, () => this.lease(range)),
    extend: async (_state, end) => {
      const reading = await this.#write(`extend ${end}`, () => (this.last = end - 1n));
      return { ...reading, pendingNumbers: 0n };
    },
    park: () => this.#write("park", () => (this.last = this.oseq)),
  };

  lease({ first, end }: SequenceRange): void {
    this.isAlive = true;
    this.oseq = first - 1n;
    this.last = end - 1n;
  }

  #reading(): LeaseReading {
    const leftNumbers = this.last - this.oseq;
    return { oseq: this.oseq, leftNumbers, lastSendable: this.last, bytes: 0n, eventThresholdPackets: 8 };
  }

  async #write(what: string, change: () => void): Promise<LeaseReading> {
    if (!this.isAlive) throw new EsplexError("kernel.refused", "no such state", { code: "ESRCH", errno: 3 });
    this.writes.push(what);
    change();
    const reading = this.#reading();
    await this.answering;
    return reading;
  }
}

let clock: FakeClock;
let kernel: FakeKernel;
let counters: Counters;
let next: bigint;
let refusal: EsplexError | null;
let released: bigint[];
let releaseRefusal: EsplexError | null;
let reported: bigint[];
/** What the coupling service was told to count, and what it says. */
let counts: number[];
let countRefusal: EsplexError | null;
let instances: number;
let holders: number;
/** Holds requests for numbers up. */
let onTheWay: Promise<undefined>;
let mayPark: boolean;
let runner: LeaseRunner;

beforeEach(() => {
  clock = new FakeClock();
  kernel = new FakeKernel();
  counters = new Counters();
  next = 1n;
  refusal = null;
  released = [];
  releaseRefusal = null;
  reported = [];
  counts = [];
  countRefusal = null;
  instances = 1;
  holders = 1;
  onTheWay = Promise.resolve(undefined);
  mayPark = false;
  runner = startRunner();
});

function startRunner(soleLease?: SoleLease): LeaseRunner {
  const sa = { ...sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport"), peerWindowPackets: 128 };
  return new LeaseRunner(sa, 1n, kernel.isAlive, {
    leases: kernel.leases,
    reserve: async ({ count }) => {
      await onTheWay;
      if (refusal !== null) throw refusal;
      const first = next;
      next += BigInt(count);
      return { first, end: next, highWater: next, holders, rekeySoon: false };
    },
    release: ({ nextUnsent }) => {
      if (releaseRefusal !== null) return Promise.reject(releaseRefusal);
      return Promise.resolve(released.push(nextUnsent));
    },
    report: ({ nextUnsent }) => Promise.resolve(reported.push(nextUnsent)),
    countInstances: ({ count }) => {
      if (countRefusal !== null) return Promise.reject(countRefusal);
      return Promise.resolve(counts.push(count));
    },
    instances: () => instances,
    reinstall: (range) => {
      expect(counts).toContain(instances + 1);
      instances += 1;
      kernel.lease(range);
      return Promise.resolve();
    },
    onGone: () => {},
    askPark: () => Promise.resolve(mayPark),
    clock,
    counters,
    log: silentLog,
    ...(soleLease && { soleLease }),
  });
}

describe("LeaseRunner", () => {
  it("answers a want when the kernel holds a lease, not before", async () => {
    let isReady = false;
    const wanted = runner.want().then(() => (isReady = true));
    expect(isReady).toBe(false);
    await wanted;
    expect(kernel.writes).toEqual(["install [1, 513)"]);
    expect(kernel.send()).toBe(true);
  });

  it("refills while the kernel sends: nothing stops, no number twice", async () => {
    await runner.want();
    for (let packet = 0; packet < 1000; packet++) {
      expect(kernel.send()).toBe(true);
      if (packet % 8 === 7) {
        runner.sent(kernel.oseq, kernel.last - kernel.oseq + 1n);
        await settle();
      }
    }
    expect(new Set(kernel.sent).size).toBe(1000);
    expect(kernel.writes.filter((what) => what.startsWith("install"))).toHaveLength(1);
  });

  it("tells how long a refill took, from the kernel's event to the numbers in the kernel", async () => {
    await runner.want();
    expect(runner.status().refill).toEqual({ samples: 0, p50us: null, p99us: null });
    let answer = (): void => {};
    onTheWay = new Promise((resolve) => (answer = () => resolve(undefined)));
    while (kernel.sent.length < 300) kernel.send();
    runner.sent(kernel.oseq, kernel.last - kernel.oseq + 1n);
    await clock.advance(40);
    expect(runner.status().refill.samples).toBe(0);
    answer();
    await settle();
    const { samples, p50us } = runner.status().refill;
    expect(samples).toBe(1);
    expect(p50us).toBeGreaterThanOrEqual(40_000);
    expect(p50us).toBeLessThanOrEqual(45_001);
  });

  it("measures no refill where nobody could send: the first lease, and a state made anew", async () => {
    await runner.want();
    while (kernel.send());
    runner.expired();
    await settle();
    expect(kernel.isAlive).toBe(true);
    expect(runner.status().refill.samples).toBe(0);
  });

  it("measures the repetition of a refused refill, not the outage", async () => {
    await runner.want();
    refusal = new EsplexError("bus.closed", "away");
    while (kernel.sent.length < 300) kernel.send();
    runner.sent(kernel.oseq, kernel.last - kernel.oseq + 1n);
    await clock.advance(10_000);
    refusal = null;
    await clock.advance(1_000);
    const { samples, p99us } = runner.status().refill;
    expect(samples).toBe(1);
    expect(p99us).toBeLessThan(10_000);
  });

  it("takes leases of the length that it was given, in place of the production's", async () => {
    runner = startRunner({ firstNumbers: 32, longestNumbers: 32 });
    await runner.want();
    expect(kernel.writes).toEqual(["install [1, 33)"]);
    for (let packet = 0; packet < 320; packet++) {
      kernel.send();
      if (packet % 4 === 3) runner.sent(kernel.oseq, kernel.last - kernel.oseq + 1n);
      await settle();
    }
    expect(kernel.sent).toHaveLength(320);
    expect(kernel.last - kernel.oseq).toBeLessThanOrEqual(48n);
  });

  it("starts the state again with a new lease when it died at its limit", async () => {
    await runner.want();
    while (kernel.send());
    runner.expired();
    await settle();
    expect(kernel.isAlive).toBe(true);
    expect(kernel.send()).toBe(true);
    expect(new Set(kernel.sent).size).toBe(kernel.sent.length);
    expect(counters.get("lease.reinstalled")).toBe(1);
  });

  it("notices by itself that the state is gone when the event was lost", async () => {
    await runner.want();
    while (kernel.send());
    await clock.advance(2_000);
    expect(kernel.isAlive).toBe(true);
  });

  it("waits out a coupling service that is away", async () => {
    refusal = new EsplexError("bus.closed", "away");
    const wanted = runner.want();
    await clock.advance(1_000);
    expect(kernel.writes).toEqual([]);
    refusal = null;
    await clock.advance(1_000);
    await wanted;
    expect(kernel.send()).toBe(true);
  });

  it("says at once when there will never be numbers", async () => {
    refusal = new EsplexError("cluster.exhausted", "used up");
    await expect(runner.want()).rejects.toMatchObject({ code: "cluster.exhausted" });
  });

  it("parks an idle lease when it may: kernel first, then the service", async () => {
    mayPark = true;
    holders = 2;
    await runner.want();
    await clock.advance(5_000);
    expect(kernel.writes.at(-1)).toBe("park");
    expect(released).toEqual([0n]);
    expect(runner.holdsLease).toBe(false);
  });

  it("is needed from its first lease on until it may park, also when its numbers have come to an end", async () => {
    expect(runner.isNeeded).toBe(false);
    holders = 2;
    await runner.want();
    refusal = new EsplexError("cluster.exhausted", "used up");
    while (kernel.send());
    await clock.advance(1_000);
    expect([runner.holdsLease, runner.isNeeded]).toEqual([false, true]);
  });

  it("has a timer while it holds or wants numbers, or must say that it lost some, and none at rest", async () => {
    expect(clock.waiting).toBe(0);
    holders = 2;
    refusal = new EsplexError("cluster.windowHeld", "not now");
    const wanted = runner.want();
    await clock.advance(300);
    expect(clock.waiting).toBe(1);
    refusal = null;
    await clock.advance(300);
    await wanted;
    expect(clock.waiting).toBe(1);
    mayPark = true;
    await clock.advance(5_000);
    expect(kernel.writes.at(-1)).toBe("park");
    expect(clock.waiting).toBe(0);
    // Its state died although it held nothing: another one is made, whoever wants it.
    kernel.isAlive = false;
    refusal = new EsplexError("cluster.windowHeld", "not now");
    runner.expired();
    await clock.advance(300);
    expect(clock.waiting).toBe(1);
    refusal = null;
    await clock.advance(300);
    expect(kernel.isAlive).toBe(true);
  });

  it("is not needed once it has parked", async () => {
    mayPark = true;
    holders = 2;
    await runner.want();
    expect(runner.isNeeded).toBe(true);
    await clock.advance(5_000);
    expect(runner.isNeeded).toBe(false);
  });

  it("takes a new block instead when it may not park", async () => {
    holders = 2;
    await runner.want();
    await clock.advance(3_000);
    expect(runner.holdsLease).toBe(true);
    expect(kernel.writes).not.toContain("park");
  });

  it("burns what an earlier process left, and never sends it", async () => {
    kernel.lease({ first: 100n, end: 150n });
    next = 200n;
    runner.adopt({ oseq: 99n, leftNumbers: 50n, lastSendable: 149n, bytes: 0n, eventThresholdPackets: 8 });
    await settle();
    expect(kernel.writes).toEqual(["install [200, 712)"]);
    expect(counters.get("lease.burnt.replaced")).toBe(50);
  });

  it("has a kernel instance counted before its first lease, and once", async () => {
    await runner.want();
    await clock.advance(1_000);
    expect(counts).toEqual([1]);
  });

  it("sends nothing while the instance is not counted", async () => {
    countRefusal = new EsplexError("bus.closed", "away");
    const wanted = runner.want();
    await clock.advance(1_000);
    expect(kernel.writes).toEqual([]);
    countRefusal = null;
    await clock.advance(1_000);
    await wanted;
    expect(counts).toEqual([1]);
  });

  it("counts the next instance of a state that dies after its numbers were asked for", async () => {
    await runner.want();
    while (kernel.send());
    const { promise, resolve } = Promise.withResolvers<undefined>();
    onTheWay = promise;
    runner.sent(kernel.oseq, 0n);
    await settle();
    runner.expired();
    await settle();
    expect(counts).toEqual([1]);
    resolve(undefined);
    await settle();
    expect(counts).toEqual([1, 2]);
    expect(kernel.isAlive).toBe(true);
  });

  it("makes no state anew that the nonce budget has no room for", async () => {
    await runner.want();
    while (kernel.send());
    countRefusal = new EsplexError("cluster.exhausted", "the nonce budget is used up");
    runner.expired();
    await clock.advance(5_000);
    expect(kernel.isAlive).toBe(false);
    await expect(runner.want()).rejects.toMatchObject({ code: "cluster.exhausted" });
  });

  it("makes states anew that are gone when events were lost, whether it held a lease or not", async () => {
    kernel.isAlive = false;
    runner.resync();
    await settle();
    expect(kernel.isAlive).toBe(true);
    await runner.want();
    kernel.isAlive = false;
    runner.resync();
    await settle();
    expect(kernel.isAlive).toBe(true);
    expect(counts).toEqual([2, 3]);
  });

  it("goes on with new numbers above those that the tripwire found used", async () => {
    await runner.want();
    kernel.tripwire = new EsplexError("kernel.offload", "planted", { lastUsable: 60n });
    runner.resync();
    await settle();
    expect(released).toEqual([]);
    expect(counters.get("lease.tripped")).toBe(1);
    expect(counters.get("lease.burnt.tripped")).toBe(512);
    expect(kernel.isAlive).toBe(true);
    expect(kernel.oseq).toBeGreaterThanOrEqual(512n);
  });

  it("tells that numbers beyond its lease may have been used, until it is heard", async () => {
    await runner.want();
    releaseRefusal = new EsplexError("bus.closed", "away");
    kernel.tripwire = new EsplexError("kernel.offload", "planted", { lastUsable: 1000n });
    runner.resync();
    await clock.advance(1_000);
    expect(released).toEqual([]);
    releaseRefusal = null;
    await clock.advance(1_000);
    expect(released).toEqual([1001n]);
  });

  it("reads the kernel when an event's numbers and packets do not fit what it was left with", async () => {
    await runner.want();
    kernel.send();
    kernel.tripwire = new EsplexError("kernel.offload", "planted", { lastUsable: 512n });
    runner.sent(kernel.oseq, 512n);
    await settle();
    expect(counters.get("lease.tripped")).toBe(0);
    runner.sent(kernel.oseq, 513n);
    await settle();
    expect(counters.get("lease.tripped")).toBe(1);
  });

  it("does not read the kernel for an event from before its last write", async () => {
    await runner.want();
    while (kernel.sent.length < 300) kernel.send();
    runner.sent(300n, 212n);
    await settle();
    expect(kernel.writes.at(-1)).toMatch(/^extend/);
    runner.sent(300n, 213n);
    expect(counters.get("lease.reread")).toBe(0);
  });

  it("does not read the kernel for an event that comes while it writes", async () => {
    await runner.want();
    while (kernel.sent.length < 300) kernel.send();
    kernel.answering = new Promise(() => {});
    runner.sent(300n, 212n);
    await settle();
    expect(kernel.writes.at(-1)).toMatch(/^extend/);
    runner.sent(kernel.oseq, kernel.last - kernel.oseq);
    expect(counters.get("lease.reread")).toBe(0);
  });

  it("finds with the next event what a write or an event before it hid", async () => {
    await runner.want();
    while (kernel.sent.length < 300) kernel.send();
    let answer = (): void => {};
    kernel.answering = new Promise((resolve) => (answer = () => resolve(undefined)));
    runner.sent(300n, 212n);
    await settle();
    kernel.tripwire = new EsplexError("kernel.offload", "planted", { lastUsable: 2000n });
    runner.sent(310n, 900n);
    answer();
    await settle();
    expect(counters.get("lease.tripped")).toBe(0);
    runner.sent(320n, 890n);
    await settle();
    expect(counters.get("lease.tripped")).toBe(1);
  });

  it("says where its kernel sends once a recall has moved it", async () => {
    await runner.want();
    kernel.send();
    holders = 2;
    runner.recalled(2);
    await settle();
    expect(kernel.writes.at(-1)).toBe("install [513, 534)");
    expect(reported).toEqual([513n]);
  });

  it("says once per change that the peer's window does not carry the nodes that send", async () => {
    holders = 6;
    await runner.want();
    expect(runner.status().windowRule).toMatchObject({ windowPackets: 128, holders: 6, leaseNumbers: 9, kept: false });
    expect(runner.status().windowRule.advice).toContain("at least 140");
    runner.recalled(7);
    await settle();
    expect(counters.get("lease.windowRuleBroken")).toBe(1);
    holders = 2;
    runner.recalled(2);
    await settle();
    expect(runner.status().windowRule).toMatchObject({ holders: 2, kept: true, advice: "" });
    holders = 6;
    runner.recalled(6);
    await settle();
    expect(counters.get("lease.windowRuleBroken")).toBe(2);
  });

  it("lets nobody wait for ever when it stops", async () => {
    refusal = new EsplexError("bus.closed", "away");
    const wanted = runner.want();
    runner.stop();
    await expect(wanted).rejects.toMatchObject({ code: "cluster.unknownSa" });
    await expect(runner.want()).rejects.toMatchObject({ code: "cluster.unknownSa" });
  });
});

describe("eventThreshold", () => {
  it.each([
    [1n, 2n, 1],
    [1n, 65n, 8],
    [1n, 513n, 64],
  ])("[%s, %s) → %i", (first, end, packets) => {
    expect(eventThreshold({ first, end })).toBe(packets);
  });
});
