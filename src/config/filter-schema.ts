import { isIP } from "node:net";
import { z } from "zod";
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import {
  FILTER_RULE_NAME,
  MAX_FILTER_PORTS,
  MAX_FILTER_RULES,
  MAX_FILTER_SOURCES,
  type PortRange,
} from "../sa/filter.ts";
import { section } from "./section.ts";
import { isSubnet, overlaps, rangeOf } from "./subnet.ts";

/** Names of IP protocols as in /etc/protocols; others by their number. */
const PROTOCOLS = { icmp: 1, tcp: 6, udp: 17, icmpv6: 58, sctp: 132 } as const;
/** Protocols whose header begins with two ports. */
const WITH_PORTS: readonly number[] = [PROTOCOLS.tcp, PROTOCOLS.udp, PROTOCOLS.sctp];

const AT = "target or distributor";
const ACTION = "accept or drop";
const LOG = "true or false";
const RULES = `a list of at most ${MAX_FILTER_RULES} rules`;
const RULE_NAME = "1 to 48 characters of A-Z, a-z, 0-9, blank, ., _ and -";
const SOURCE = `a list of 1 to ${MAX_FILTER_SOURCES} of ADDRESS and ADDRESS/PREFIX with no bits set behind the prefix`;
const PROTOCOL = `${Object.keys(PROTOCOLS).join(", ")}, or a number from 1 to 255`;
const PORTS = `a list of 1 to ${MAX_FILTER_PORTS} ports and ranges such as 8000-8010`;
const DISJOINT = "entries that share no address or port";
const PORTS_NEED_PROTOCOL = "ports only with protocol tcp, udp or sctp";
const FILTER_IDENTITY = "an IKE identity, or a pattern as in peers[].identity";
const LAST_PORT = 65_535;

const source = z
  .string(SOURCE)
  .refine((text) => (isIP(text) !== 0 && !text.includes("%")) || isSubnet(text), { error: SOURCE, abort: true })
  .transform((text) => {
    const [address = "", prefix] = text.split("/");
    const canonical = ipFromBytes(ipToBytes(address));
    return prefix === undefined ? canonical : `${canonical}/${prefix}`;
  });

const portRange = z.union([z.number(PORTS), z.string(PORTS)], PORTS).transform((value, context): PortRange => {
  const [, firstText = "", lastText = firstText] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(String(value)) ?? [];
  const range = { first: Number(firstText), last: Number(lastText) };
  if (firstText !== "" && range.first >= 1 && range.first <= range.last && range.last <= LAST_PORT) return range;
  context.addIssue({ code: "custom", message: PORTS });
  return z.NEVER;
});
const ports = z.array(portRange, PORTS).min(1, PORTS).max(MAX_FILTER_PORTS, PORTS).default([]);

const protocol = z.union([z.string(PROTOCOL), z.number(PROTOCOL)], PROTOCOL).transform((value, context): number => {
  const number =
    typeof value === "number"
      ? value
      : Object.hasOwn(PROTOCOLS, value)
        ? PROTOCOLS[value as keyof typeof PROTOCOLS]
        : Number.NaN;
  if (Number.isInteger(number) && number >= 1 && number <= 255) return number;
  context.addIssue({ code: "custom", message: PROTOCOL });
  return z.NEVER;
});

const ruleSection = section({
  name: z.string(RULE_NAME).regex(FILTER_RULE_NAME, RULE_NAME).nullable().default(null),
  identity: z.string(FILTER_IDENTITY).min(1, FILTER_IDENTITY).max(255, FILTER_IDENTITY).nullable().default(null),
  source: z.array(source, SOURCE).min(1, SOURCE).max(MAX_FILTER_SOURCES, SOURCE).default([]),
  protocol: protocol.nullable().default(null),
  ports,
  sourcePorts: ports,
  action: z.enum(["accept", "drop"], ACTION),
  log: z.boolean(LOG).default(false),
}).superRefine((rule, context) => {
  for (const key of ["ports", "sourcePorts"] as const) {
    if (rule[key].length === 0 || (rule.protocol !== null && WITH_PORTS.includes(rule.protocol))) continue;
    context.addIssue({ code: "custom", path: [key], message: PORTS_NEED_PROTOCOL });
  }
  const sources = rule.source.map(rangeOf);
  const overlapping = {
    source: sources.some((range, i) => sources.some((other, j) => j < i && overlaps(range, other))),
    ports: share(rule.ports),
    sourcePorts: share(rule.sourcePorts),
  };
  for (const [key, isShared] of Object.entries(overlapping)) {
    if (isShared) context.addIssue({ code: "custom", path: [key], message: DISJOINT });
  }
});

/** nftables takes no intervals that overlap. */
function share(ranges: readonly PortRange[]): boolean {
  return ranges.some((a, i) => ranges.some((b, j) => j < i && a.first <= b.last && b.first <= a.last));
}

/** What passes after IPsec to a DVIPA; null where the file has no such section: everything that its SAs allow. */
export const filterSection = section({
  at: z.enum(["target", "distributor"], AT).default("target"),
  rules: z.array(ruleSection, RULES).max(MAX_FILTER_RULES, RULES),
  policy: z.enum(["accept", "drop"], ACTION).default("drop"),
  log: z.boolean(LOG).default(false),
})
  .nullable()
  .default(null);

/** The filter of a DVIPA in the cluster file. */
export type FilterConfig = NonNullable<z.output<typeof filterSection>>;
