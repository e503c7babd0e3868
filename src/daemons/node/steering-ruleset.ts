import { FAMILIES, familyOf, type AddressFamily } from "../../net/inet-address.ts";
import { ICMP_ERROR_MARK } from "../../net/ids.ts";
import { NAT_T_PORT } from "../../sa/spec.ts";
import { initGuard, type InitLimits } from "./init-ruleset.ts";

const NFT = {
  set: { dvipas: { 2: "dvipas", 10: "dvipas6" }, gateways: { 2: "gateways", 10: "gateways6" } },
  type: { 2: "ipv4_addr", 10: "ipv6_addr" },
  header: { 2: "ip", 10: "ip6" },
  icmpErrors: {
    2: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    10: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
  },
} as const;

/**
 * ESP in UDP: what stands behind the UDP header is no zero marker (RFC 3948 §2.2). A shorter datagram, as a keepalive is, does
 * not match: it is IKE's, which counts it.
 */
const ESP_IN_UDP = `udp dport ${NAT_T_PORT} @th,64,32 != 0`;

/** The quote of an ICMP error is of TCP: the protocol of the IP header behind the 8 bytes of ICMP's (RFC 792, RFC 4443 §2.1). */
const QUOTES_TCP = { 2: "@th,136,8 6", 10: "@th,112,8 6" } as const;

/** Where IPsec of a distributor ends. */
export interface IpsecEnds {
  readonly dvipas: readonly string[];
  /** Addresses of its own, of versions that the DVIPAs have. */
  readonly gateways: readonly string[];
}

/** What is done with packets: `queue num N`. Without `bypass` in it the kernel drops when nobody listens (fail closed). */
export interface SteeringVerdicts {
  readonly ipsec: string;
  readonly icmpErrors: string;
}

/**
 * The nftables ruleset that gives ESP (bare and in UDP) and AH to the DVIPAs, and to the addresses of this host at which SAs for
 * them end, a verdict at prerouting, and the ICMP errors that come to the DVIPAs in clear one of their own. The latter get also the
 * errors that this host's kernel makes about what targets have sent it, for it to protect: it tells them to the source, a DVIPA,
 * and so to itself. A verdict that marks them sends them on to a target, which takes nothing from its own address.
 *
 * Of a fragmented packet only the first fragment has an SPI. The `tproxy` expressions, on a port that nobody uses, are there
 * because they make the kernel reassemble fragments (priority -400, ahead of everything here) without tracking connections.
 * Tracking would lose packets: what ESP in transport mode has brought passes prerouting and waits, before it is confirmed at
 * local input; of several first packets of one ICMP flow that come at once, as when the gate opens, only one is. Where somebody
 * else tracks connections, the DVIPAs' own packets, ESP, AH and IKE, are left out: neither a full table (a flood of IKE from
 * spoofed addresses would fill it) nor another ruleset's `ct state invalid` touches them.
 *
 * A flood of IKE_SA_INIT is thinned here (`initGuard`); `limits` are tests' own.
 */
export function steeringRuleset(
  table: string,
  { dvipas, gateways }: IpsecEnds,
  verdicts: SteeringVerdicts,
  limits?: InitLimits,
): string {
  const { families, sets, rules, icmpErrors } = matching({ dvipas, gateways });
  const guard = initGuard(families, limits);
  const ownErrors = families.flatMap((family) => {
    const gateway = gateways.find((address) => familyOf(address) === family);
    if (gateway === undefined) return [];
    const header = NFT.header[family];
    const set = `@${NFT.set.dvipas[family]}`;
    const match = `${header} saddr ${set} ${header} daddr ${set} ${NFT.icmpErrors[family]} ${QUOTES_TCP[family]}`;
    return [`oifname "lo" ${match} ${header} saddr set ${gateway} ${verdicts.icmpErrors}`];
  });
  return `
    add table inet ${table}
    delete table inet ${table}
    table inet ${table} {
      ${lines(sets)}
      ${lines(guard.objects)}
      ${lines(guard.chains)}
      chain ike {
        type filter hook prerouting priority mangle; policy accept;
        ${lines(guard.matches.flatMap((match) => rules("daddr", match)))}
      }
      chain untracked {
        type filter hook prerouting priority raw; policy accept;
        ${lines(rules("daddr", "meta l4proto { esp, ah } notrack"))}
        ${lines(rules("daddr", "udp dport { 500, 4500 } notrack"))}
      }
      chain untracked_out {
        type filter hook output priority raw; policy accept;
        ${lines(rules("saddr", "meta l4proto { esp, ah } notrack"))}
        ${lines(rules("saddr", "udp sport { 500, 4500 } notrack"))}
      }
      chain steering {
        type filter hook prerouting priority mangle; policy accept;
        ${lines(families.map((family) => `udp dport 0 tproxy ${NFT.header[family]} to :1`))}
        ${lines(rules("daddr", `meta l4proto { esp, ah } ${verdicts.ipsec}`))}
        ${lines(rules("daddr", `${ESP_IN_UDP} ${verdicts.ipsec}`))}
        ${lines(icmpErrors(`iifname != "lo" ${verdicts.icmpErrors}`))}
      }
      chain own_errors {
        type filter hook output priority mangle; policy accept;
        ${lines(ownErrors)}
      }
    }
  `;
}

/**
 * The ruleset of a target. ESP and AH to the DVIPAs comes from the trusted link alone: from elsewhere it has passed no distributor, and a
 * recorded packet of another target would be new to this one's kernel. ICMP errors from there have been looked at: they get the mark
 * that the guards let pass. And the first segment of each connection that its programs open from a DVIPA gets a `verdict`, ahead of
 * IPsec; those that find no SA have no way out but `lo`, where the kernel drops them (xfrm_lookup_route: a blackhole).
 */
export function targetRuleset(table: string, dvipas: readonly string[], trustedLink: string, verdict: string): string {
  const { sets, rules, icmpErrors } = matching({ dvipas, gateways: [] });
  const known = icmpErrors(`iifname "${trustedLink}" meta mark set 0x${ICMP_ERROR_MARK.toString(16)}`);
  return `
    add table inet ${table}
    delete table inet ${table}
    table inet ${table} {
      ${lines(sets)}
      counter stray_ipsec { }
      chain trusted_link_only {
        type filter hook prerouting priority raw; policy accept;
        ${lines(known)}
        iifname "${trustedLink}" accept
        ${lines(rules("daddr", 'meta l4proto { esp, ah } counter name "stray_ipsec" drop'))}
      }
      chain openings {
        type filter hook output priority mangle; policy accept;
        ${lines(rules("saddr", `oifname != "lo" tcp flags & (syn | ack | rst) == syn ${verdict}`))}
      }
    }
  `;
}

/**
 * Sets with the addresses of each IP version, and rules that match them; `icmpErrors`: those that come in clear to the DVIPAs. Those
 * to a gateway are the host's own kernel's: all that it sends from there it sends itself.
 */
function matching({ dvipas, gateways }: IpsecEnds): {
  readonly families: readonly AddressFamily[];
  readonly sets: readonly string[];
  readonly rules: (to: "daddr" | "saddr", match: string) => string[];
  readonly icmpErrors: (match: string) => string[];
} {
  const families = FAMILIES.filter((family) => dvipas.some((dvipa) => familyOf(dvipa) === family));
  const named = Object.entries({ dvipas, gateways }).flatMap(([name, addresses]) =>
    families.flatMap((family) => {
      const elements = addresses.filter((address) => familyOf(address) === family).join(", ");
      return elements === "" ? [] : [{ family, name: NFT.set[name as keyof IpsecEnds][family], elements }];
    }),
  );
  const sets = named.map(
    ({ family, name, elements }) => `set ${name} { type ${NFT.type[family]}; elements = { ${elements} } }`,
  );
  const rules = (to: "daddr" | "saddr", match: string): string[] =>
    named.map(({ family, name }) => `${NFT.header[family]} ${to} @${name} ${match}`);
  const icmpErrors = (match: string): string[] =>
    families.map(
      (family) =>
        `${NFT.header[family]} daddr @${NFT.set.dvipas[family]} meta ipsec missing ${NFT.icmpErrors[family]} ${match}`,
    );
  return { families, sets, rules, icmpErrors };
}

function lines(texts: readonly string[]): string {
  return texts.join("\n");
}
