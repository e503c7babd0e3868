import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { LeaseGate, type GateDecision } from "../../../src/steer/lease-gate.ts";

let counters: Counters;
let asked: { node: string; tunnel: number; grant: () => void; refuse: () => void }[];
let gate: LeaseGate;
let released: GateDecision[];

beforeEach(() => {
  counters = new Counters();
  asked = [];
  released = [];
  const want = (node: string, tunnel: number): Promise<void> =>
    new Promise((grant, refuse) => asked.push({ node, tunnel, grant, refuse: () => refuse(new Error("refused")) }));
  gate = new LeaseGate(want, counters, { maxWaitingPerPass: 3, maxWaiting: 4 });
});

const enter = (node: string, nowMs = 0): void => gate.enter(node, 7, nowMs, (decision) => released.push(decision));
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("LeaseGate", () => {
  it("holds packets back until the lease is there, asks once, then lets pass", async () => {
    enter("t1");
    enter("t1");
    expect(released).toEqual([]);
    expect(asked).toHaveLength(1);
    asked[0]?.grant();
    await settle();
    enter("t1");
    expect(released).toEqual(["forward", "forward", "forward"]);
    expect(asked).toHaveLength(1);
  });

  it("drops what waited when the lease is refused, and asks again for the next packet", async () => {
    enter("t1");
    asked[0]?.refuse();
    await settle();
    expect(released).toEqual(["drop"]);
    expect(counters.get("steer.drop.noLease")).toBe(1);
    enter("t1");
    expect(asked).toHaveLength(2);
  });

  it("bounds what waits, per node and altogether", () => {
    for (let i = 0; i < 5; i++) enter("t1");
    expect(released).toEqual(["drop", "drop"]);
    enter("t2");
    enter("t3");
    expect(released).toEqual(["drop", "drop", "drop"]);
    expect(counters.get("steer.drop.leaseQueueFull")).toBe(3);
  });

  it("lets a node park only when nothing is asked for and nothing passed lately", async () => {
    enter("t1", 0);
    expect(gate.close("t1", 7, 1, 0)).toBe(false);
    asked[0]?.grant();
    await settle();
    enter("t1", 100);
    expect(gate.close("t1", 7, 150, 100)).toBe(false);
    expect(gate.close("t1", 7, 200, 100)).toBe(true);
    enter("t1", 201);
    expect(asked).toHaveLength(2);
  });

  it("forgets a node that left: its packets drop, a late answer opens nothing", async () => {
    enter("t1");
    gate.forgetNode("t1");
    expect(released).toEqual(["drop"]);
    asked[0]?.grant();
    await settle();
    gate.forgetTunnel(7);
    expect(released).toEqual(["drop"]);
    enter("t1");
    expect(asked).toHaveLength(2);
  });
});
