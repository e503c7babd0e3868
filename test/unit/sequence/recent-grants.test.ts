import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NumberLine } from "../../../src/sequence/number-line.ts";
import { RecentGrants } from "../../../src/sequence/recent-grants.ts";

describe("recent grants", () => {
  it("knows who was granted a number, from the first grant to the end of the last", () => {
    const grants = new RecentGrants(5n);
    grants.add("t1", 10n);
    grants.add("t2", 12n);
    grants.add("t1", 20n);
    const holders = [4n, 5n, 9n, 10n, 11n, 12n, 19n, 20n].map((number) => grants.holderOf(number));
    expect(holders).toEqual([null, "t1", "t1", "t2", "t2", "t1", "t1", null]);
  });

  it("says what a plain list of the last 1024 changes of holder says", () => {
    const histories = fc.array(
      fc.record({ node: fc.integer({ min: 0, max: 3 }), count: fc.integer({ min: 1, max: 9 }) }),
      {
        minLength: 0,
        maxLength: 3000,
        size: "max",
      },
    );
    fc.assert(
      fc.property(histories, fc.bigInt({ min: 1n, max: 1n << 33n }), (history, first) => {
        const grants = new RecentGrants(first);
        const runs: { node: string; first: bigint; end: bigint }[] = [];
        let next = first;
        for (const { node, count } of history) {
          const end = next + BigInt(count);
          grants.add(`t${node}`, end);
          const last = runs.at(-1);
          if (last?.node === `t${node}`) last.end = end;
          else runs.push({ node: `t${node}`, first: next, end });
          next = end;
        }
        for (const [at, run] of runs.entries()) {
          const holder = runs.length - at > 1024 ? null : run.node;
          expect([grants.holderOf(run.first), grants.holderOf(run.end - 1n)]).toEqual([holder, holder]);
        }
        expect([grants.holderOf(first - 1n), grants.holderOf(next)]).toEqual([null, null]);
      }),
      { numRuns: 50 },
    );
  });

  it("takes the low 32 bits of a packet for the last number that has them, with ESN", () => {
    const registration = {
      ...{ sa: "a".repeat(32), dvipa: "192.0.2.100", epoch: 1n, firstNumber: 1n, windowPackets: 1024 },
      counterNonce: false,
    };
    const next = (7n << 32n) - 2n;
    const line = (esn: boolean, from: bigint): NumberLine => new NumberLine({ ...registration, esn }, from, 1n << 40n);
    const sharing = { nowMs: 0, isLive: (): boolean => true, waiting: new Set<string>() };
    const extended = line(true, next);
    extended.take("t1", 4n, sharing);
    extended.take("t2", 4n, sharing);
    const holders = [0xffff_fffd, 0xffff_fffe, 0xffff_ffff, 0, 1, 2, 5, 6].map((low) => extended.holderOf(low));
    expect(holders).toEqual([null, "t1", "t1", "t1", "t1", "t2", "t2", null]);
    const plain = line(false, 1n);
    plain.take("t1", 4n, sharing);
    expect([0, 1, 4, 5].map((low) => plain.holderOf(low))).toEqual([null, "t1", "t1", null]);
  });
});
