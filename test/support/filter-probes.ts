import type { Lab } from "../../netns/lab.ts";
import { APPLICATION_PORT } from "../../netns/layout.ts";
import type { LabDaemon } from "../../netns/daemon.ts";
import { until } from "../../netns/until.ts";
import type { NodeStatus } from "../../src/daemons/node/status.ts";

/** For what comes in the end: some 1 s for a node's first lease on the slowest machine that ran these tests. */
const PATIENT_SECONDS = 20;
const DECIDE_LIMIT_MS = 30_000;

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

/** Waits for so many: a packet that needs a lease for its answer may wait for that longer than its sender waits for the answer. */
export async function untilDecided(count: () => Promise<number>, least = 1): Promise<void> {
  await until(`the filter has decided about ${least}`, DECIDE_LIMIT_MS, async () => (await count()) >= least);
}

/** One request; true when it was answered, however long the emulated machine took. */
export async function connects(lab: Lab, from = lab.network.clientAddress): Promise<boolean> {
  return isServed(lab, from, APPLICATION_PORT, PATIENT_SECONDS);
}

/** The same where no answer is expected, and none waited for. */
export async function isUnserved(
  lab: Lab,
  from = lab.network.clientAddress,
  port: number = APPLICATION_PORT,
): Promise<boolean> {
  return !(await isServed(lab, from, port, 2));
}

async function isServed({ network }: Lab, from: string, port: number, seconds: number): Promise<boolean> {
  const { dvipa, ipVersion } = network;
  const url = `http://${ipVersion === 6 ? `[${dvipa}]` : dvipa}:${port}/name`;
  const command = ["curl", "-sS", "--interface", from, "--max-time", String(seconds), "--output", "/dev/null", url];
  return (await network.try("client", command)).exitCode === 0;
}

/** Two pings; true when both were answered, however long the emulated machine took. */
export async function pings(lab: Lab): Promise<boolean> {
  return (await pinged(lab, lab.network.clientAddress, PATIENT_SECONDS)) === 2;
}

/** Two pings where no answer is expected, and none waited for. */
export async function isUnreached(lab: Lab, from = lab.network.clientAddress): Promise<boolean> {
  return (await pinged(lab, from, 1)) === 0;
}

/** How many of two pings were answered. */
async function pinged({ network }: Lab, from: string, seconds: number): Promise<number> {
  const command = ["ping", "-n", "-q", "-I", from, "-c", "2", "-i", "0.2", "-W", String(seconds), network.dvipa];
  const { stdout } = await network.try("client", command);
  return Number(/ (\d+) received/.exec(stdout)?.[1]);
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
