import { be16, be32, struct, s32, u16, u32, u8 } from "../core/struct.ts";
import { EsplexError } from "../core/errors.ts";
import { ipToBytes } from "../core/ip.ts";
import { listAddresses, type InterfaceAddress } from "./addresses.ts";
import { AF_INET, familyOf } from "./inet-address.ts";
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

/** `struct ifinfomsg`, include/uapi/linux/rtnetlink.h */
const ifinfomsg = struct("ifinfomsg", 16, { family: u8, pad: u8, type: u16, index: s32, flags: u32, change: u32 });

const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_GETLINK = 18;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFF_UP = 0x1;
const IFLA_LINKINFO = 18;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
// include/uapi/linux/if_tunnel.h
const IFLA_GRE_IFLAGS = 2;
const IFLA_GRE_OFLAGS = 3;
const IFLA_GRE_IKEY = 4;
const IFLA_GRE_OKEY = 5;
const IFLA_GRE_LOCAL = 6;
const IFLA_GRE_REMOTE = 7;
const IFLA_GRE_TTL = 8;
const IFLA_GRE_PMTUDISC = 10;
const IFLA_GRE_ENCAP_LIMIT = 11;
const IFLA_GRE_FLAGS = 13;
const IFLA_GRE_IGNORE_DF = 19;
/** RFC 2890 §2: the header has a key. */
const GRE_KEY_PRESENT = 0x2000;
const GRE_TTL = 64;
/** RFC 2473 §4.1.1: an option that only nested tunnels need; without it a packet is as long in IPv6 as it looks. */
const IP6_TNL_F_IGN_ENCAP_LIMIT = 1;

/** A network interface of the current namespace. */
export interface Link {
  readonly index: number;
  readonly name: string;
  readonly mtuBytes: number;
  readonly up: boolean;
}

/** Equivalent to `ip link show`. */
export async function listLinks(route: NetlinkSocket): Promise<Link[]> {
  return route.dump(getLinks, decodeLink);
}

/** Throws `kernel.missing` when there is none of that name. */
export async function linkByName(route: NetlinkSocket, name: string): Promise<Link> {
  const link = (await listLinks(route)).find((candidate) => candidate.name === name);
  if (link === undefined) throw new EsplexError("kernel.missing", `no interface named ${name}`, { name });
  return link;
}

/** The interface that has `address`, or null. */
export async function linkOwning(route: NetlinkSocket, address: string): Promise<Link | null> {
  const owner = (await listAddresses(route)).find((entry: InterfaceAddress) => entry.address === address);
  if (owner === undefined) return null;
  return (await listLinks(route)).find((link) => link.index === owner.interfaceIndex) ?? null;
}

/** A point-to-point tunnel (RFC 2784) with a key, between two addresses of one IP version. */
export interface GreLink {
  readonly name: string;
  readonly local: string;
  readonly remote: string;
  readonly key: number;
  readonly mtuBytes: number;
}

/**
 * Equivalent to `ip link add NAME type gre local … remote … key … nopmtudisc ignore-df ttl 64`, with `mtu … up`: what does not fit
 * travels in fragments. EEXIST when it is there.
 */
export async function addGreLink(route: NetlinkSocket, { name, local, remote, key, mtuBytes }: GreLink): Promise<void> {
  const isV4 = familyOf(remote) === AF_INET;
  const text = (value: string): Uint8Array => new TextEncoder().encode(`${value}\0`);
  const flags = numberBytes(be16, GRE_KEY_PRESENT);
  const builder = new MessageBuilder()
    .head(ifinfomsg.encode({ flags: IFF_UP, change: IFF_UP }))
    .attribute(IFLA_IFNAME, text(name))
    .attribute(IFLA_MTU, numberBytes(u32, mtuBytes))
    .nested(IFLA_LINKINFO, (info) => {
      info.attribute(IFLA_INFO_KIND, text(isV4 ? "gre" : "ip6gre")).nested(IFLA_INFO_DATA, (data) => {
        data
          .attribute(IFLA_GRE_IFLAGS, flags)
          .attribute(IFLA_GRE_OFLAGS, flags)
          .attribute(IFLA_GRE_IKEY, numberBytes(be32, key))
          .attribute(IFLA_GRE_OKEY, numberBytes(be32, key))
          .attribute(IFLA_GRE_LOCAL, ipToBytes(local))
          .attribute(IFLA_GRE_REMOTE, ipToBytes(remote))
          .attribute(IFLA_GRE_TTL, numberBytes(u8, GRE_TTL));
        if (isV4) {
          data.attribute(IFLA_GRE_PMTUDISC, numberBytes(u8, 0)).attribute(IFLA_GRE_IGNORE_DF, numberBytes(u8, 1));
        } else {
          data
            .attribute(IFLA_GRE_ENCAP_LIMIT, numberBytes(u8, 0))
            .attribute(IFLA_GRE_FLAGS, numberBytes(u32, IP6_TNL_F_IGN_ENCAP_LIMIT));
        }
      });
    });
  await route.request(builder.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, `add GRE interface ${name}`));
}

/** ENODEV when it is not there. */
export async function deleteLink(route: NetlinkSocket, { index, name }: Link): Promise<void> {
  const builder = new MessageBuilder().head(ifinfomsg.encode({ index }));
  await route.request(builder.request(RTM_DELLINK, 0, `delete interface ${name}`));
}

function getLinks(): NetlinkRequest {
  return new MessageBuilder().head(ifinfomsg.encode({})).request(RTM_GETLINK, 0, "list interfaces");
}

function decodeLink(message: NetlinkMessage): Link {
  const { index, flags } = ifinfomsg.decode(message.body);
  const attributes = new Attributes(message.body, ifinfomsg.size);
  return {
    index,
    name: attributes.text(IFLA_IFNAME) ?? "",
    mtuBytes: attributes.number(IFLA_MTU, u32) ?? 0,
    up: (flags & IFF_UP) !== 0,
  };
}
