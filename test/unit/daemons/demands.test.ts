/** Who may make the distributor negotiate, and how often. */
import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { Demands } from "../../../src/daemons/node/demands.ts";
import type { OnDemand } from "../../../src/ike/on-demand.ts";
import { sampleSa } from "../sa/esp-builder.ts";
import { FakeClock } from "./fake-clock.ts";

const sa = { ...sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport"), reqid: 7 };
const { dvipa, peer } = sa;
const trap: OnDemand = {
  ...{ peerName: "client", dvipa, peer, mode: "transport" },
  ...{ local: sa.localSelectors, remote: sa.remoteSelectors },
};
const ACQUIRE = { dvipa, destination: peer };

let clock: FakeClock;
let counters: Counters;
let demands: Demands;
let demanded: string[];
let leased: string[];

beforeEach(() => {
  clock = new FakeClock();
  counters = new Counters();
  demanded = [];
  leased = [];
  demands = new Demands({
    nodeName: "d1",
    onDemand: () => [trap],
    serves: (target) => target !== "t3",
    demand: (from, to) => void demanded.push(`${from} ${to}`),
    lease: (node, tunnel) => void leased.push(`${node} ${tunnel}`),
    clock,
    counters,
  });
});

describe("a node that needs an SA", () => {
  it("gets its lease as soon as the SA is there, each that asked, once", () => {
    for (const node of ["t1", "t2", "d1"]) demands.acquire(node, ACQUIRE);
    expect(demanded).toEqual(Array(3).fill(`${dvipa} ${peer}`));
    demands.installed({ ...sa, peer: "192.0.2.66" });
    expect(leased).toEqual([]);
    demands.installed(sa);
    expect(leased).toEqual(["t1 7", "t2 7", "d1 7"]);
    demands.installed(sa);
    expect(leased).toHaveLength(3);
  });

  it.each([
    ["to where no peer is", "t1", { ...ACQUIRE, destination: "198.51.100.8" }],
    ["of another IP version", "t1", { ...ACQUIRE, destination: "2001:db8::1" }],
    ["from another DVIPA", "t1", { ...ACQUIRE, dvipa: "192.0.2.101" }],
    ["of a DVIPA that it is no target of", "t3", ACQUIRE],
  ])("%s is refused", (_what, node, acquire) => {
    demands.acquire(node, acquire);
    expect(demanded).toEqual([]);
    expect(counters.get("acquire.refused")).toBe(1);
    demands.installed(sa);
    expect(leased).toEqual([]);
  });

  it("is heard ten times a second, whatever the others do", async () => {
    for (let at = 0; at < 1_000; at++) demands.acquire("t1", ACQUIRE);
    demands.acquire("t2", ACQUIRE);
    expect(demanded).toHaveLength(11);
    expect(counters.get("acquire.tooMany")).toBe(990);
    await clock.advance(1_000);
    demands.acquire("t1", ACQUIRE);
    expect(demanded).toHaveLength(12);
  });

  it("is not heard by a distributor that stops", () => {
    demands.stop();
    demands.acquire("t1", ACQUIRE);
    expect(demanded).toEqual([]);
  });
});
