import { FAMILIES, familyOf } from "../../net/inet-address.ts";

const NFT = {
  set: { 2: "dvipas", 10: "dvipas6" },
  type: { 2: "ipv4_addr", 10: "ipv6_addr" },
  header: { 2: "ip", 10: "ip6" },
} as const;

/**
 * The nftables ruleset that gives ESP to the DVIPAs a `verdict` (`queue num N`) at prerouting. Without `bypass` in it the
 * kernel drops when no steering listens (fail closed).
 *
 * Of a fragmented packet only the first fragment has an SPI. The `ct` expression is there because it makes the kernel
 * track connections, hence reassemble fragments (priority -400, ahead of everything here); the DVIPAs' own packets,
 * ESP and IKE, are not tracked: neither a full connection table (a flood of IKE from spoofed addresses would fill it) nor
 * another ruleset's `ct state invalid` touches them.
 */
export function steeringRuleset(table: string, dvipas: readonly string[], verdict: string): string {
  const families = FAMILIES.filter((family) => dvipas.some((dvipa) => familyOf(dvipa) === family));
  const sets = families.map((family) => {
    const elements = dvipas.filter((dvipa) => familyOf(dvipa) === family).join(", ");
    return `set ${NFT.set[family]} { type ${NFT.type[family]}; elements = { ${elements} } }`;
  });
  const rules = (to: "daddr" | "saddr", match: string): string[] =>
    families.map((family) => `${NFT.header[family]} ${to} @${NFT.set[family]} ${match}`);
  return `
    add table inet ${table}
    delete table inet ${table}
    table inet ${table} {
      ${lines(sets)}
      chain untracked {
        type filter hook prerouting priority raw; policy accept;
        ${lines(rules("daddr", "meta l4proto esp notrack"))}
        ${lines(rules("daddr", "udp dport { 500, 4500 } notrack"))}
      }
      chain untracked_out {
        type filter hook output priority raw; policy accept;
        ${lines(rules("saddr", "meta l4proto esp notrack"))}
        ${lines(rules("saddr", "udp sport { 500, 4500 } notrack"))}
      }
      chain steering {
        type filter hook prerouting priority mangle; policy accept;
        ${lines(rules("daddr", "meta l4proto esp ct state untracked counter"))}
        ${lines(rules("daddr", `meta l4proto esp ${verdict}`))}
      }
    }
  `;
}

function lines(texts: readonly string[]): string {
  return texts.join("\n");
}
