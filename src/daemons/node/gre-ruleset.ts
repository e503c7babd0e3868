import { ipVersion } from "../../core/ip.ts";
import { GRE_KEY, GRE_NAME_PREFIX, HANDED_OVER_MARK } from "../../net/ids.ts";

/** A DVIPA that a distributor decrypts and filters for this target, and what comes from it. */
export interface HandedOver {
  readonly dvipa: string;
  /** The distributor's address on the trusted link. */
  readonly distributor: string;
}

/** Flags and version of GRE with a key and nothing else (RFC 2784 §2.1, RFC 2890 §2), where the key stands. */
const KEYED = "@th,0,16 0x2000";
const KEY = `@th,32,32 0x${GRE_KEY.toString(16)}`;

/**
 * What a target takes in GRE (R17 b): from its distributors alone, over the trusted link, for their DVIPAs, and TCP. That passes
 * without IPsec, by a mark that policies know; GRE with our key from anybody else is dropped (`spoofed`), and so is what
 * else comes out of it (`unasked`).
 */
export function greRuleset(
  table: string,
  trusted: { readonly name: string; readonly address: string },
  handedOver: readonly (HandedOver & { readonly interfaceName: string })[],
): string {
  const header = ipVersion(trusted.address) === 4 ? "ip" : "ip6";
  const distributors = [...new Set(handedOver.map(({ distributor }) => distributor))];
  const inner = handedOver.map(({ dvipa, interfaceName }) => {
    const match = `iifname "${interfaceName}" ${ipVersion(dvipa) === 4 ? "ip" : "ip6"} daddr ${dvipa} meta l4proto tcp`;
    return `${match} meta mark set 0x${HANDED_OVER_MARK.toString(16)} accept`;
  });
  return `
    add table inet ${table}
    delete table inet ${table}
    table inet ${table} {
      counter spoofed { }
      counter unasked { }
      chain outer {
        type filter hook input priority filter - 10; policy accept;
        meta l4proto != gre accept
        iifname "${trusted.name}" ${header} saddr { ${distributors.join(", ")} } ${header} daddr ${trusted.address} accept
        ${KEYED} ${KEY} counter name "spoofed" drop
      }
      chain inner {
        type filter hook prerouting priority mangle; policy accept;
        ${inner.join("\n")}
        iifname "${GRE_NAME_PREFIX}*" counter name "unasked" drop
      }
    }
  `;
}
