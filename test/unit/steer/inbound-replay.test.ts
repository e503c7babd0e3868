import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import type { StateReceived } from "../../../src/sa/received-numbers.ts";
import { InboundReplay } from "../../../src/steer/inbound-replay.ts";
import { SPAN_MS, TRANSIT_MS } from "../../../src/steer/passed-numbers.ts";

const WINDOW_PACKETS = 32;
/** A question so long after a packet is about that packet. */
const SETTLED_MS = SPAN_MS + TRANSIT_MS;

/** A kernel's state: what it authenticates, it never takes again (RFC 4303 §3.4.3). */
class Kernel {
  bornSeconds = 1n;
  #highest = 0;
  readonly #received = new Set<number>();

  take(number: number): boolean {
    if (number <= this.#highest - WINDOW_PACKETS || this.#received.has(number)) return false;
    this.#received.add(number);
    this.#highest = Math.max(this.#highest, number);
    return true;
  }

  /** Made anew: it has forgotten everything. */
  restart(): void {
    this.bornSeconds += 1n;
    this.#received.clear();
    this.#highest = 0;
  }

  report(): StateReceived {
    const bits = new Uint8Array(WINDOW_PACKETS / 8);
    for (let offset = 0; offset < WINDOW_PACKETS; offset++) {
      if (this.#received.has(this.#highest - offset))
        bits[offset >> 3] = (bits[offset >> 3] ?? 0) | (1 << (offset & 7));
    }
    return { highest: BigInt(this.#highest), bits, bornSeconds: this.bornSeconds };
  }
}

let replay: InboundReplay;
let kernels: Record<string, Kernel>;

beforeEach(() => {
  replay = new InboundReplay(WINDOW_PACKETS, false);
  kernels = { t1: new Kernel(), t2: new Kernel(), d1: new Kernel() };
});

function kernel(node: string): Kernel {
  const found = kernels[node];
  if (found === undefined) throw new Error(`no kernel ${node}`);
  return found;
}

/** Of the one packet with this number that its sender has made, and of those that others make. */
const markOf = (number: number): number => number;
const FORGED = 900_000_000;

/** A packet with a right ICV. */
function pass(number: number, node: string, nowMs: number): void {
  expect(replay.admit(number)).toBe("fresh");
  replay.passed(number, node, markOf(number), nowMs);
  kernel(node).take(number);
}

/** A packet with a wrong one, which no kernel takes. */
function passForged(number: number, node: string, nowMs: number): void {
  replay.passed(number, node, FORGED, nowMs);
}

function ask(node: string, nowMs: number): string {
  replay.close(nowMs - TRANSIT_MS);
  return replay.answered(node, nowMs, kernel(node).report());
}

describe("the replay protection of an SA", () => {
  it("drops what a node has authenticated, once that node has said so", () => {
    pass(5, "t1", 0);
    expect(replay.isBusy).toBe(true);
    expect(ask("t1", SETTLED_MS)).toBe("taken");
    expect(replay.isBusy).toBe(false);
    expect(replay.admit(5)).toBe("replayed");
    expect(replay.admit(4)).toBe("fresh");
    expect(replay.received()).toMatchObject({ highest: 5n });
  });

  it("P2: tells the packet that was passed on from another with its number, until its node has spoken", () => {
    pass(5, "t1", 0);
    expect(replay.admit(5)).toBe("doubled");
    expect([replay.isTwin(5, markOf(5)), replay.isTwin(5, FORGED)]).toEqual([true, false]);
    expect([...replay.toAsk()]).toEqual(["t1"]);
    // The answer of another node says nothing.
    ask("t2", SETTLED_MS);
    expect(replay.admit(5)).toBe("doubled");
  });

  it("P2: a question from before the packet, or too soon after it, is none about it", () => {
    passForged(5, "t1", 1_000);
    replay.answered("t1", 1_000, kernel("t1").report());
    expect(replay.admit(5)).toBe("doubled");
    replay.close(1_010);
    replay.answered("t1", 1_010 + TRANSIT_MS - 1, kernel("t1").report());
    expect(replay.admit(5)).toBe("doubled");
    replay.answered("t1", 1_010 + TRANSIT_MS, kernel("t1").report());
    expect(replay.admit(5)).toBe("fresh");
  });

  it("P4: a forged number moves nothing, and the real packet is known by its mark", () => {
    pass(5, "t1", 0);
    for (const forged of [6, 7, 4_000_000_000]) passForged(forged, "d1", 1);
    expect(replay.admit(6)).toBe("doubled");
    expect(replay.isTwin(6, markOf(6))).toBe(false);
    replay.passed(6, "t1", markOf(6), 2);
    expect([replay.isTwin(6, markOf(6)), replay.isTwin(7, markOf(7))]).toEqual([true, false]);
    for (const node of ["t1", "d1"]) expect(ask(node, SETTLED_MS)).toBe("taken");
    expect(replay.received()).toMatchObject({ highest: 5n });
    expect([7, 8].map((number) => replay.admit(number))).toEqual(["fresh", "fresh"]);
  });

  it.each([
    ["the forged one's", "d1"],
    ["the real one's", "t1"],
  ])("P3: a real packet behind a forged one counts as passed, whichever node is lost first: %s", (_whose, first) => {
    passForged(6, "d1", 0);
    replay.close(1);
    expect([replay.admit(6), replay.isTwin(6, markOf(6))]).toEqual(["doubled", false]);
    replay.passed(6, "t1", markOf(6), 200);
    for (const node of [first, "d1", "t1"]) {
      replay.abandon(node, 300);
      expect([replay.admit(6), replay.isTwin(6, markOf(6))]).toEqual(["doubled", true]);
    }
  });

  it("P3: what was passed to a node that went away is never passed again, and what it had answered for is as it said", () => {
    pass(5, "t1", 0);
    ask("t1", SETTLED_MS);
    pass(6, "t1", 200);
    pass(7, "t2", 200);
    replay.abandon("t1", 201);
    expect([5, 6, 7, 8].map((number) => replay.admit(number))).toEqual(["replayed", "doubled", "doubled", "fresh"]);
    expect([6, 7].map((number) => replay.isTwin(number, markOf(number)))).toEqual([true, true]);
    // The other one answers some day.
    ask("t2", 200 + SETTLED_MS);
    expect([6, 7].map((number) => replay.admit(number))).toEqual(["doubled", "replayed"]);
  });

  it("P3: a state that was made anew does not tell what the one before received", () => {
    pass(5, "t1", 0);
    ask("t1", SETTLED_MS);
    pass(6, "t1", 200);
    kernel("t1").restart();
    expect(ask("t1", 200 + SETTLED_MS)).toBe("reborn");
    expect([5, 6].map((number) => replay.admit(number))).toEqual(["replayed", "doubled"]);
    expect(replay.isTwin(6, markOf(6))).toBe(true);
  });

  it("P3: so does a node that does not answer for seconds", () => {
    pass(5, "t1", 0);
    replay.giveUp(5_000);
    expect([replay.admit(5), replay.isBusy]).toEqual(["doubled", true]);
    replay.giveUp(10_000);
    expect([replay.admit(5), replay.isBusy]).toEqual(["doubled", false]);
    expect(replay.isTwin(5, markOf(5))).toBe(true);
  });

  it("P5: a report beyond what was passed to its node is refused", () => {
    pass(5, "t1", 0);
    pass(60, "t2", 0);
    const far = { highest: 61n, bits: new Uint8Array([1]), bornSeconds: 1n };
    expect(replay.answered("t2", SETTLED_MS, far)).toBe("ahead");
    expect(replay.answered("t1", SETTLED_MS, { ...far, highest: 60n })).toBe("ahead");
    expect(replay.received()).toBeNull();
    expect(ask("t2", SETTLED_MS)).toBe("taken");
    // A state may begin with what all have received.
    expect(replay.answered("t1", SETTLED_MS, { ...far, highest: 60n })).toBe("taken");
  });

  it("with ESN, a lost number stands in nobody's way when its low bits come again", () => {
    const esn = new InboundReplay(WINDOW_PACKETS, true);
    const report = (highest: bigint): StateReceived => ({ highest, bits: new Uint8Array([1]), bornSeconds: 1n });
    esn.passed(7, "t1", markOf(7), 0);
    esn.abandon("t1", 0);
    esn.passed(40, "t2", markOf(40), 0);
    esn.close(0);
    expect(esn.answered("t2", SETTLED_MS, report(40n))).toBe("taken");
    for (const highest of [2 ** 31, 2 ** 32 - 1]) {
      esn.passed(highest % 2 ** 32, "t2", markOf(7), 0);
      esn.answered("t2", SETTLED_MS, report(BigInt(highest)));
    }
    expect(esn.received()).toMatchObject({ highest: 2n ** 32n - 1n });
    expect([esn.admit(7), esn.highHalfOf(7), esn.highHalfOf(2 ** 32 - 1)]).toEqual(["fresh", 1, 0]);
  });

  it("forgets, and says so, when more is unsettled than it has room for", () => {
    for (let number = 1; number <= 140_000; number++) replay.passed(number, "t1", markOf(number), number / 100);
    expect(replay.forgotten).toBeGreaterThan(0);
    expect(replay.admit(140_000)).toBe("doubled");
    expect(replay.admit(1)).toBe("fresh");
  });

  it("P1 to P4: whatever is replayed or forged when and wherever to: no number is authenticated twice, and none but doubles are stopped", () => {
    const node = fc.constantFrom("t1", "t2", "d1");
    const action = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({
          ...{ do: fc.constant("packet" as const), node, number: fc.integer({ min: 1, max: 60 }) },
          isForged: fc.boolean(),
        }),
      },
      { weight: 2, arbitrary: fc.record({ do: fc.constant("ask" as const), node }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("restart" as const), node }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("leave" as const), node }) },
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 120, size: "max" }), (actions) => {
        replay = new InboundReplay(WINDOW_PACKETS, false);
        kernels = { t1: new Kernel(), t2: new Kernel(), d1: new Kernel() };
        const accepted = new Map<number, number>();
        const passed = new Set<number>();
        // The first questions tell which states there are.
        for (const name of ["t1", "t2", "d1"]) ask(name, 0);
        let nowMs = 1;
        for (const one of actions) {
          nowMs += 1;
          if (one.do === "ask") ask(one.node, (nowMs += TRANSIT_MS + 1));
          else if (one.do === "restart") kernel(one.node).restart();
          else if (one.do === "leave") {
            // The node itself goes on, or not.
            replay.abandon(one.node, nowMs);
          } else {
            const [mark, admission] = [one.isForged ? FORGED : markOf(one.number), replay.admit(one.number)];
            const isDouble = admission === "doubled" && (one.isForged || replay.isTwin(one.number, mark));
            if (isDouble || admission === "replayed" || admission === "tooOld") {
              const top = Number(replay.received()?.highest ?? 0n);
              const isStopped = passed.has(one.number) || one.number <= top - WINDOW_PACKETS;
              if (!one.isForged) expect(isStopped).toBe(true);
              continue;
            }
            replay.passed(one.number, one.node, mark, nowMs);
            if (one.isForged) continue;
            passed.add(one.number);
            if (kernel(one.node).take(one.number)) accepted.set(one.number, (accepted.get(one.number) ?? 0) + 1);
          }
        }
        expect([...accepted].filter(([, times]) => times > 1)).toEqual([]);
      }),
      { numRuns: 500 },
    );
  });
});
