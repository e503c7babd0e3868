import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { silentLog } from "../../../src/core/log.ts";
import { eventThreshold, LeaseRunner, type LeaseKernel } from "../../../src/daemons/node/lease-runner.ts";
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
    read: () => Promise.resolve(this.isAlive ? this.#reading() : null),
    install: (_state, range) => this.#write(`install [${range.first}, ${range.end})`, () => this.lease(range)),
    extend: async (_state, end) => {
      const reading = await this.#write(`extend ${end}`, () => (this.last = end - 1n));
      return { ...reading, pendingNumbers: 0n };
    },
    park: () => this.#write("park", () => (this.last = this.oseq)),
    setThreshold: () => Promise.resolve(),
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

  #write(what: string, change: () => void): Promise<LeaseReading> {
    const refusal = new EsplexError("kernel.refused", "no such state", { code: "ESRCH", errno: 3 });
    if (!this.isAlive) return Promise.reject(refusal);
    this.writes.push(what);
    change();
    return Promise.resolve(this.#reading());
  }
}

let clock: FakeClock;
let kernel: FakeKernel;
let counters: Counters;
let next: bigint;
let refusal: EsplexError | null;
let released: bigint[];
let mayPark: boolean;
let runner: LeaseRunner;

beforeEach(() => {
  clock = new FakeClock();
  kernel = new FakeKernel();
  counters = new Counters();
  next = 1n;
  refusal = null;
  released = [];
  mayPark = false;
  runner = startRunner();
});

function startRunner(): LeaseRunner {
  const sa = { ...sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport"), peerWindowPackets: 128 };
  return new LeaseRunner(sa, 1n, kernel.isAlive, {
    leases: kernel.leases,
    reserve: ({ count }) => {
      if (refusal !== null) return Promise.reject(refusal);
      const first = next;
      next += BigInt(count);
      return Promise.resolve({ first, end: next, highWater: next, holders: 1, rekeySoon: false });
    },
    release: ({ nextUnsent }) => Promise.resolve(released.push(nextUnsent)),
    reinstall: (range) => {
      kernel.lease(range);
      return Promise.resolve();
    },
    onGone: () => {},
    askPark: () => Promise.resolve(mayPark),
    clock,
    counters,
    log: silentLog,
  });
}

describe("LeaseRunner", () => {
  it("answers a want when the kernel holds a lease, not before", async () => {
    let isReady = false;
    const wanted = runner.want().then(() => (isReady = true));
    expect(isReady).toBe(false);
    await wanted;
    expect(kernel.writes).toEqual(["install [1, 65)"]);
    expect(kernel.send()).toBe(true);
  });

  it("refills while the kernel sends: nothing stops, no number twice", async () => {
    await runner.want();
    for (let packet = 0; packet < 1000; packet++) {
      expect(kernel.send()).toBe(true);
      if (packet % 8 === 7) {
        runner.sent(kernel.oseq);
        await settle();
      }
    }
    expect(new Set(kernel.sent).size).toBe(1000);
    expect(kernel.writes.filter((what) => what.startsWith("install"))).toHaveLength(1);
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
    await runner.want();
    await clock.advance(5_000);
    expect(kernel.writes.at(-1)).toBe("park");
    expect(released).toEqual([0n]);
    expect(runner.holdsLease).toBe(false);
  });

  it("takes a new block instead when it may not park", async () => {
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
    expect(kernel.writes).toEqual(["install [200, 264)"]);
    expect(counters.get("lease.burnt.replaced")).toBe(50);
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
