import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NO_USE, SaUse, shareOf, type UseCounts, type UseReport } from "../../../src/sa/use.ts";

const KEYS = ["inBytes", "inPackets", "outBytes", "outPackets"] as const;

function counts(inBytes: bigint, inPackets = 0n, outBytes = 0n, outPackets = 0n): UseCounts {
  return { inBytes, inPackets, outBytes, outPackets };
}

let rounds = 0;
function report(process: string, total: bigint, start: bigint, now: bigint): UseReport {
  return { process, round: ++rounds, total: counts(total), start: counts(start), now: counts(now) };
}

/**
 * One node with its kernel and daemon. Its kernel's marks go up with what it carries; the state may be made anew while the
 * daemon watches, as leases do.
 */
class Node {
  readonly name: string;
  /** What it has really carried. */
  truth = NO_USE;
  #marks = NO_USE;
  #seen = NO_USE;
  #total = NO_USE;
  #start = NO_USE;
  #life = 0;
  #round = 0;
  isRunning = true;
  /** The state in the kernel is the one that the last report was about. */
  isKnown = true;

  constructor(name: string) {
    this.name = name;
  }

  carry(by: UseCounts): void {
    this.truth = plus(this.truth, by);
    this.#marks = plus(this.#marks, by);
  }

  read(): UseReport {
    this.#total = plus(this.#total, minus(this.#marks, this.#seen));
    this.#seen = this.#marks;
    this.#round += 1;
    return {
      process: `${this.name}-${this.#life}`,
      round: this.#round,
      total: this.#total,
      start: this.#start,
      now: this.#marks,
    };
  }

  isOf({ process }: UseReport): boolean {
    return process === `${this.name}-${this.#life}`;
  }

  /** The daemon sees the state go, and makes another. */
  remake(): void {
    if (!this.isRunning) return;
    this.read();
    this.#marks = this.#seen = NO_USE;
    this.isKnown = false;
  }

  /** Not right after the state was made anew: that takes along what nobody was told (U4). */
  crash(): void {
    if (this.isKnown) this.isRunning = false;
  }

  start(): void {
    if (this.isRunning) return;
    this.isRunning = true;
    this.isKnown = false;
    this.#life += 1;
    this.#round = 0;
    this.#total = NO_USE;
    this.#start = this.#seen = this.#marks;
  }
}

function plus(a: UseCounts, b: UseCounts): UseCounts {
  return counts(a.inBytes + b.inBytes, a.inPackets + b.inPackets, a.outBytes + b.outBytes, a.outPackets + b.outPackets);
}

function minus(a: UseCounts, b: UseCounts): UseCounts {
  return counts(a.inBytes - b.inBytes, a.inPackets - b.inPackets, a.outBytes - b.outBytes, a.outPackets - b.outPackets);
}

const amount = fc.bigInt({ min: 0n, max: 9n });
const node = fc.nat(1);
type Action =
  | { readonly do: "carry"; readonly node: number; readonly by: UseCounts }
  | { readonly do: "report" | "remake" | "crash" | "start"; readonly node: number; readonly isLost: boolean }
  | { readonly do: "repeat"; readonly which: number };
const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("carry" as const),
      node,
      by: fc.tuple(amount, amount, amount, amount).map((four) => counts(...four)),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("report" as const), node, isLost: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constantFrom("remake" as const, "crash" as const, "start" as const),
      node,
      isLost: fc.constant(false),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("repeat" as const), which: fc.nat(20) }) },
);

describe("what an SA has carried", () => {
  it("never shrinks, never exceeds the truth, and is the truth after a report of each node (U1 to U4)", () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60, size: "max" }), (actions) => {
        const nodes = [new Node("t1"), new Node("t2")] as const;
        const use = new SaUse();
        const sent: { readonly by: Node; readonly report: UseReport }[] = [];
        const heard = new Set<string>();
        let before = use.sum;
        const check = (): void => {
          for (const key of KEYS) {
            if (use.sum[key] < before[key]) throw new Error(`${key} went down to ${use.sum[key]}`);
            const most = nodes[0].truth[key] + nodes[1].truth[key];
            if (use.sum[key] > most) throw new Error(`${key} is ${use.sum[key]}, more than ${most}`);
          }
          before = use.sum;
        };
        for (const step of actions) {
          if (step.do === "repeat") {
            const old = sent[step.which % Math.max(1, sent.length)];
            // What a dead process never got across came on its own connection, and that one is closed.
            const mayCome = old !== undefined && (heard.has(old.report.process) || old.by.isOf(old.report));
            if (mayCome) {
              use.take(old.by.name, old.report);
              heard.add(old.report.process);
            }
          } else {
            const one = nodes[step.node === 0 ? 0 : 1];
            if (step.do === "carry") one.carry(step.by);
            else if (step.do === "remake") {
              if (one.isKnown) one.remake();
            } else if (step.do === "crash") one.crash();
            else if (step.do === "start") one.start();
            else if (one.isRunning) {
              const said = { by: one, report: one.read() };
              sent.push(said);
              if (!step.isLost) {
                use.take(one.name, said.report);
                heard.add(said.report.process);
                one.isKnown = true;
              }
            }
          }
          check();
        }
        for (const one of nodes) {
          one.start();
          use.take(one.name, one.read());
        }
        check();
        expect(use.sum).toEqual(plus(nodes[0].truth, nodes[1].truth));
      }),
      { numRuns: 1_000 },
    );
  });

  it("counts what was used between two processes once, and nothing that a dead one says late (U4)", () => {
    const use = new SaUse();
    use.take("t1", report("a", 10n, 0n, 10n));
    use.take("t1", report("b", 5n, 30n, 35n));
    expect(use.carried.bytes).toBe(35n);
    expect(use.take("t1", report("a", 20n, 0n, 20n))).toBe(false);
    expect(use.carried.bytes).toBe(35n);
    use.take("t1", report("b", 6n, 30n, 36n));
    expect(use.carried.bytes).toBe(36n);
  });

  it("takes what a node that left may have used for used, until the node says it itself (U5)", () => {
    const use = new SaUse();
    use.take("t1", report("a", 100n, 0n, 100n));
    use.take("t1", report("a", 140n, 0n, 140n));
    use.take("t1", report("a", 150n, 0n, 150n));
    use.left("t1");
    expect(use.carried.bytes).toBe(190n);
    use.left("t1");
    expect(use.carried.bytes).toBe(190n);
    use.take("t1", report("a", 160n, 0n, 160n));
    expect(use.carried.bytes).toBe(190n);
    use.take("t1", report("a", 200n, 0n, 200n));
    expect(use.carried.bytes).toBe(200n);
  });

  it("stays within 64 bits, and goes up only, whatever a node says (U1)", () => {
    const anything = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    const wild = fc.record({
      node: fc.constantFrom("t1", "t2"),
      process: fc.constantFrom("a", "b", "c"),
      round: fc.nat(9),
      total: fc.tuple(anything, anything, anything, anything).map((four) => counts(...four)),
      start: fc.tuple(anything, anything, anything, anything).map((four) => counts(...four)),
      now: fc.tuple(anything, anything, anything, anything).map((four) => counts(...four)),
    });
    fc.assert(
      fc.property(fc.array(wild, { maxLength: 30, size: "max" }), (reports) => {
        const use = new SaUse();
        for (const { node: from, ...said } of reports) {
          const before = use.sum;
          use.take(from, said);
          for (const key of KEYS) {
            expect(use.sum[key]).toBeGreaterThanOrEqual(before[key]);
            expect(use.sum[key]).toBeLessThan(2n ** 64n);
          }
        }
      }),
    );
  });
});

describe("the share of a node", () => {
  it("is a twentieth of the rest over all nodes, and never nothing", () => {
    const limits = { bytes: 1_000n, packets: null };
    expect(shareOf(limits, { bytes: 0n, packets: 0n }, 1)).toEqual({ bytes: 50n, packets: null });
    expect(shareOf(limits, { bytes: 600n, packets: 0n }, 4)).toEqual({ bytes: 5n, packets: null });
    expect(shareOf(limits, { bytes: 2_000n, packets: 0n }, 4)).toEqual({ bytes: 1n, packets: null });
  });
});
