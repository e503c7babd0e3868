import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { RequestBody, ResponseBody } from "../../../src/bus/messages.ts";
import { Counters } from "../../../src/core/counters.ts";
import { createLog } from "../../../src/core/log.ts";
import { UseBook } from "../../../src/daemons/node/use-book.ts";
import { UseMeter } from "../../../src/daemons/node/use-meter.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import type { Carried } from "../../../src/xfrm/carried.ts";
import { sampleSa } from "../sa/esp-builder.ts";
import { FakeClock } from "./fake-clock.ts";

const LIMITS = { bytes: 1_000_000n, packets: 10_000n };
const NO_MARK = { bytes: 0n, number: 0n };

let clock: FakeClock;
let counters: Counters;
let book: UseBook;
let told: { readonly bytes: bigint; readonly packets: bigint }[];
let reports: RequestBody<"saUse">[];
let isReachable: boolean;
let kernel: Carried | null;
let meter: UseMeter<{ readonly source: string; readonly sa: SharedSa }>;
let sa: SharedSa;

beforeEach(() => {
  clock = new FakeClock();
  counters = new Counters();
  told = [];
  reports = [];
  isReachable = true;
  kernel = { bytes: 0n, packets: 0n };
  sa = { ...sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport"), lifesize: LIMITS };
  book = new UseBook({
    serves: (node) => node !== "stranger",
    onUse: (_, carried) => told.push(carried),
    ...{ clock, counters },
  });
  book.add(sa);
  meter = startMeter();
});

afterEach(() => meter.stop());

function startMeter(): typeof meter {
  return new UseMeter({
    sas: () => [{ source: "d1", sa }],
    readInbound: (sas) => Promise.resolve(sas.map(() => kernel)),
    readOutbound: () => Promise.resolve({ bytes: 0n, packets: 0n, start: NO_MARK, now: NO_MARK }),
    report: (_, body) => {
      reports.push(body);
      return Promise.resolve(isReachable ? book.take("t1", body) : null);
    },
    ...{ clock, counters, log: createLog("test", "t1", "error", counters) },
  });
}

function carry(bytes: bigint, packets: bigint): void {
  kernel = { bytes: (kernel?.bytes ?? 0n) + bytes, packets: (kernel?.packets ?? 0n) + packets };
}

describe("what a node reports of its kernel", () => {
  it("reaches the distributor within a second after a pause, and is not repeated", async () => {
    await clock.advance(5_000);
    const before = reports.length;
    expect(before).toBe(1);
    carry(500n, 5n);
    await clock.advance(1_000);
    expect(told.at(-1)).toEqual({ bytes: 500n, packets: 5n });
    await clock.advance(5_000);
    expect(reports).toHaveLength(before + 1);
  });

  it("comes the more often the faster the SA is used, and the nearer its limit", async () => {
    await clock.advance(2_000);
    // 10 kB a second: the share, a twentieth of a megabyte, lasts for five.
    for (let i = 0; i < 50; i++) {
      carry(1_000n, 10n);
      await clock.advance(100);
    }
    const slow = reports.length;
    expect(slow).toBeLessThanOrEqual(8);
    // 800 kB in 2 s: 40 ms for a share.
    for (let i = 0; i < 20; i++) {
      carry(40_000n, 10n);
      await clock.advance(100);
    }
    expect(reports.length - slow).toBeGreaterThanOrEqual(10);
    const steps = told.map(({ bytes }, i) => bytes - (told[i - 1]?.bytes ?? 0n));
    expect(steps.slice(-5).every((step) => step <= 80_000n)).toBe(true);
  });

  it("comes as often when the traffic stood still for a moment and goes on in a burst", async () => {
    for (let i = 0; i < 5; i++) {
      carry(40_000n, 10n);
      await clock.advance(100);
    }
    await clock.advance(2_000);
    const before = told.length;
    for (let i = 0; i < 10; i++) {
      carry(40_000n, 10n);
      await clock.advance(100);
    }
    const steps = told.map(({ bytes }, i) => bytes - (told[i - 1]?.bytes ?? 0n)).slice(before);
    // Half the rate is remembered: the share, 40 kB, lasts for 200 ms of it, in which as much again passes, and a reading's 100 ms.
    expect(steps.length).toBeGreaterThanOrEqual(3);
    for (const step of steps) expect(step).toBeLessThanOrEqual(120_000n);
  });

  it("is made up for after the distributor was out of reach", async () => {
    await clock.advance(1_000);
    isReachable = false;
    carry(7_000n, 70n);
    await clock.advance(3_000);
    carry(1_000n, 10n);
    isReachable = true;
    await clock.advance(1_000);
    expect(told.at(-1)).toEqual({ bytes: 8_000n, packets: 80n });
  });

  it("goes on where it was when the state was made anew, and when the daemon was", async () => {
    await clock.advance(500);
    carry(1_000n, 10n);
    await clock.advance(1_000);
    kernel = { bytes: 200n, packets: 2n };
    await clock.advance(1_000);
    expect(told.at(-1)).toEqual({ bytes: 1_200n, packets: 12n });
    meter.stop();
    carry(300n, 3n);
    meter = startMeter();
    carry(0n, 0n);
    await clock.advance(1_000);
    carry(50n, 1n);
    await clock.advance(1_000);
    expect(told.at(-1)).toEqual({ bytes: 1_550n, packets: 16n });
  });
});

describe("the distributor's account", () => {
  const report = (round: number, inBytes: bigint): RequestBody<"saUse"> => {
    const none = { inBytes: 0n, inPackets: 0n, outBytes: 0n, outPackets: 0n };
    return {
      process: "0".repeat(32),
      round,
      sas: [{ sa: sa.id, total: { ...none, inBytes }, start: none, now: none }],
    };
  };

  it("adds up what the nodes say, and takes nothing from one that does not have the SA", () => {
    book.take("t1", report(1, 100n));
    book.take("t2", report(1, 50n));
    expect(told.at(-1)?.bytes).toBe(150n);
    expect(book.take("stranger", report(1, 1_000n))).toEqual({ shares: [] });
    expect(told.at(-1)?.bytes).toBe(150n);
    expect(counters.get("use.unknownSa")).toBe(1);
    book.remove(sa.id);
    expect(book.take("t1", report(2, 100n))).toEqual({ shares: [] });
  });

  it("looks at so many reports of a node in a second, and at those of others all the same", () => {
    const answers: ResponseBody<"saUse">[] = [];
    for (let round = 1; round <= 200; round++) answers.push(book.take("t1", report(round, BigInt(round))));
    expect(answers.filter(({ shares }) => shares.length > 0)).toHaveLength(50);
    expect(counters.get("use.tooManyReports")).toBe(150);
    expect(book.take("t2", report(1, 1n)).shares).toHaveLength(1);
  });

  it("counts what a node that left may have used", () => {
    book.take("t1", report(1, 0n));
    book.take("t1", report(2, 400n));
    book.left("t1");
    expect(told.at(-1)?.bytes).toBe(800n);
  });
});
