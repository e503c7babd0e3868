import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import { parse, stringify } from "yaml";
import { readXfrmStat } from "../../netns/counters.ts";
import type { Lab } from "../../netns/lab.ts";
import type { ChildName, ClientSettings, StrongSwan } from "../../netns/strongswan.ts";
import { until } from "../../netns/until.ts";
import type { IkeStatus } from "../../src/daemons/node/ike-controls.ts";

const SETTLE_LIMIT_MS = 20_000;

/** Loads settings, negotiates `mode` and fails with the exchange's log when that does not work. */
export async function negotiate(
  lab: Lab,
  client: StrongSwan,
  mode: ChildName,
  changes: Partial<ClientSettings> = {},
): Promise<string> {
  await client.load(lab.clientSettings(changes));
  const { exitCode, stdout, stderr } = await client.initiate(mode);
  expect(exitCode, `${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

/** For a client that negotiates with the distributor's own address: that, and what is behind it. */
export function throughGateway({ network }: Lab): Partial<ClientSettings> {
  return { remoteAddress: network.gatewayAddress, remoteSelectors: network.dvipa };
}

/** Number of IPsec states in a node's kernel. */
export async function stateCount(lab: Lab, node: string): Promise<number> {
  const text = await lab.network.run(node, ["ip", "xfrm", "state", "list", "nokeys"]);
  return text.split("\n").filter((line) => line.startsWith("src ")).length;
}

/** Waits until each node of the cluster has this many IPsec states. */
export async function statesOnEveryNode(
  lab: Lab,
  count: number,
  nodes = lab.nodes.map(({ node }) => node),
): Promise<void> {
  await until(`${count} IPsec states on ${nodes.join(", ")}`, SETTLE_LIMIT_MS, async () => {
    const counts = await Promise.all(nodes.map((node) => stateCount(lab, node)));
    return counts.every((found) => found === count);
  });
}

/** Closes what the client has and waits until no node of the cluster knows it any more. */
export async function close(lab: Lab, client: StrongSwan): Promise<void> {
  const { exitCode, stdout, stderr } = await client.terminate();
  expect(exitCode, `${stdout}\n${stderr}`).toBe(0);
  await statesOnEveryNode(lab, 0);
}

/** For a person: what besides a rekey may have stopped a packet at the distributor. */
export async function whatStopped(lab: Lab): Promise<string> {
  const { counters, steeringQueue } = await lab.distributor.status();
  const names = ["client", ...lab.nodes.map(({ node }) => node)];
  const xfrm = await Promise.all(
    names.map(async (node) => [node, [...(await readXfrmStat(lab.network, node))].filter(([, count]) => count > 0)]),
  );
  const told = Object.entries(counters).filter(([name]) => /^(lease|steer|gate|xfrm)/.test(name));
  return JSON.stringify({ steeringQueue, xfrm, told });
}

/** Changes sections of every peer in the distributor's cluster file, and has them read. */
export async function reloadWith(lab: Lab, changes: Readonly<Record<string, unknown>>): Promise<void> {
  const path = join(lab.directory, "cluster.yaml");
  const file = parse(await readFile(path, "utf8")) as { peers: Record<string, unknown>[] };
  const peers = file.peers.map((peer) => ({ ...peer, ...changes }));
  await writeFile(path, stringify({ ...file, peers }), { mode: 0o600 });
  await lab.distributor.ask("reload");
}

export type ChildSa = IkeStatus[number]["children"][number];

/** The Child SAs that the distributor's IKE has. */
export async function children(lab: Lab): Promise<readonly ChildSa[]> {
  const all = (await lab.distributor.ask("ikeSas")) as IkeStatus;
  return all.flatMap((sa) => sa.children);
}

/** Waits until IKE calls every Child SA active, which it does a moment after the last kernel has its states. */
export async function activeChildren(lab: Lab): Promise<readonly ChildSa[]> {
  return until("IKE's Child SAs are active", SETTLE_LIMIT_MS, async () => {
    const all = await children(lab);
    return all.length > 0 && all.every(({ state }) => state === "active") ? all : undefined;
  });
}

/** From now on the client's IKE messages do not leave it. */
export async function muteClient(lab: Lab): Promise<void> {
  await lab.network.run("client", ["nft", "-f", "-"], {
    input:
      "table inet deaf { chain out { type filter hook output priority 0; policy accept; udp dport { 500, 4500 } drop; }; }\n",
  });
}

/** Harmless when it is not mute. */
export async function unmuteClient(lab: Lab): Promise<void> {
  await lab.network.try("client", ["nft", "delete", "table", "inet", "deaf"]);
}

/** A counter of a node, by default the distributor's. */
export async function counter(lab: Lab, name: string, node = lab.distributor): Promise<number> {
  const { counters } = await node.status();
  return counters[name] ?? 0;
}
