import type { Lab } from "../../netns/lab.ts";
import { APPLICATION_PORT } from "../../netns/layout.ts";
import type { LabDaemon } from "../../netns/daemon.ts";
import type { NodeStatus } from "../../src/daemons/node/status.ts";

/** Packets of a DVIPA's filter on a node, by the name of the rule that decided, and `unmatched` and `wrongTunnel`. */
export async function filterCounts(
  { network }: Lab,
  node: LabDaemon<NodeStatus>,
  dvipa = network.dvipa,
): Promise<Record<string, number>> {
  const filter = (await node.status()).filters.find((one) => one.dvipa === dvipa);
  if (filter === undefined) throw new Error(`${node.node} has no filter of ${dvipa}`);
  const named = filter.rules.map(({ name, packets }): [string, number] => [name, packets]);
  return {
    ...Object.fromEntries(named),
    unmatched: filter.unmatched.packets,
    wrongTunnel: filter.wrongTunnel.packets,
  };
}

/** The same of all targets together, for one of them. */
export async function countOnTargets(lab: Lab, place: string): Promise<number> {
  const all = await Promise.all(lab.targets.map((target) => filterCounts(lab, target)));
  return all.reduce((sum, one) => sum + (one[place] ?? 0), 0);
}

/** One request with a short patience; true when it was answered. */
export async function connects(
  lab: Lab,
  from = lab.network.clientAddress,
  port: number = APPLICATION_PORT,
): Promise<boolean> {
  const { dvipa, ipVersion } = lab.network;
  const url = `http://${ipVersion === 6 ? `[${dvipa}]` : dvipa}:${port}/name`;
  const command = ["curl", "-sS", "--interface", from, "--max-time", "2", "--output", "/dev/null", url];
  return (await lab.network.try("client", command)).exitCode === 0;
}

/** Two pings; true when one was answered. */
export async function pings(lab: Lab, from = lab.network.clientAddress): Promise<boolean> {
  const command = ["ping", "-n", "-q", "-I", from, "-c", "2", "-i", "0.2", "-W", "1", lab.network.dvipa];
  return (await lab.network.try("client", command)).exitCode === 0;
}

/** The client's kernel sends what comes from this address through the SA that was negotiated for its own. */
export async function sendThroughTunnel(
  { network }: Lab,
  source: string,
  protocol: "esp" | "ah" = "esp",
): Promise<void> {
  const { clientAddress, dvipa } = network;
  const [hostBits, flags] = network.ipVersion === 6 ? [128, ["nodad"]] : [32, []];
  const states = await network.run("client", ["ip", "xfrm", "state", "list", "nokeys", "dst", dvipa]);
  const [, reqid] = /reqid (\d+)/.exec(states) ?? [];
  await network.run("client", ["ip", "address", "add", `${source}/${hostBits}`, "dev", "cli0", ...flags]);
  const ends = ["src", clientAddress, "dst", dvipa];
  const template = ["tmpl", ...ends, "proto", protocol, "reqid", reqid ?? "", "mode", "tunnel"];
  const policy = ["src", `${source}/${hostBits}`, "dst", `${dvipa}/${hostBits}`, "dir", "out", "priority", "1"];
  await network.run("client", ["ip", "xfrm", "policy", "add", ...policy, ...template]);
}
