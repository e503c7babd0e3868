/** The ip rules and routes of a node: where marked packets go, and the ways back to its distributors. */
import { handOverMark, steeringMark, steeringTable } from "../../net/ids.ts";
import { familyOf, type AddressFamily } from "../../net/inet-address.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import {
  deleteRoute,
  lastRoute,
  listOurRoutes,
  replaceRoute,
  targetRoute,
  tunnelRoute,
  type Route,
} from "../../net/routes.ts";
import {
  addRule,
  deleteRule,
  isLocalRuleBehindSteering,
  listOurRules,
  moveLocalRuleBack,
  moveLocalRuleBehindSteering,
  steeringRule,
  type RoutingRule,
} from "../../net/rules.ts";
import { placeOf, wayOf, type ReturnWays } from "./return-ways.ts";

/** A target that packets may be steered to; `index` makes its mark and its routing table. */
export interface SteeringTarget {
  readonly index: number;
  /** Its addresses on the trusted link, at most one per IP version. */
  readonly gateways: readonly string[];
  /** The one to which GRE with what this node has decrypted goes; null when it decrypts nothing for its targets. */
  readonly tunnel: string | null;
}

/** All rules and routes of ours, of one IP version. */
export interface HostRoutes {
  readonly family: AddressFamily;
  readonly rules: readonly RoutingRule[];
  readonly routes: readonly Route[];
  /** Marks are asked for before the host's own addresses. */
  readonly steers: boolean;
}

/** The interfaces that they lead to: the trusted link's index, and those of GRE by the other end's address. */
export interface Ways {
  readonly trustedLink: number | null;
  readonly tunnels: ReadonlyMap<string, number>;
}

/**
 * What is marked for a target whose route is gone, as when the trusted link goes down, is dropped: this node's own kernel would take it
 * for its own, decrypt it and reset the connection.
 */
export function hostRoutes(
  family: AddressFamily,
  targets: readonly SteeringTarget[],
  { trustedLink, tunnels }: Ways,
  back: ReturnWays,
): HostRoutes {
  const opened = targets.flatMap(({ index, tunnel }) => {
    const interfaceIndex = tunnel === null ? undefined : tunnels.get(tunnel);
    return interfaceIndex === undefined ? [] : [{ mark: handOverMark(index), interfaceIndex }];
  });
  const forwarded = targets.flatMap(({ index, gateways }) => {
    const gateway = gateways.find((address) => familyOf(address) === family);
    if (gateway === undefined || trustedLink === null) return [];
    return [targetRoute(steeringTable(index), gateway, trustedLink)];
  });
  const steering = [
    ...targets.map(({ index }) => steeringRule(family, steeringMark(index), steeringTable(index))),
    ...opened.map(({ mark }) => steeringRule(family, mark, mark)),
  ];
  const handedOver = opened.map(({ mark, interfaceIndex }) => tunnelRoute(family, mark, interfaceIndex));
  const last = steering.map(({ table }) => lastRoute(family, table));
  return {
    family,
    rules: [...steering, ...back.rules],
    routes: [...forwarded, ...handedOver, ...last, ...back.routes],
    steers: steering.length > 0,
  };
}

/** Converges. A rule comes after the routes that it leads to, and goes before them. */
export async function applyHostRoutes(route: NetlinkSocket, wanted: HostRoutes): Promise<void> {
  const { family, rules, routes, steers } = wanted;
  const oldRules = await listOurRules(route, family);
  for (const rule of oldRules) if (!rules.some((other) => sameRule(rule, other))) await deleteRule(route, rule);
  const oldRoutes = await listOurRoutes(route, family);
  const places = new Set(routes.map(placeOf));
  for (const entry of oldRoutes) if (!places.has(placeOf(entry))) await deleteRoute(route, entry);
  const there = new Set(oldRoutes.map(wayOf));
  for (const entry of routes) if (!there.has(wayOf(entry))) await replaceRoute(route, entry);
  if (steers) await moveLocalRuleBehindSteering(route, family);
  else await moveLocalRuleBack(route, family);
  for (const rule of rules) if (!oldRules.some((other) => sameRule(rule, other))) await addRule(route, rule);
}

/** Those that are not there, in words. */
export async function missingHostRoutes(route: NetlinkSocket, wanted: HostRoutes): Promise<string[]> {
  const { family, rules, routes, steers } = wanted;
  const standing = await listOurRules(route, family);
  const there = new Set((await listOurRoutes(route, family)).map(wayOf));
  const isInOrder = !steers || (await isLocalRuleBehindSteering(route, family));
  return [
    ...rules
      .filter((rule) => !standing.some((other) => sameRule(rule, other)))
      .map(({ table }) => `the rule of table ${table}`),
    ...routes.filter((entry) => !there.has(wayOf(entry))).map(({ table }) => `a route of table ${table}`),
    ...(isInOrder ? [] : ["the place of the rule of table local"]),
  ];
}

function sameRule(a: RoutingRule, b: RoutingRule): boolean {
  const isFrom = a.from?.address === b.from?.address && a.from?.ipProtocol === b.from?.ipProtocol;
  return isFrom && a.mark?.value === b.mark?.value && a.table === b.table && a.priority === b.priority;
}
