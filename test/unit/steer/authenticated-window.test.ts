import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ReceivedNumbers } from "../../../src/sa/received-numbers.ts";
import { AuthenticatedWindow } from "../../../src/steer/authenticated-window.ts";

const LOW_RANGE = 2 ** 32;

/** What a kernel reports that has received these numbers, with a window of so many packets. */
function report(numbers: readonly number[], windowPackets: number): ReceivedNumbers {
  const highest = Math.max(...numbers);
  const bits = new Uint8Array(Math.ceil(windowPackets / 8));
  for (const number of numbers) {
    const offset = highest - number;
    if (offset < windowPackets) bits[offset >> 3] = (bits[offset >> 3] ?? 0) | (1 << (offset & 7));
  }
  return { highest: BigInt(highest), bits };
}

describe("the distributor's replay window", () => {
  test("knows nothing at first: every number but 0 is fresh", () => {
    const window = new AuthenticatedWindow(64, false);
    expect(window.check(1)).toBe("fresh");
    expect(window.check(LOW_RANGE - 1)).toBe("fresh");
    expect(window.check(0)).toBe("tooOld");
  });

  test("a number that any node has authenticated is replayed, the gaps between are fresh", () => {
    const window = new AuthenticatedWindow(64, false);
    window.add(report([10, 12], 64));
    window.add(report([11], 64));
    expect([9, 10, 11, 12, 13].map((number) => window.check(number))).toEqual([
      "fresh",
      "replayed",
      "replayed",
      "replayed",
      "fresh",
    ]);
  });

  test("a packet does not move it", () => {
    const window = new AuthenticatedWindow(64, false);
    window.add(report([100], 64));
    window.check(4_000_000);
    expect(window.highest).toBe(100);
    expect(window.check(101)).toBe("fresh");
  });

  test("what lies left of it is too old, and an old report changes nothing", () => {
    const window = new AuthenticatedWindow(64, false);
    window.add(report([1000], 64));
    window.add(report([5], 64));
    expect(window.check(936)).toBe("tooOld");
    expect(window.check(937)).toBe("fresh");
    expect(window.check(5)).toBe("tooOld");
    // Bit of 5 modulo 64 belongs to another number now.
    expect(window.check(5 + 64 * 15)).toBe("fresh");
  });

  test("extended numbers: the high half is inferred around 2^32", () => {
    const window = new AuthenticatedWindow(64, true);
    window.add(report([LOW_RANGE - 3, LOW_RANGE - 1], 64));
    expect(window.check(LOW_RANGE - 3)).toBe("replayed");
    expect(window.check(LOW_RANGE - 2)).toBe("fresh");
    expect(window.check(2)).toBe("fresh");
    window.add(report([LOW_RANGE + 2], 64));
    expect(window.highest).toBe(LOW_RANGE + 2);
    expect(window.check(2)).toBe("replayed");
    expect(window.check(1)).toBe("fresh");
    expect(window.check(LOW_RANGE - 1)).toBe("replayed");
    // 2^32 + 2 - 64 lies outside; its low bits name a number of the next round.
    expect(window.check(LOW_RANGE + 2 - 64)).toBe("fresh");
  });

  test("numbers beyond what is exact are not believed", () => {
    const window = new AuthenticatedWindow(64, true);
    window.add({ highest: 2n ** 60n, bits: new Uint8Array([255]) });
    window.add({ highest: 0n, bits: new Uint8Array([255]) });
    expect(window.highest).toBe(0);
  });

  test("whatever the nodes report in whatever order: it is the window of one receiver of everything", () => {
    const action = fc.record({ node: fc.nat(2), number: fc.integer({ min: 1, max: 400 }), tell: fc.boolean() });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 200 }), fc.constantFrom(32, 64, 96), (actions, windowPackets) => {
        const window = new AuthenticatedWindow(windowPackets, false);
        const received: number[][] = [[], [], []];
        const told = new Set<number>();
        for (const { node, number, tell } of actions) {
          const own = received[node] ?? [];
          own.push(number);
          if (!tell) continue;
          window.add(report(own, windowPackets));
          const highest = Math.max(...own);
          for (const each of own) if (each > highest - windowPackets) told.add(each);
        }
        const top = Math.max(0, ...told);
        expect(window.highest).toBe(top);
        for (let number = Math.max(1, top - windowPackets - 5); number <= top + 5; number++) {
          const left = number <= top - windowPackets;
          expect(window.check(number), `${number} of ${top}`).toBe(
            left ? "tooOld" : told.has(number) ? "replayed" : "fresh",
          );
        }
      }),
    );
  });
});
