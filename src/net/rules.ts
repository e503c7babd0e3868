import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { struct, u32, u8 } from "../core/struct.ts";
import { isErrno } from "./kernel-error.ts";
import { LOCAL_RULE_PRIORITY, RULE_PROTOCOL, STEERING_MARK_MASK, STEERING_RULE_PRIORITY } from "./ids.ts";
import { asFamily, familyOf, type AddressFamily } from "./inet-address.ts";
import {
  Attributes,
  MessageBuilder,
  NLM_F_CREATE,
  NLM_F_EXCL,
  numberBytes,
  type NetlinkMessage,
  type NetlinkRequest,
} from "./netlink-message.ts";
import type { NetlinkSocket } from "./netlink-socket.ts";

/** `struct fib_rule_hdr`, include/uapi/linux/fib_rules.h */
const fibRuleHdr = struct("fib_rule_hdr", 12, {
  family: u8,
  dstLen: u8,
  srcLen: u8,
  tos: u8,
  table: u8,
  res1: u8,
  res2: u8,
  action: u8,
  flags: u32,
});

const RTM_NEWRULE = 32;
const RTM_DELRULE = 33;
const RTM_GETRULE = 34;
const FR_ACT_TO_TBL = 1;
const FRA_SRC = 2;
const FRA_PRIORITY = 6;
const FRA_FWMARK = 10;
const FRA_TABLE = 15;
const FRA_FWMASK = 16;
const FRA_PROTOCOL = 21;
const FRA_IP_PROTO = 22;
const RT_TABLE_LOCAL = 255;
const RTPROT_KERNEL = 2;
const IPPROTO_TCP = 6;

/** An ip rule of the form `pref P [from ADDRESS ipproto N] [fwmark M/MASK] lookup TABLE`. */
export interface RoutingRule {
  readonly family: AddressFamily;
  readonly priority: number;
  readonly mark: { readonly value: number; readonly mask: number } | null;
  /** Packets of one IP protocol from one address; absent: from wherever. */
  readonly from?: { readonly address: string; readonly ipProtocol: number } | undefined;
  readonly table: number;
  /** `FRA_PROTOCOL`: who put it there. */
  readonly protocol: number;
}

/** Equivalent to `ip rule show`, table look-ups only. */
export async function listRules(route: NetlinkSocket, family: AddressFamily): Promise<RoutingRule[]> {
  const build = (): NetlinkRequest =>
    new MessageBuilder().head(fibRuleHdr.encode({ family })).request(RTM_GETRULE, 0, "list ip rules");
  return route.dump(build, decodeRule);
}

/** The steering rule of one target: a packet with exactly this mark is routed by `table`. */
export function steeringRule(family: AddressFamily, mark: number, table: number): RoutingRule {
  const value = { value: mark, mask: STEERING_MARK_MASK };
  return { family, priority: STEERING_RULE_PRIORITY, mark: value, table, protocol: RULE_PROTOCOL };
}

/** TCP from `address` is routed by `table`, as far as that has a route. */
export function returnRule(address: string, table: number): RoutingRule {
  const from = { address, ipProtocol: IPPROTO_TCP };
  const family = familyOf(address);
  return { family, priority: STEERING_RULE_PRIORITY, mark: null, from, table, protocol: RULE_PROTOCOL };
}

/** EEXIST when it is there. */
export async function addRule(route: NetlinkSocket, rule: RoutingRule): Promise<void> {
  await route.request(ruleRequest(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule));
}

/** ENOENT when it is not there. */
export async function deleteRule(route: NetlinkSocket, rule: RoutingRule): Promise<void> {
  await route.request(ruleRequest(RTM_DELRULE, 0, rule));
}

/** Rules that carry our protocol: not the moved one for the `local` table. */
export async function listOurRules(route: NetlinkSocket, family: AddressFamily): Promise<RoutingRule[]> {
  const rules = await listRules(route, family);
  return rules.filter((rule) => rule.protocol === RULE_PROTOCOL && rule.table !== RT_TABLE_LOCAL);
}

/**
 * Moves the rule for the `local` table from preference 0 to `LOCAL_RULE_PRIORITY`, so that steering rules are asked
 * first. The new one is added before the old one goes: at every moment there is one. Does nothing when already done.
 */
export async function moveLocalRuleBehindSteering(route: NetlinkSocket, family: AddressFamily): Promise<void> {
  await tolerant(addRule(route, localRule(family, LOCAL_RULE_PRIORITY, RULE_PROTOCOL)), "EEXIST");
  for (const rule of await localRulesAt(route, family, 0)) await tolerant(deleteRule(route, rule), "ENOENT");
}

/** Whether that is as `moveLocalRuleBehindSteering` leaves it. */
export async function isLocalRuleBehindSteering(route: NetlinkSocket, family: AddressFamily): Promise<boolean> {
  const [first, behind] = [
    await localRulesAt(route, family, 0),
    await localRulesAt(route, family, LOCAL_RULE_PRIORITY),
  ];
  return first.length === 0 && behind.length > 0;
}

/** Undoes `moveLocalRuleBehindSteering`: the kernel's own rule comes back before ours goes. */
export async function moveLocalRuleBack(route: NetlinkSocket, family: AddressFamily): Promise<void> {
  const ours = await localRulesAt(route, family, LOCAL_RULE_PRIORITY);
  if (!ours.some((rule) => rule.protocol === RULE_PROTOCOL)) return;
  await tolerant(addRule(route, localRule(family, 0, RTPROT_KERNEL)), "EEXIST");
  await tolerant(deleteRule(route, localRule(family, LOCAL_RULE_PRIORITY, RULE_PROTOCOL)), "ENOENT");
}

async function localRulesAt(route: NetlinkSocket, family: AddressFamily, priority: number): Promise<RoutingRule[]> {
  const rules = await listRules(route, family);
  return rules.filter((rule) => rule.table === RT_TABLE_LOCAL && rule.mark === null && rule.priority === priority);
}

function localRule(family: AddressFamily, priority: number, protocol: number): RoutingRule {
  return { family, priority, mark: null, table: RT_TABLE_LOCAL, protocol };
}

async function tolerant(work: Promise<void>, errno: "EEXIST" | "ENOENT"): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!isErrno(error, errno)) throw error;
  }
}

function ruleRequest(type: number, flags: number, rule: RoutingRule): NetlinkRequest {
  const { family, priority, mark, from, table, protocol } = rule;
  const source = from === undefined ? null : ipToBytes(from.address);
  const srcLen = source === null ? 0 : 8 * source.length;
  const builder = new MessageBuilder()
    .head(fibRuleHdr.encode({ family, srcLen, action: FR_ACT_TO_TBL, table: table < 256 ? table : 0 }))
    .attribute(FRA_PRIORITY, numberBytes(u32, priority))
    .attribute(FRA_TABLE, numberBytes(u32, table))
    .attribute(FRA_PROTOCOL, numberBytes(u8, protocol));
  if (mark !== null) {
    builder.attribute(FRA_FWMARK, numberBytes(u32, mark.value)).attribute(FRA_FWMASK, numberBytes(u32, mark.mask));
  }
  if (source !== null && from !== undefined) {
    builder.attribute(FRA_SRC, source).attribute(FRA_IP_PROTO, numberBytes(u8, from.ipProtocol));
  }
  const verb = type === RTM_NEWRULE ? "add" : "delete";
  return builder.request(type, flags, `${verb} ip rule pref ${priority} lookup ${table}`);
}

function decodeRule(message: NetlinkMessage): RoutingRule | null {
  const { family, table, action } = fibRuleHdr.decode(message.body);
  if (action !== FR_ACT_TO_TBL) return null;
  const attributes = new Attributes(message.body, fibRuleHdr.size);
  const value = attributes.number(FRA_FWMARK, u32);
  const source = attributes.bytes(FRA_SRC);
  const ipProtocol = attributes.number(FRA_IP_PROTO, u8);
  return {
    family: asFamily(family),
    priority: attributes.number(FRA_PRIORITY, u32) ?? 0,
    mark: value === null ? null : { value, mask: attributes.number(FRA_FWMASK, u32) ?? STEERING_MARK_MASK },
    ...(source === null || ipProtocol === null ? {} : { from: { address: ipFromBytes(source), ipProtocol } }),
    table: attributes.number(FRA_TABLE, u32) ?? table,
    protocol: attributes.number(FRA_PROTOCOL, u8) ?? 0,
  };
}
