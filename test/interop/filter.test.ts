/**
 * What passes after IPsec, filtered where it is decrypted: on a target for connections, on d1 for the rest. Topology:
 * `netns/layout.ts` with two targets.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parse, stringify } from "yaml";
import { readXfrmStat } from "../../netns/counters.ts";
import { APPLICATION_PORT, CLIENT_ADDRESS, CLIENT_IDENTITY, DVIPA } from "../../netns/layout.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import {
  connects,
  countOnTargets,
  filterCounts,
  isUnreached,
  isUnserved,
  pings,
  sendThroughTunnel,
  untilDecided,
} from "../support/filter-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const LIMIT_MS = 30_000;
/** Nobody negotiated anything for it. */
const SPOOFED = "192.0.2.77";
const WEB = { name: "web", identity: CLIENT_IDENTITY, protocol: "tcp", ports: [APPLICATION_PORT], action: "accept" };
const PINGS = { name: "no pings", protocol: "icmp", action: "drop", log: true };
const STRANGERS = { name: "strangers", identity: "*.elsewhere.example", action: "accept" };
const FILTER = { rules: [STRANGERS, PINGS, { ...WEB, log: true }] };

let client: StrongSwan;
const lab = useLab({ targets: 2, cluster: { filter: FILTER } }, async (up) => {
  await up.startCluster();
  client = await up.startClient();
  await negotiate(up, client, "transport");
  await statesOnEveryNode(up, 2);
});

async function decidedByD1(place: string): Promise<number> {
  return (await filterCounts(lab(), lab().distributor))[place] ?? 0;
}

/** The lines of a node's log about packets of this rule. */
async function loggedBy(node: string, rule: string): Promise<Record<string, unknown>[]> {
  const lines = (await lab().logTail(node, 500)).split("\n").filter((line) => line.includes("packet of a filter rule"));
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>).filter((line) => line["rule"] === rule);
}

async function logged(node: string, rule: string): Promise<Record<string, unknown>> {
  return until(`${node} has logged a packet of ${rule}`, LIMIT_MS, async () => (await loggedBy(node, rule)).at(-1));
}

async function reloadWith(filter: object | undefined): Promise<void> {
  const path = join(lab().directory, "cluster.yaml");
  const file = parse(await readFile(path, "utf8")) as { dvipas: Record<string, unknown>[] };
  const dvipas = file.dvipas.map((dvipa) => ({ ...dvipa, filter: filter ?? null }));
  await writeFile(path, stringify({ ...file, dvipas }), { mode: 0o600 });
  await lab().distributor.ask("reload");
  const rules = (filter === undefined ? [] : [(filter as typeof FILTER).rules.length]).join();
  for (const node of lab().nodes) {
    await node.waitFor(
      "has the new filter",
      LIMIT_MS,
      ({ filters }) => filters.map((one) => one.rules.length).join() === rules,
    );
  }
}

describe("a connection", () => {
  it("is accepted by the rule about its peer, on its target, and logged with rule and peer", async () => {
    const { node } = await requestName(lab());
    expect(["t1", "t2"]).toContain(node);
    const target = lab().target(node ?? "");
    expect(await filterCounts(lab(), target)).toMatchObject({ strangers: 0, unmatched: 0, wrongTunnel: 0 });
    expect((await filterCounts(lab(), target))["web"]).toBeGreaterThan(2);
    expect(await filterCounts(lab(), lab().distributor)).toMatchObject({ web: 0, unmatched: 0, wrongTunnel: 0 });
    expect(await logged(target.node, "web")).toMatchObject({
      ...{ action: "accept", dvipa: DVIPA, peer: "client", identity: CLIENT_IDENTITY },
      ...{ source: CLIENT_ADDRESS, destination: DVIPA, destinationPort: APPLICATION_PORT, protocol: 6 },
    });
    // A line for the connection, not one for each of its packets.
    expect(await loggedBy(target.node, "web")).toHaveLength(1);
  });

  it("is dropped on its target when the rules are about somebody else", async () => {
    await reloadWith({ rules: [STRANGERS, { ...WEB, identity: "*.elsewhere.example" }] });
    expect(await isUnserved(lab())).toBe(true);
    await untilDecided(() => countOnTargets(lab(), "unmatched"));
    expect(await countOnTargets(lab(), "web")).toBe(0);
    await reloadWith(FILTER);
    expect(await connects(lab())).toBe(true);
  });
});

describe("a table that another program removes", () => {
  it("is put back", async () => {
    const table = `esplex-filter-${DVIPA}`;
    for (const { node } of lab().targets) await lab().network.run(node, ["nft", "delete", "table", "inet", table]);
    for (const target of lab().targets) {
      // It is counted when it is found; the kernel has the table a moment later.
      await until(`${target.node} has its filter back`, LIMIT_MS, async () =>
        (await lab().network.run(target.node, ["nft", "list", "map", "inet", table, "sas"])).includes(CLIENT_ADDRESS),
      );
      const { counters } = await target.status();
      expect(counters["filter.foreignChange"]).toBe(1);
    }
    expect(await connects(lab())).toBe(true);
  });
});

describe("what d1 decrypts itself", () => {
  it("is filtered there by the same rules", async () => {
    expect(await isUnreached(lab())).toBe(true);
    await untilDecided(() => decidedByD1("no pings"), 2);
    expect(await decidedByD1("no pings")).toBe(2);
    expect(await countOnTargets(lab(), "no pings")).toBe(0);
    expect(await logged("d1", "no pings")).toMatchObject({
      ...{ action: "drop", peer: "client", identity: CLIENT_IDENTITY, source: CLIENT_ADDRESS, protocol: 1 },
    });
  });
});

describe("a packet through the wrong tunnel", () => {
  it("is dropped, counted and logged where it is decrypted, and without a filter by the kernel's policies", async () => {
    await close(lab(), client);
    await negotiate(lab(), client, "tunnel");
    await statesOnEveryNode(lab(), 2);
    expect(await connects(lab())).toBe(true);
    await sendThroughTunnel(lab(), SPOOFED);

    expect(await isUnserved(lab(), SPOOFED)).toBe(true);
    await untilDecided(() => countOnTargets(lab(), "wrongTunnel"));
    expect(await isUnreached(lab(), SPOOFED)).toBe(true);
    await untilDecided(() => decidedByD1("wrongTunnel"), 2);
    expect(await decidedByD1("wrongTunnel")).toBe(2);
    expect(await logged("d1", "tunnel check")).toMatchObject({ action: "drop", source: SPOOFED, destination: DVIPA });
    expect(await logged("d1", "tunnel check")).not.toHaveProperty("identity");

    await reloadWith(undefined);
    const before = await refusedByPolicy();
    expect(await isUnserved(lab(), SPOOFED)).toBe(true);
    expect(await isUnreached(lab(), SPOOFED)).toBe(true);
    await untilDecided(async () => (await refusedByPolicy())["d1"] ?? 0, (before["d1"] ?? 0) + 2);
    await untilDecided(async () => sumOf(await refusedByPolicy(), ["t1", "t2"]), sumOf(before, ["t1", "t2"]) + 1);
    expect((await refusedByPolicy())["d1"]).toBe((before["d1"] ?? 0) + 2);
    expect(await pings(lab())).toBe(true);
  });
});

/** Packets that a node's policies have refused: a block, or none of the templates fits. */
async function refusedByPolicy(): Promise<Record<string, number>> {
  const nodes = lab().nodes.map(({ node }) => node);
  const stats = await Promise.all(nodes.map((node) => readXfrmStat(lab().network, node)));
  const reasons = ["XfrmInPolBlock", "XfrmInTmplMismatch", "XfrmInNoPols"];
  return Object.fromEntries(
    nodes.map((node, i) => [node, reasons.reduce((sum, reason) => sum + (stats[i]?.get(reason) ?? 0), 0)]),
  );
}

function sumOf(counts: Readonly<Record<string, number>>, nodes: readonly string[]): number {
  return nodes.reduce((sum, node) => sum + (counts[node] ?? 0), 0);
}

describe("a daemon that stops", () => {
  it("takes its filter along", async () => {
    const { network, nodes, targets } = lab();
    await reloadWith(FILTER);
    for (const node of nodes) expect(await node.stop("SIGTERM"), node.node).toMatchObject({ exitCode: 0 });
    for (const { node } of targets) expect(await network.run(node, ["nft", "list", "tables"])).not.toContain("esplex-");
    expect(await network.run("d1", ["nft", "list", "tables"])).not.toContain("esplex-");
  });
});
