/**
 * What other programs, and interfaces that go down, take away of the nodes' rules, routes, addresses and nftables is put back.
 * Topology: `netns/layout.ts` with two targets.
 */
import { beforeEach, describe, expect, it } from "vitest";
import { readCleartext, readClientDrops, readDecapsulatedTcp } from "../../netns/counters.ts";
import type { Lab } from "../../netns/lab.ts";
import { download, onEveryTarget, ping, requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { counter, negotiate } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const LIMIT_MS = 60_000;
const TRANSFER_BYTES = 1_000_000;
const NODES = ["d1", "t1", "t2"];
const OUR_PROTOCOL = "proto 155";

/** The nftables tables of ours that a node's kernel has. */
async function tables({ network }: Lab, node: string): Promise<string[]> {
  const text = await network.run(node, ["nft", "list", "tables", "inet"]);
  const names = text.split("\n").map((line) => line.replace("table inet ", ""));
  return names.filter((name) => /^esplex($|-)/.test(name)).sort();
}

/** Rules and routes of ours in a node's kernel, and where the DVIPA is. */
async function standing({ network }: Lab, node: string): Promise<string[]> {
  const flag = network.ipVersion === 4 ? "-4" : "-6";
  const rules = (await network.run(node, ["ip", flag, "rule"])).split("\n");
  const routes = await network.run(node, ["ip", flag, "route", "show", "table", "all", ...OUR_PROTOCOL.split(" ")]);
  const addresses = await network.run(node, ["ip", "-o", "address", "show", "to", network.dvipa]);
  return [
    ...rules.filter((line) => line.includes(OUR_PROTOCOL)),
    ...routes.split("\n").map((line) => line.trim()),
    ...addresses.split("\n").map((line) => line.split(/\s+/).slice(1, 4).join(" ")),
  ]
    .filter((line) => line !== "")
    .sort();
}

/** Each target answers, through the distributor's steering: its own kernel has decrypted no TCP. */
async function isServedByAll(lab: Lab): Promise<void> {
  const results = await onEveryTarget(lab, () => requestName(lab));
  expect(results.map(({ ok, problem }) => (ok ? "" : problem)).filter(Boolean)).toEqual([]);
  expect(new Set(results.map(({ node }) => node))).toEqual(new Set(["t1", "t2"]));
  expect(await download(lab, TRANSFER_BYTES)).toMatchObject({ ok: true });
  expect(await ping(lab, 2)).toEqual({ sent: 2, received: 2 });
  expect(await readDecapsulatedTcp(lab.network, "d1")).toBe(0);
}

/** Takes `node`'s interface down, and up again once `meanwhile` is done. */
async function whileDown<T>(lab: Lab, node: string, name: string, meanwhile: () => Promise<T>): Promise<T> {
  await lab.network.run(node, ["ip", "link", "set", "dev", name, "down"]);
  try {
    return await meanwhile();
  } finally {
    await lab.network.run(node, ["ip", "link", "set", "dev", name, "up"]);
  }
}

describe.each([4, 6] as const)("the hosts' network, IPv%i", (service) => {
  let whole: ReadonlyMap<string, readonly string[]>;
  const lab = useLab({ targets: 2, versions: { service } }, async (up) => {
    await up.startCluster();
    const client = await up.startClient();
    await negotiate(up, client, "tunnel");
    await isServedByAll(up);
    whole = new Map(await Promise.all(NODES.map(async (node) => [node, await standing(up, node)] as const)));
  });

  let before: ReadonlyMap<string, number>;

  /** How often each node has seen that something was missing. */
  async function changesSeen(): Promise<ReadonlyMap<string, number>> {
    const each = lab().nodes.map(async (daemon) => {
      return [daemon.node, await counter(lab(), "network.foreignChange", daemon)] as const;
    });
    return new Map(await Promise.all(each));
  }

  beforeEach(async () => {
    before = await changesSeen();
  });

  /** All nodes have what they had, and these have seen, in this test, that it was missing. */
  async function isWhole(nodes: readonly string[]): Promise<void> {
    for (const node of NODES) {
      await until(`${node} has its rules, routes and addresses`, LIMIT_MS, async () => {
        return JSON.stringify(await standing(lab(), node)) === JSON.stringify(whole.get(node));
      });
    }
    const seen = await changesSeen();
    for (const node of nodes) expect(seen.get(node), node).toBeGreaterThan(before.get(node) ?? 0);
    await isServedByAll(lab());
  }

  it("tables of nftables that a firewall's start removes are back", async () => {
    for (const node of NODES) {
      const wanted = await tables(lab(), node);
      expect(wanted).toEqual(node === "d1" ? ["esplex"] : ["esplex-target"]);
      for (const table of wanted) await lab().network.run(node, ["nft", "delete", "table", "inet", table]);
      await until(`${node} has its tables`, LIMIT_MS, async () => {
        return JSON.stringify(await tables(lab(), node)) === JSON.stringify(wanted);
      });
    }
    await isWhole(NODES);
  });

  it("rules that a network manager flushes are back, that of table local with them", async () => {
    const { network } = lab();
    const flag = service === 4 ? "-4" : "-6";
    const before = await network.run("d1", ["ip", flag, "rule"]);
    const ours = before.split("\n").filter((line) => line.includes(OUR_PROTOCOL));
    expect(ours.filter((line) => line.includes("lookup local"))).toHaveLength(1);
    expect(ours).toHaveLength(3);
    for (const line of ours) {
      const [, preference = "", selector = ""] = /^(\d+):\s+(.*)$/.exec(line) ?? [];
      await network.run("d1", ["ip", flag, "rule", "delete", "pref", preference, ...selector.trim().split(/\s+/)]);
    }
    await until("the rules are back", LIMIT_MS, async () => (await network.run("d1", ["ip", flag, "rule"])) === before);
    await isWhole(["d1"]);
  });

  it("routes that another program flushes are back", async () => {
    const flag = service === 4 ? "-4" : "-6";
    const flush = ["ip", flag, "route", "flush", "table", "all", ...OUR_PROTOCOL.split(" ")];
    await lab().network.run("d1", flush);
    await isWhole(["d1"]);
  });

  it("the DVIPA is back where somebody deletes it", async () => {
    const { network } = lab();
    const address = `${network.dvipa}/${service === 4 ? 32 : 128}`;
    for (const [node, name] of [
      ["d1", "cli0"],
      ["t1", "lo"],
    ] as const)
      await network.run(node, ["ip", "address", "delete", address, "dev", name]);
    await isWhole(["d1", "t1"]);
  });

  it("a trusted link that goes down and comes back: nothing is decrypted at the distributor meanwhile", async () => {
    const { network } = lab();
    const slowly = { bytesPerSecond: TRANSFER_BYTES / 10, limitSeconds: 110 };
    const underWay = download(lab(), TRANSFER_BYTES, slowly);
    await until("a download is under way", LIMIT_MS, async () => {
      return (await lab().distributor.status()).connections.some(({ state }) => state === "confirmed");
    });
    const begunMeanwhile = await whileDown(lab(), "d1", "trust0", async () => {
      const begun = download(lab(), TRANSFER_BYTES, slowly);
      const { exitCode } = await network.try("client", ["curl", "-sS", "--max-time", "2", urlOf(lab())]);
      expect(exitCode).not.toBe(0);
      return { result: begun };
    });
    expect(await underWay).toMatchObject({ ok: true });
    expect(await begunMeanwhile.result).toMatchObject({ ok: true });
    await isWhole(["d1"]);
  });

  it("the clients' link that goes down and comes back", async () => {
    const { network } = lab();
    await whileDown(lab(), "d1", "cli0", () => Promise.resolve());
    if (service === 6) {
      // The kernel has forgotten the host's own address as well, which its network manager gives it again.
      const { address6 } = network.interfaceOf("d1", "client");
      await network.run("d1", ["ip", "address", "add", `${address6}/64`, "dev", "cli0", "nodad"]);
    }
    await isWhole(service === 6 ? ["d1"] : []);
  });

  it("and nothing was in clear, or dropped by the client", async () => {
    expect(await readCleartext(lab().network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
  });
});

function urlOf({ network }: Lab): string {
  return `http://${network.ipVersion === 6 ? `[${network.dvipa}]` : network.dvipa}/name`;
}
