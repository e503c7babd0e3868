import { createHash } from "node:crypto";
import { ipFromBytes, ipToBytes, ipVersion } from "../../core/ip.ts";
import type { DvipaFilter, FilterRule, PortRange } from "../../sa/filter.ts";
import { HAND_OVER_PENDING, PENDING_MASK, PENDING_VALUE } from "../../net/ids.ts";
import type { SharedSa } from "../../sa/spec.ts";
import { selectorBoxes } from "./filter-boxes.ts";

/** What every filter table's name begins with. */
export const FILTER_TABLE_PREFIX = "esplex-filter-";
/** Group of the packets to be logged (`NETLINK_NETFILTER`, nfnetlink_log); our choice. */
export const FILTER_LOG_GROUP = 4551;
/** IP header with options, or with short extension headers, and the ports: nothing of what a packet carries. */
export const FILTER_LOG_SNAP_BYTES = 64;
/** For each rule that logs, in each second: a flood must not fill the log. Our choice. */
const LOG_LIMIT = "limit rate 10/second burst 20 packets";
/** A new connection: what of an accepted one is logged. */
const IS_FIRST_SYN = "tcp flags & (fin|syn|rst|ack) == syn";
const TCP = 6;

/** What an SA has to do with its DVIPA's filter. */
export type FilteredSa = Pick<SharedSa, "dvipa" | "inbound" | "localSelectors" | "remoteSelectors" | "filterRules">;

/** Who decides: a rule by its number, the policy, or the tunnel check. Also the counters' names: none is a word of nftables. */
export type FilterPlace = `r${number}` | "unmatched" | "wrong_tunnel";

/** Name of the table of a DVIPA; nftables takes no colon in it. */
export function filterTable(dvipa: string): string {
  return `${FILTER_TABLE_PREFIX}${ipFromBytes(ipToBytes(dvipa)).replaceAll(":", "_")}`;
}

/**
 * The table of a DVIPA without its SAs: in place of what was there, in one transaction. It looks at packets that came out of ESP
 * or AH and go to a program here; what the kernel's own policies refuse it refuses still.
 *
 * Each inbound packet is found by the SPI that it came with and its own addresses, in a map of what every SA's selectors
 * allow: that is the tunnel check (RFC 4301 §5.2), with a counter and a log line; protocol and ports, where selectors have
 * some, are left to the kernel's policies. What is not in the map is dropped: a packet of a wrong tunnel, and every packet
 * of an SA whose rules are not here. The map leads to the rules that are about the SA's peer.
 */
export function filterSkeleton(dvipa: string, { rules, log, policy }: DvipaFilter): string {
  const table = filterTable(dvipa);
  const ip = family(dvipa);
  const places: FilterPlace[] = [...rules.map((_rule, i): FilterPlace => `r${i}`), "unmatched", "wrong_tunnel"];
  const key = `ipsec in spi . ${ip} saddr . ${ip} daddr`;
  return lines(
    `add table inet ${table}`,
    `delete table inet ${table}`,
    `table inet ${table} {`,
    ...places.map((place) => `counter ${place} { }`),
    `map sas { typeof ${key} : verdict; flags interval; }`,
    "chain enter {",
    `${key} vmap @sas`,
    logging(dvipa, "wrong_tunnel"),
    'counter name "wrong_tunnel" drop',
    "}",
    "chain otherwise {",
    ...(log
      ? [policy === "accept" ? firstsOnly(null, logging(dvipa, "unmatched")) : [logging(dvipa, "unmatched")]].flat()
      : []),
    `counter name "unmatched" ${verdictOf(policy)}`,
    "}",
    ...handOver(dvipa),
    "chain input {",
    "type filter hook input priority filter - 10; policy accept;",
    `meta ipsec exists ${ip} daddr ${dvipa} goto enter`,
    "}",
    "}",
  );
}

/** The chain with the rules of these numbers, as commands. */
export function filterProgram(dvipa: string, filter: DvipaFilter, numbers: readonly number[]): string {
  const table = filterTable(dvipa);
  const name = programName(numbers);
  const rules = numbers.flatMap((number) => {
    const rule = filter.rules[number];
    return rule === undefined ? [] : ruleLines(dvipa, rule, `r${number}`);
  });
  return lines(
    `add chain inet ${table} ${name}`,
    ...[...rules, "goto otherwise"].map((rule) => `add rule inet ${table} ${name} ${rule}`),
  );
}

/** SAs with the same rules share their chain. */
export function programName(numbers: readonly number[]): string {
  return `p_${createHash("sha256").update(numbers.join(",")).digest("hex").slice(0, 24)}`;
}

/** What of the map an SA needs: the keys of its elements. Throws `wire.unsupported`. */
export function filterKeys(sa: FilteredSa): string[] {
  const version = ipVersion(sa.dvipa);
  return selectorBoxes(sa)
    .filter((box) => box.version === version)
    .map(({ text }) => `0x${sa.inbound.spi.toString(16)} . ${text}`);
}

/**
 * What goes on to a target in GRE is filtered before it is routed: its mark, which it has from when it was protected, says that it
 * is to go on, and only what passes gets the one that has a route. Anything else ends at the local input. Where nothing is handed
 * over no packet has such a mark.
 */
function handOver(dvipa: string): string[] {
  const isPending = `meta mark & ${hex(PENDING_MASK)} == ${hex(PENDING_VALUE)}`;
  return [
    "chain pass {",
    `${isPending} meta mark set meta mark & ${hex((0xffffffff ^ HAND_OVER_PENDING) >>> 0)}`,
    "accept",
    "}",
    "chain before_routing {",
    "type filter hook prerouting priority mangle + 10; policy accept;",
    `${isPending} meta ipsec exists ${family(dvipa)} daddr ${dvipa} goto enter`,
    "}",
  ];
}

function verdictOf(action: "accept" | "drop"): string {
  return action === "accept" ? "goto pass" : action;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function ruleLines(dvipa: string, rule: FilterRule, place: FilterPlace): string[] {
  const match = matches(dvipa, rule);
  const decide = [...match, `counter name "${place}"`, verdictOf(rule.action)].join(" ");
  if (!rule.log) return [decide];
  const log = logging(dvipa, place);
  const logs = rule.action === "drop" ? [log] : firstsOnly(rule.protocol, log);
  return [...logs.map((line) => [...match, line].join(" ")), decide];
}

function matches(dvipa: string, { sources, protocol, sourcePorts, ports }: FilterRule): string[] {
  return [
    ...(sources.length === 0 ? [] : [`${family(dvipa)} saddr { ${sources.join(", ")} }`]),
    ...(protocol === null ? [] : [`meta l4proto ${protocol}`]),
    ...(sourcePorts.length === 0 ? [] : [`th sport { ${sourcePorts.map(portText).join(", ")} }`]),
    ...(ports.length === 0 ? [] : [`th dport { ${ports.map(portText).join(", ")} }`]),
  ];
}

/** Of TCP what begins a connection, of other protocols everything. */
function firstsOnly(protocol: number | null, log: string): string[] {
  if (protocol !== null) return [protocol === TCP ? `${IS_FIRST_SYN} ${log}` : log];
  return [`${IS_FIRST_SYN} ${log}`, `meta l4proto != ${TCP} ${log}`];
}

function logging(dvipa: string, place: FilterPlace): string {
  return `${LOG_LIMIT} log prefix "${dvipa} ${place}" group ${FILTER_LOG_GROUP} snaplen ${FILTER_LOG_SNAP_BYTES}`;
}

function portText({ first, last }: PortRange): string {
  return first === last ? String(first) : `${first}-${last}`;
}

function family(dvipa: string): "ip" | "ip6" {
  return ipVersion(dvipa) === 4 ? "ip" : "ip6";
}

function lines(...texts: readonly string[]): string {
  return `${texts.join("\n")}\n`;
}
