import type { LabNetwork } from "./network.ts";

/**
 * What a daemon could leave behind in a node's kernel, one fact per line, sorted: addresses, rules, routes, nftables,
 * IPsec states and policies, sysctls, sockets' policies excepted. Two snapshots of an unused node are equal.
 */
export async function snapshotKernel(network: LabNetwork, node: string): Promise<readonly string[]> {
  const read = async (label: string, command: readonly string[]): Promise<string[]> => {
    const text = await network.run(node, command);
    return text.split("\n").flatMap((line) => (line.trim() === "" ? [] : [`${label}: ${line.trim()}`]));
  };
  const parts = await Promise.all([
    read("link", ["ip", "-oneline", "link", "show"]),
    read("address", ["ip", "-oneline", "address", "show"]),
    read("rule", ["ip", "-4", "rule"]),
    read("rule6", ["ip", "-6", "rule"]),
    read("route", ["ip", "-4", "route", "show", "table", "all"]),
    read("route6", ["ip", "-6", "route", "show", "table", "all"]),
    read("nftables", ["nft", "--stateless", "list", "ruleset"]),
    read("state", ["ip", "xfrm", "state", "list", "nokeys"]),
    read("policy", ["ip", "xfrm", "policy", "list", "nosock"]),
    read("sysctl", ["sysctl", "--all", "--ignore", "--pattern", "^net\\.(ipv4|ipv6)\\."]),
  ]);
  return parts.flat().sort();
}

/** The facts of `after` that `before` does not have (`+`), and those it has lost (`-`). Empty: nothing was left behind. */
export function residue(before: readonly string[], after: readonly string[]): readonly string[] {
  const gained = after.filter((line) => !before.includes(line)).map((line) => `+ ${line}`);
  const lost = before.filter((line) => !after.includes(line)).map((line) => `- ${line}`);
  return [...gained, ...lost];
}
