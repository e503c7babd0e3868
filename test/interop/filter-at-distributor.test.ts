/**
 * d1 decrypts, filters and hands over in GRE; targets take that and nothing else, and answer the client themselves. Topology:
 * `netns/layout.ts` with two targets; cf plays a node of the trusted link that is no distributor.
 */
import { describe, expect, it } from "vitest";
import { APPLICATION_PORT, CLIENT_ADDRESS, CLIENT_IDENTITY, DVIPA } from "../../netns/layout.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { requestName, upload } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import type { Drop } from "../../src/daemons/node/drops.ts";
import { GRE_KEY } from "../../src/net/ids.ts";
import { close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import {
  connects,
  countOnTargets,
  filterCounts,
  isUnserved,
  pings,
  sendThroughTunnel,
  untilDecided,
} from "../support/filter-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const LIMIT_MS = 30_000;
const SPOOFED = "192.0.2.77";
const UPLOAD_BYTES = 1_000_000;
const WEB = { name: "web", identity: CLIENT_IDENTITY, protocol: "tcp", ports: [APPLICATION_PORT], action: "accept" };
const PINGS = { name: "pings", protocol: "icmp", action: "accept" };

const filter = { at: "distributor", rules: [WEB, PINGS] };
const peer = { modes: ["tunnel"], espProposals: ["aes256gcm16"], ahProposals: ["sha256"] };
let client: StrongSwan;
const lab = useLab({ targets: 2, cluster: { filter, peer } }, async (up) => {
  await up.startCluster();
  client = await up.startClient();
  await negotiate(up, client, "tunnel");
  await statesOnEveryNode(up, 2);
});

/** Packets that d1's filter has decided about there. */
async function decides(place: string): Promise<number> {
  return (await filterCounts(lab(), lab().distributor))[place] ?? 0;
}

/** Packets that a node's kernel has decrypted. */
async function decrypted(node: string): Promise<number> {
  const states = await lab().network.run(node, ["ip", "-s", "xfrm", "state", "list", "nokeys", "dst", DVIPA]);
  const [, packets] = /lifetime current:\s+\d+\(bytes\), (\d+)\(packets\)/.exec(states) ?? [];
  return Number(packets);
}

/** Of a policy for what comes from there. */
function ends(source: string): string[] {
  return ["src", `${source}/32`, "dst", `${DVIPA}/32`];
}

async function counter(node: string, name: string, table = "esplex-gre"): Promise<number> {
  const text = await lab().network.run(node, ["nft", "list", "counter", "inet", table, name]);
  return Number(/packets (\d+)/.exec(text)?.[1]);
}

describe("a connection", () => {
  it("is decrypted and filtered by d1, and served by a target that decrypts nothing", async () => {
    const { node } = await requestName(lab());
    expect(["t1", "t2"]).toContain(node);
    expect(await decrypted(node ?? "")).toBe(0);
    expect(await decrypted("d1")).toBeGreaterThan(3);
    const { counters } = await lab().distributor.status();
    expect(counters).toMatchObject({ "steer.opened": expect.any(Number) as number });
    expect(counters["steer.forwarded"]).toBeUndefined();
    expect((await filterCounts(lab(), lab().distributor))["web"]).toBeGreaterThan(3);
  });

  it("carries full-sized packets, which leave no room for GRE", async () => {
    expect(await upload(lab(), UPLOAD_BYTES)).toMatchObject({ ok: true });
  });

  it("does not hinder what d1 serves itself", async () => {
    expect(await pings(lab())).toBe(true);
    expect((await filterCounts(lab(), lab().distributor))["pings"]).toBe(2);
  });
});

describe("a target", () => {
  it("takes no GRE from another node, nor from the distributor's address by another link", async () => {
    const { network } = lab();
    const t1 = network.interfaceOf("t1", "trust").address;
    const d1 = network.interfaceOf("d1", "trust").address;
    const tunnel = async (node: string, local: string): Promise<void> => {
      const key = ["key", String(GRE_KEY)];
      await network.run(node, ["ip", "link", "add", "forge", "type", "gre", "local", local, "remote", t1, ...key]);
      await network.run(node, ["ip", "link", "set", "forge", "up"]);
    };
    // One packet each, to the DVIPA: there is no answer, and none is waited for.
    const sends = async (node: string): Promise<void> => {
      await network.run(node, ["ip", "address", "add", `${SPOOFED}/32`, "dev", "forge"]);
      await network.run(node, ["ip", "route", "add", `${DVIPA}/32`, "dev", "forge", "table", "99"]);
      await network.run(node, ["ip", "rule", "add", "from", SPOOFED, "lookup", "99", "priority", "1"]);
      await network.try(node, ["ping", "-n", "-q", "-I", SPOOFED, "-c", "1", "-W", "1", DVIPA]);
    };
    await tunnel("cf", network.interfaceOf("cf", "trust").address);
    await sends("cf");
    await until("t1 counts cf's", LIMIT_MS, async () => (await counter("t1", "spoofed")) > 0);
    await network.run("cf", ["ip", "link", "delete", "forge"]);
    const before = await counter("t1", "spoofed");
    await network.run("client", ["ip", "address", "add", `${d1}/32`, "dev", "lo"]);
    await network.run("client", ["ip", "route", "add", `${t1}/32`, "via", network.interfaceOf("t1", "client").address]);
    await tunnel("client", d1);
    await sends("client");
    await until("t1 counts the client's", LIMIT_MS, async () => (await counter("t1", "spoofed")) > before);
    await network.run("client", ["ip", "link", "delete", "forge"]);
    await network.run("client", ["ip", "rule", "delete", "priority", "1"]);
  });

  it("takes no ESP either: it would pass d1's filter by", async () => {
    const { network } = lab();
    const { mac } = network.interfaceOf("t1", "client");
    await network.run("client", [
      "ip",
      "neighbour",
      "replace",
      DVIPA,
      "lladdr",
      mac,
      "dev",
      "cli0",
      "nud",
      "permanent",
    ]);
    expect(await isUnserved(lab())).toBe(true);
    expect(await counter("t1", "stray_ipsec", "esplex-target")).toBeGreaterThan(0);
    const drops = (await lab().target("t1").ask("drops")) as readonly Drop[];
    const names = drops.map(({ counter: name }) => name);
    expect(names).toEqual(expect.arrayContaining(["esplex-target.stray_ipsec", "esplex-gre.spoofed"]));
    // Without that rule it is decrypted, and meets the filter, which knows no SA here.
    await network.run("t1", ["nft", "flush", "chain", "inet", "esplex-target", "trusted_link_only"]);
    expect(await isUnserved(lab())).toBe(true);
    await untilDecided(() => countOnTargets(lab(), "wrongTunnel"));
    await network.run("client", ["ip", "neighbour", "delete", DVIPA, "dev", "cli0"]);
    expect(await connects(lab())).toBe(true);
  });
});

describe("a packet through the wrong tunnel", () => {
  it("does not get past d1", async () => {
    await sendThroughTunnel(lab(), SPOOFED);
    expect(await isUnserved(lab(), SPOOFED)).toBe(true);
    await untilDecided(() => decides("wrongTunnel"));
    expect(await connects(lab(), CLIENT_ADDRESS)).toBe(true);
  });
});

describe("AH", () => {
  it("is taken off and filtered by d1 as ESP is, and the wrong tunnel's packets are dropped", async () => {
    await lab().network.run("client", ["ip", "xfrm", "policy", "delete", ...ends(SPOOFED), "dir", "out"]);
    await lab().network.run("client", ["ip", "address", "delete", `${SPOOFED}/32`, "dev", "cli0"]);
    await close(lab(), client);
    await negotiate(lab(), client, "tunnel", { ahProposals: "sha256" });
    await statesOnEveryNode(lab(), 2);
    const before = { web: await decides("web"), wrongTunnel: await decides("wrongTunnel") };
    expect(await upload(lab(), UPLOAD_BYTES)).toMatchObject({ ok: true });
    for (const { node } of lab().targets) expect(await decrypted(node)).toBe(0);
    await sendThroughTunnel(lab(), SPOOFED, "ah");
    expect(await isUnserved(lab(), SPOOFED)).toBe(true);
    await untilDecided(() => decides("wrongTunnel"), before.wrongTunnel + 1);
    expect(await decides("web")).toBeGreaterThan(before.web);
  });
});

describe("daemons that stop", () => {
  it("leave no tunnel and no table", async () => {
    const { network, nodes } = lab();
    for (const node of nodes)
      expect([node.node, await node.stop("SIGTERM")]).toEqual([node.node, { exitCode: 0, signal: null }]);
    for (const { node } of nodes) {
      expect(await network.run(node, ["nft", "list", "tables"])).not.toContain("esplex-");
      expect(await network.run(node, ["ip", "link"])).not.toContain("esplexg");
    }
  });
});
