import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { struct, u32, u8 } from "../core/struct.ts";
import { ROUTE_PROTOCOL } from "./ids.ts";
import { anyAddress, asFamily, familyOf, type AddressFamily } from "./inet-address.ts";
import {
  Attributes,
  MessageBuilder,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  numberBytes,
  type NetlinkMessage,
  type NetlinkRequest,
} from "./netlink-message.ts";
import type { NetlinkSocket } from "./netlink-socket.ts";

/** `struct rtmsg`, include/uapi/linux/rtnetlink.h */
const rtmsg = struct("rtmsg", 12, {
  family: u8,
  dstLen: u8,
  srcLen: u8,
  tos: u8,
  table: u8,
  protocol: u8,
  scope: u8,
  type: u8,
  flags: u32,
});

const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
const RTM_GETROUTE = 26;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PRIORITY = 6;
const RTA_METRICS = 8;
const RTA_TABLE = 15;
const RTAX_MTU = 2;
const RTN_UNICAST = 1;
const RTN_BLACKHOLE = 6;
/** Behind every route that somebody means. */
const LAST_METRIC = 0xffffffff;
const RT_SCOPE_UNIVERSE = 0;
/** The gateway is a neighbour on that interface, whatever its addresses say. */
const RTNH_F_ONLINK = 4;

/** A route `DESTINATION via GATEWAY dev … onlink [mtu M] table N`, or `blackhole DESTINATION metric 4294967295 table N`. */
export interface Route {
  readonly table: number;
  readonly destination: { readonly address: string; readonly prefixBits: number };
  readonly gateway: string | null;
  /** Null for a blackhole, where packets end that no other route takes. */
  readonly interfaceIndex: number | null;
  /** Of the packets that a host sends this way; absent: the interface's. */
  readonly mtuBytes?: number | undefined;
  readonly protocol: number;
}

/** The default route of a target's table. */
export function targetRoute(table: number, gateway: string, interfaceIndex: number): Route {
  const destination = { address: anyAddress(familyOf(gateway)), prefixBits: 0 };
  return { table, destination, gateway, interfaceIndex, protocol: ROUTE_PROTOCOL };
}

/** The default route of a table that leads into a tunnel. */
export function tunnelRoute(family: AddressFamily, table: number, interfaceIndex: number): Route {
  const destination = { address: anyAddress(family), prefixBits: 0 };
  return { table, destination, gateway: null, interfaceIndex, protocol: ROUTE_PROTOCOL };
}

/** Where the packets of a table end that none of its other routes takes: they are not left for another way. */
export function lastRoute(family: AddressFamily, table: number): Route {
  return blackhole(table, { address: anyAddress(family), prefixBits: 0 });
}

/** A route into a tunnel, and what stands for it while that is not there (null): the table is not left for another way. */
export function returnRoutes(
  table: number,
  destination: Route["destination"],
  interfaceIndex: number | null,
  mtuBytes: number,
): readonly Route[] {
  const last = blackhole(table, destination);
  return interfaceIndex === null ? [last] : [last, { ...last, interfaceIndex, mtuBytes }];
}

function blackhole(table: number, destination: Route["destination"]): Route {
  return { table, destination, gateway: null, interfaceIndex: null, protocol: ROUTE_PROTOCOL };
}

/** EEXIST when the table has a route for that destination. */
export async function addRoute(route: NetlinkSocket, entry: Route): Promise<void> {
  await route.request(routeRequest(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, entry));
}

/** Adds it or puts it in the place of the table's route for that destination: no packet is without a route. */
export async function replaceRoute(route: NetlinkSocket, entry: Route): Promise<void> {
  await route.request(routeRequest(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, entry));
}

/** ESRCH when it is not there. */
export async function deleteRoute(route: NetlinkSocket, entry: Route): Promise<void> {
  await route.request(routeRequest(RTM_DELROUTE, 0, entry));
}

/** Unicast and blackhole routes of every table that carry our protocol. Equivalent to `ip route show table all proto 155`. */
export async function listOurRoutes(route: NetlinkSocket, family: AddressFamily): Promise<Route[]> {
  const build = (): NetlinkRequest =>
    new MessageBuilder().head(rtmsg.encode({ family })).request(RTM_GETROUTE, 0, "list routes");
  return route.dump(build, (message) => {
    const entry = decodeRoute(message);
    return entry?.protocol === ROUTE_PROTOCOL ? entry : null;
  });
}

export function isRouteMessage({ type }: NetlinkMessage): boolean {
  return type === RTM_NEWROUTE || type === RTM_DELROUTE;
}

/** That somebody has deleted a route that carries our protocol. */
export function isOurRouteGone({ type, body }: NetlinkMessage): boolean {
  return type === RTM_DELROUTE && rtmsg.decode(body).protocol === ROUTE_PROTOCOL;
}

function routeRequest(type: number, flags: number, entry: Route): NetlinkRequest {
  const { table, destination, gateway, interfaceIndex, mtuBytes, protocol } = entry;
  const { address, prefixBits } = destination;
  const head = {
    family: familyOf(address),
    dstLen: prefixBits,
    table: table < 256 ? table : 0,
    protocol,
    scope: RT_SCOPE_UNIVERSE,
    type: interfaceIndex === null ? RTN_BLACKHOLE : RTN_UNICAST,
    flags: gateway === null ? 0 : RTNH_F_ONLINK,
  };
  const builder = new MessageBuilder().head(rtmsg.encode(head)).attribute(RTA_TABLE, numberBytes(u32, table));
  if (interfaceIndex === null) builder.attribute(RTA_PRIORITY, numberBytes(u32, LAST_METRIC));
  else builder.attribute(RTA_OIF, numberBytes(u32, interfaceIndex));
  if (mtuBytes !== undefined) {
    builder.nested(RTA_METRICS, (metrics) => metrics.attribute(RTAX_MTU, numberBytes(u32, mtuBytes)));
  }
  if (prefixBits > 0) builder.attribute(RTA_DST, ipToBytes(address));
  if (gateway !== null) builder.attribute(RTA_GATEWAY, ipToBytes(gateway));
  const verb = type === RTM_NEWROUTE ? "add" : "delete";
  return builder.request(type, flags, `${verb} route ${address}/${prefixBits} in table ${table}`);
}

function decodeRoute(message: NetlinkMessage): Route | null {
  const { family, dstLen, table, protocol, type } = rtmsg.decode(message.body);
  if (type !== RTN_UNICAST && type !== RTN_BLACKHOLE) return null;
  const attributes = new Attributes(message.body, rtmsg.size);
  // A blackhole of IPv6 has the loopback interface.
  const interfaceIndex = type === RTN_BLACKHOLE ? null : attributes.number(RTA_OIF, u32);
  if (type === RTN_UNICAST && interfaceIndex === null) return null; // multipath: never ours
  const destination = attributes.bytes(RTA_DST);
  const gateway = attributes.bytes(RTA_GATEWAY);
  return {
    table: attributes.number(RTA_TABLE, u32) ?? table,
    destination: {
      address: destination === null ? anyAddress(asFamily(family)) : ipFromBytes(destination),
      prefixBits: dstLen,
    },
    gateway: gateway === null ? null : ipFromBytes(gateway),
    interfaceIndex,
    protocol,
  };
}
