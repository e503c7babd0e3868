/** The way back of what a target sends in clear, for its distributor to protect: pure. */
import { returnTable } from "../../net/ids.ts";
import { familyOf, type AddressFamily } from "../../net/inet-address.ts";
import { returnRoutes, type Route } from "../../net/routes.ts";
import { returnRule, type RoutingRule } from "../../net/rules.ts";
import type { HandedOver } from "./gre-ruleset.ts";

/**
 * Of what a target sends back to a distributor that protects it: 1500 less the most that a tunnel adds (RFC 4303; an IPv6
 * header, UDP, IV, padding, the longest ICV). The distributor's kernel could tell its own DVIPA alone that a packet is too big.
 */
const RETURN_MTU_BYTES = 1_360;

/** Where TCP from a DVIPA goes back to its distributor, whose SA leads there. */
export interface ReturnPath extends HandedOver {
  readonly destination: Route["destination"];
}

/** Rules and routes of the ways back to distributors. */
export interface ReturnWays {
  readonly rules: readonly RoutingRule[];
  readonly routes: readonly Route[];
}

/** A table for each DVIPA, whose routes say which destinations are its distributor's; all others go their usual way (R8). */
export function returnWays(
  paths: readonly ReturnPath[],
  family: AddressFamily,
  tunnels: ReadonlyMap<string, number>,
): ReturnWays {
  const byDvipa = Map.groupBy(
    paths.filter(({ dvipa }) => familyOf(dvipa) === family),
    ({ dvipa }) => dvipa,
  );
  const dvipas = [...byDvipa.keys()].sort();
  const tableOf = (dvipa: string): number => returnTable(1 + dvipas.indexOf(dvipa));
  const routes = [...byDvipa.values()].flat().flatMap(({ dvipa, distributor, destination }) => {
    return returnRoutes(tableOf(dvipa), destination, tunnels.get(distributor) ?? null, RETURN_MTU_BYTES);
  });
  const distinct = new Map(routes.map((route) => [wayOf(route), route]));
  return { rules: dvipas.map((dvipa) => returnRule(dvipa, tableOf(dvipa))), routes: [...distinct.values()] };
}

/** The kernel has one route of ours for each: a way somewhere, and a blackhole behind it. */
export function placeOf({ table, destination: { address, prefixBits }, interfaceIndex }: Route): string {
  return `${table} ${address}/${prefixBits} ${interfaceIndex === null ? "blackhole" : ""}`;
}

/** Where, and through what. */
export function wayOf(route: Route): string {
  return `${placeOf(route)} ${route.gateway ?? ""} ${route.interfaceIndex ?? ""}`;
}
