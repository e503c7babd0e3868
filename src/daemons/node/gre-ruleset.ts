import { ipVersion } from "../../core/ip.ts";
import { GRE_KEY, GRE_NAME_PREFIX, HANDED_OVER_MARK, RETURNED_MARK } from "../../net/ids.ts";

/** A DVIPA that a distributor decrypts for this target, or some of what goes to it. */
export interface HandedOver {
  readonly dvipa: string;
  /** The distributor's address on the trusted link. */
  readonly distributor: string;
}

/** A DVIPA whose packets come in clear through a GRE interface of ours. */
export interface InClear {
  readonly dvipa: string;
  readonly interfaceName: string;
}

/** What travels in GRE between this node and others. */
export interface GreTraffic {
  /** Addresses on the trusted link that GRE may come from. */
  readonly peers: readonly string[];
  /** Of the DVIPAs that this node is a target of, those that a distributor decrypts for it. */
  readonly handedOver: readonly InClear[];
  /** Of the DVIPAs that this node distributes, those whose targets send it what it protects. */
  readonly returned: readonly InClear[];
}

/** Flags and version of GRE with a key and nothing else (RFC 2784 §2.1, RFC 2890 §2), where the key stands. */
const KEYED = "@th,0,16 0x2000";
const KEY = `@th,32,32 0x${GRE_KEY.toString(16)}`;

/**
 * What a node takes in GRE (R17 b): a target TCP to the DVIPAs of its distributors, a distributor TCP from the DVIPAs that it
 * protects for its targets, each over the trusted link and from these nodes alone. That passes without IPsec, by marks that
 * policies know; GRE with our key from anybody else is dropped (`spoofed`), and so is what else comes out of it (`unasked`).
 *
 * And what a target sends from such a DVIPA leaves in GRE or protected: its policies let TCP pass to where an SA of its
 * distributor leads, whatever the route (`stray_clear`).
 */
export function greRuleset(
  table: string,
  trusted: { readonly name: string; readonly address: string },
  { peers, handedOver, returned }: GreTraffic,
): string {
  const header = headerOf(trusted.address);
  const inner = (found: readonly InClear[], end: "saddr" | "daddr", mark: number): string[] =>
    found.map(({ dvipa, interfaceName }) => {
      const match = `iifname "${interfaceName}" ${headerOf(dvipa)} ${end} ${dvipa} meta l4proto tcp`;
      return `${match} meta mark set 0x${mark.toString(16)} accept`;
    });
  const strays = [...new Set(handedOver.map(({ dvipa }) => dvipa))].map((dvipa) => {
    const match = `${headerOf(dvipa)} saddr ${dvipa} meta l4proto tcp rt ipsec missing`;
    return `${match} oifname != "lo" oifname != "${GRE_NAME_PREFIX}*" counter name "stray_clear" drop`;
  });
  return `
    add table inet ${table}
    delete table inet ${table}
    table inet ${table} {
      counter spoofed { }
      counter unasked { }
      counter stray_clear { }
      chain outer {
        type filter hook input priority filter - 10; policy accept;
        meta l4proto != gre accept
        iifname "${trusted.name}" ${header} saddr { ${peers.join(", ")} } ${header} daddr ${trusted.address} accept
        ${KEYED} ${KEY} counter name "spoofed" drop
      }
      chain inner {
        type filter hook prerouting priority mangle; policy accept;
        ${inner(handedOver, "daddr", HANDED_OVER_MARK).join("\n")}
        ${inner(returned, "saddr", RETURNED_MARK).join("\n")}
        iifname "${GRE_NAME_PREFIX}*" counter name "unasked" drop
      }
      chain sent {
        type filter hook output priority filter - 10; policy accept;
        ${strays.join("\n")}
      }
    }
  `;
}

function headerOf(address: string): "ip" | "ip6" {
  return ipVersion(address) === 4 ? "ip" : "ip6";
}
