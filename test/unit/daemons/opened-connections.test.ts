/** What targets, honest and hostile ones, get of the connections that they say they open. */
import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { OpenedConnections } from "../../../src/daemons/node/opened-connections.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { ConnectionTable, type ConnectionKey, type Presence } from "../../../src/steer/connection-table.ts";
import { sampleSa } from "../sa/esp-builder.ts";
import { FakeClock } from "./fake-clock.ts";

const GCM = { kind: "aes-gcm-16", keyBits: 128 } as const;
const transport: SharedSa = { ...sampleSa(GCM, "transport"), reqid: 1 };
const subnet = { startAddress: "10.1.0.0", endAddress: "10.1.255.255", protocol: 0, startPort: 0, endPort: 65_535 };
const tunnel: SharedSa = { ...sampleSa(GCM, "tunnel"), reqid: 2, remoteSelectors: [subnet] };
const { dvipa, peer } = transport;
const key = (changes: Partial<ConnectionKey> = {}): ConnectionKey => {
  return { client: peer, clientPort: 8080, dvipa, port: 40_000, ...changes };
};

let table: ConnectionTable;
let clock: FakeClock;
let counters: Counters;
let opened: OpenedConnections;
let sas: SharedSa[];
let own: Presence;
let leased: string[];
let hasLease: boolean;

beforeEach(() => {
  table = new ConnectionTable();
  clock = new FakeClock();
  counters = new Counters();
  sas = [transport];
  own = "absent";
  leased = [];
  hasLease = true;
  opened = new OpenedConnections({
    connections: table,
    serves: (target) => target !== "t3",
    sas: () => sas.map((sa) => ({ sa })),
    ownSockets: (connections) => Promise.resolve(connections.map(() => own)),
    self: "d1",
    lease: (node, tunnelId) => {
      leased.push(`${node} ${tunnelId}`);
      return Promise.resolve(hasLease);
    },
    clock,
    counters,
  });
});

const owners = (): string[] => table.list().map(({ target, port, client }) => `${target} ${port} ${client}`);

describe("a connection that a target opens", () => {
  it("is the target's, once it holds a lease on the SA that leads there", async () => {
    expect(await opened.open("t1", key())).toBe(true);
    expect(owners()).toEqual([`t1 40000 ${peer}`]);
    expect(leased).toEqual(["t1 1"]);
    hasLease = false;
    expect(await opened.open("t1", key({ port: 40_001 }))).toBe(false);
    expect(counters.get("steer.openRefused.noLease")).toBe(1);
  });

  it("leads to where an SA does: to its peer, or to what is behind it", async () => {
    sas = [tunnel];
    expect(await opened.open("t1", key())).toBe(false);
    expect(await opened.open("t1", key({ client: "10.2.0.1" }))).toBe(false);
    expect(await opened.open("t1", key({ client: "2001:db8::1" }))).toBe(false);
    expect(await opened.open("t1", key({ client: "10.1.255.255" }))).toBe(true);
    expect(leased).toEqual(["t1 2"]);
    sas = [transport];
    expect(await opened.open("t1", key({ client: "10.1.255.254" }))).toBe(false);
    expect(counters.get("steer.openRefused.noSa")).toBe(4);
    expect(table.size).toBe(1);
  });

  it("waits for the distributor's own lease where the SA ends there", async () => {
    sas = [{ ...tunnel, gateway: "192.0.2.1" }];
    expect(await opened.open("t1", key({ client: "10.1.0.1" }))).toBe(true);
    expect(leased).toEqual(["d1 2"]);
    expect(owners()).toEqual(["t1 40000 10.1.0.1"]);
  });

  it.each<[string, string, Partial<ConnectionKey>]>([
    ["of a DVIPA that has no SA", "t1", { dvipa: "192.0.2.101" }],
    ["by a node that is no target of the DVIPA", "t3", {}],
  ])("%s is refused", async (_what, target, changes) => {
    expect(await opened.open(target, key(changes))).toBe(false);
    expect(table.size).toBe(0);
    expect(leased).toEqual([]);
  });

  it.each<[string, Presence]>([
    ["open", "open"],
    ["half open", "halfOpen"],
    ["closing", "closing"],
  ])("is not taken from this node, where it is %s", async (_what, presence) => {
    own = presence;
    expect(await opened.open("t1", key())).toBe(false);
    expect(await opened.enter("t1", [key()])).toEqual([false]);
    expect(table.size).toBe(0);
    expect(counters.get("steer.openRefused.taken")).toBe(2);
  });

  it("is not taken from another target, nor is a client's", async () => {
    await opened.open("t1", key());
    table.add(key({ port: 80 }), "t1", peer, 0);
    expect(await opened.open("t2", key())).toBe(false);
    expect(await opened.open("t2", key({ port: 80 }))).toBe(false);
    expect(await opened.enter("t2", [key(), key({ port: 40_001 })])).toEqual([false, true]);
    expect(owners().sort()).toEqual([`t1 40000 ${peer}`, `t1 80 ${peer}`, `t2 40001 ${peer}`]);
  });

  it("is one of no more than so many in a second, of each target", async () => {
    let passed = 0;
    for (let port = 1; port <= 1_500; port++) if (await opened.open("t1", key({ port }))) passed += 1;
    expect(passed).toBe(1_000);
    expect(counters.get("steer.openRefused.tooMany")).toBe(500);
    expect(await opened.open("t2", key({ port: 2_000 }))).toBe(true);
    await clock.advance(1_000);
    expect(await opened.open("t1", key({ port: 2_001 }))).toBe(true);
  });
});
