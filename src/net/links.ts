import { struct, s32, u16, u32, u8 } from "../core/struct.ts";
import { EsplexError } from "../core/errors.ts";
import { listAddresses, type InterfaceAddress } from "./addresses.ts";
import { Attributes, MessageBuilder, type NetlinkMessage, type NetlinkRequest } from "./netlink-message.ts";
import type { NetlinkSocket } from "./netlink-socket.ts";

/** `struct ifinfomsg`, include/uapi/linux/rtnetlink.h */
const ifinfomsg = struct("ifinfomsg", 16, { family: u8, pad: u8, type: u16, index: s32, flags: u32, change: u32 });

const RTM_GETLINK = 18;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFF_UP = 0x1;

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
