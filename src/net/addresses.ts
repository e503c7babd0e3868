import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { struct, u32, u8 } from "../core/struct.ts";
import { ADDRESS_PROTOCOL } from "./ids.ts";
import { AF_INET6, familyOf } from "./inet-address.ts";
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

/** `struct ifaddrmsg`, include/uapi/linux/if_addr.h */
const ifaddrmsg = struct("ifaddrmsg", 8, { family: u8, prefixlen: u8, flags: u8, scope: u8, index: u32 });

const RTM_NEWADDR = 20;
const RTM_DELADDR = 21;
const RTM_GETADDR = 22;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_CACHEINFO = 6;
const IFA_PROTO = 11;
/** A DVIPA is ours by the cluster's word: nobody is asked (RFC 4862 duplicate detection would delay it by a second). */
const IFA_F_NODAD = 0x02;
/** Of IPv6: one that changes by itself (RFC 8981), failed its duplicate detection, runs out, or is not yet in use. */
const IFA_F_TEMPORARY = 0x01;
const IFA_F_DADFAILED = 0x08;
const IFA_F_DEPRECATED = 0x20;
const IFA_F_TENTATIVE = 0x40;
const NOT_PREFERRED = IFA_F_TEMPORARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE;

/** `struct ifa_cacheinfo`, include/uapi/linux/if_addr.h; times in seconds. */
const ifaCacheinfo = struct("ifa_cacheinfo", 16, { prefered: u32, valid: u32, cstamp: u32, tstamp: u32 });
const FOREVER_SECONDS = 0xffff_ffff;

export interface InterfaceAddress {
  readonly address: string;
  readonly prefixBits: number;
  readonly interfaceIndex: number;
  /** `IFA_PROTO`: who put it there; 0 when nobody said. */
  readonly protocol: number;
  /** One that others may be told of. An IPv6 DVIPA is not: it is no source for what the host itself sends. */
  readonly isPreferred: boolean;
}

/** What `addAddress` is told. */
export type NewAddress = Omit<InterfaceAddress, "protocol" | "isPreferred">;

/** Equivalent to `ip address show`. */
export async function listAddresses(route: NetlinkSocket): Promise<InterfaceAddress[]> {
  const build = (): NetlinkRequest =>
    new MessageBuilder().head(ifaddrmsg.encode({})).request(RTM_GETADDR, 0, "list addresses");
  return route.dump(build, decodeAddress);
}

/** Those that `addAddress` put there. */
export async function listOurAddresses(route: NetlinkSocket): Promise<InterfaceAddress[]> {
  return (await listAddresses(route)).filter((entry) => entry.protocol === ADDRESS_PROTOCOL);
}

/**
 * Equivalent to `ip address add ADDRESS/BITS dev …`, for IPv6 `… nodad preferred_lft 0`: used where a program or a route
 * names it, never chosen (RFC 6724 §5 rule 3). Recognisable as ours. EEXIST when it is there.
 */
export async function addAddress(route: NetlinkSocket, entry: NewAddress): Promise<void> {
  await route.request(addressRequest(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, entry));
}

/** EADDRNOTAVAIL when it is not there. */
export async function deleteAddress(route: NetlinkSocket, entry: NewAddress): Promise<void> {
  await route.request(addressRequest(RTM_DELADDR, 0, entry));
}

function addressRequest(type: number, flags: number, entry: NewAddress): NetlinkRequest {
  const { address, prefixBits, interfaceIndex } = entry;
  const family = familyOf(address);
  const bytes = ipToBytes(address);
  const head = { family, prefixlen: prefixBits, flags: family === AF_INET6 ? IFA_F_NODAD : 0, index: interfaceIndex };
  const builder = new MessageBuilder()
    .head(ifaddrmsg.encode(head))
    .attribute(IFA_LOCAL, bytes)
    .attribute(IFA_ADDRESS, bytes)
    .attribute(IFA_PROTO, numberBytes(u8, ADDRESS_PROTOCOL));
  if (family === AF_INET6)
    builder.attribute(IFA_CACHEINFO, ifaCacheinfo.encode({ prefered: 0, valid: FOREVER_SECONDS }));
  return builder.request(type, flags, `${type === RTM_NEWADDR ? "add" : "delete"} address ${address}/${prefixBits}`);
}

function decodeAddress(message: NetlinkMessage): InterfaceAddress | null {
  const { family, prefixlen, flags, index } = ifaddrmsg.decode(message.body);
  const attributes = new Attributes(message.body, ifaddrmsg.size);
  const bytes = attributes.bytes(IFA_LOCAL) ?? attributes.bytes(IFA_ADDRESS);
  if (bytes === null) return null;
  const protocol = attributes.number(IFA_PROTO, u8) ?? 0;
  const isPreferred = family !== AF_INET6 || (flags & NOT_PREFERRED) === 0;
  return { address: ipFromBytes(bytes), prefixBits: prefixlen, interfaceIndex: index, protocol, isPreferred };
}
