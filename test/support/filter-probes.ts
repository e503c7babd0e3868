import type { Lab } from "../../netns/lab.ts";
import { APPLICATION_PORT, CLIENT_ADDRESS, DVIPA } from "../../netns/layout.ts";
import type { LabDaemon } from "../../netns/daemon.ts";
import type { NodeStatus } from "../../src/daemons/node/status.ts";

/** Packets of a node's only filter, by the name of the rule that decided, and `unmatched` and `wrongTunnel`. */
export async function filterCounts(node: LabDaemon<NodeStatus>): Promise<Record<string, number>> {
  const [filter, ...others] = (await node.status()).filters;
  if (filter === undefined || others.length > 0) throw new Error(`${node.node} has not exactly one filter`);
  const named = filter.rules.map(({ name, packets }): [string, number] => [name, packets]);
  return {
    ...Object.fromEntries(named),
    unmatched: filter.unmatched.packets,
    wrongTunnel: filter.wrongTunnel.packets,
  };
}

/** The same of all targets together, for one of them. */
export async function countOnTargets(lab: Lab, place: string): Promise<number> {
  const all = await Promise.all(lab.targets.map(filterCounts));
  return all.reduce((sum, one) => sum + (one[place] ?? 0), 0);
}

/** One request with a short patience; true when it was answered. */
export async function connects(lab: Lab, from = CLIENT_ADDRESS): Promise<boolean> {
  const url = `http://${DVIPA}:${APPLICATION_PORT}/name`;
  const command = ["curl", "-sS", "--interface", from, "--max-time", "2", "--output", "/dev/null", url];
  return (await lab.network.try("client", command)).exitCode === 0;
}

/** Two pings; true when one was answered. */
export async function pings(lab: Lab, from = CLIENT_ADDRESS): Promise<boolean> {
  const command = ["ping", "-n", "-q", "-I", from, "-c", "2", "-i", "0.2", "-W", "1", DVIPA];
  return (await lab.network.try("client", command)).exitCode === 0;
}

/** The client's kernel sends what comes from this address through the SA that was negotiated for its own. */
export async function sendThroughTunnel({ network }: Lab, source: string): Promise<void> {
  const states = await network.run("client", ["ip", "xfrm", "state", "list", "nokeys", "dst", DVIPA]);
  const [, reqid] = /reqid (\d+)/.exec(states) ?? [];
  await network.run("client", ["ip", "address", "add", `${source}/32`, "dev", "cli0"]);
  const ends = ["src", CLIENT_ADDRESS, "dst", DVIPA];
  const template = ["tmpl", ...ends, "proto", "esp", "reqid", reqid ?? "", "mode", "tunnel"];
  const policy = ["src", `${source}/32`, "dst", `${DVIPA}/32`, "dir", "out", "priority", "1"];
  await network.run("client", ["ip", "xfrm", "policy", "add", ...policy, ...template]);
}
