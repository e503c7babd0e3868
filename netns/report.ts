import type { Lab } from "./lab.ts";
import { messageOf } from "../src/core/errors.ts";
import { readXfrmStat } from "./counters.ts";
import type { LabNetwork } from "./network.ts";

/** A key as `ip xfrm` prints one: longer than any SPI, mark or sequence number. */
const KEY = /0x[0-9a-f]{32,}/g;

/** The node's IPsec states with counters, as `ip -s xfrm state` shows them, without keys. */
async function describeStates(network: LabNetwork, node: string): Promise<string> {
  return (await network.run(node, ["ip", "-s", "xfrm", "state", "list", "nokeys"])).replaceAll(KEY, "(key)");
}

/** What one needs to see when a test failed: of each node states, policies, error counters and the ends of the logs. */
export async function describeLab(lab: Lab): Promise<string> {
  const parts = await Promise.all(lab.network.nodes.map(({ name }) => describeNode(lab, name).catch(String)));
  return parts.join("\n");
}

/** What the node's daemon has counted, or why it does not say. */
async function countersOf({ nodes }: Lab, name: string): Promise<string> {
  const daemon = nodes.find(({ node }) => node === name);
  if (daemon === undefined) return "no node of the cluster";
  return daemon.status().then(({ counters }) => JSON.stringify(counters), messageOf);
}

async function describeNode(lab: Lab, node: string): Promise<string> {
  const [states, policies, stat, told, log] = await Promise.all([
    describeStates(lab.network, node),
    lab.network.run(node, ["ip", "xfrm", "policy", "list", "nosock"]),
    readXfrmStat(lab.network, node),
    countersOf(lab, node),
    lab.logTail(node),
  ]);
  const counters = [...stat].filter(([, value]) => value !== 0).map(([name, value]) => `${name}=${value}`);
  return [
    `======== ${node}`,
    `-- states\n${states}`,
    `-- policies\n${policies}`,
    `-- xfrm_stat: ${counters.join(" ") || "all zero"}`,
    `-- counters: ${told}`,
    `-- log\n${log}`,
  ].join("\n");
}
