import { expect } from "vitest";
import { readXfrmStat } from "../../netns/counters.ts";
import type { Lab } from "../../netns/lab.ts";
import type { ChildName, ClientSettings, StrongSwan } from "../../netns/strongswan.ts";
import { until } from "../../netns/until.ts";

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
