/**
 * TCP sockets of the network namespace as the kernel shows them: NETLINK_SOCK_DIAG, include/uapi/linux/sock_diag.h,
 * inet_diag.h. Reading needs no privilege.
 */
import { ipFromBytes } from "../core/ip.ts";
import { be16, raw, struct, u32, u8, type ValueOf } from "../core/struct.ts";
import { EsplexError } from "../core/errors.ts";
import { addressUnion, AF_INET, asFamily, FAMILIES, familyOf, type AddressFamily } from "./inet-address.ts";
import { isErrno } from "./kernel-error.ts";
import { Attributes, MessageBuilder, type NetlinkMessage, type NetlinkRequest } from "./netlink-message.ts";
import { NetlinkSocket, type NetlinkSocketOptions } from "./netlink-socket.ts";

const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
/** `enum sknetlink_groups` */
const SKNLGRP_INET_TCP_DESTROY = 1;
const SKNLGRP_INET6_TCP_DESTROY = 3;
const IPPROTO_TCP = 6;
const INET_DIAG_SKV6ONLY = 11;
/** `INET_DIAG_NOCOOKIE`, twice: any socket with these addresses. */
const ANY_COOKIE = new Uint8Array(8).fill(0xff);

/** include/net/tcp_states.h: numbers from 1; a dump asks for them by a mask of `1 << state`. */
const TCP_SYN_RECV = 3;
const TCP_FIN_WAIT2 = 5;
const TCP_TIME_WAIT = 6;
const TCP_CLOSE = 7;
const TCP_LISTEN = 10;
/** Every state of `enum` up to TCP_CLOSING (11). */
const ALL_STATES = 0xffe;
const NO_CONNECTIONS = [TCP_SYN_RECV, TCP_TIME_WAIT, TCP_CLOSE, TCP_LISTEN];
const CONNECTION_STATES = NO_CONNECTIONS.reduce((mask, state) => mask & ~(1 << state), ALL_STATES);

/** `struct inet_diag_sockid`: ports and addresses in network byte order, IPv4 in the first 4 of 16 bytes. */
const sockId = struct("inet_diag_sockid", 48, {
  localPort: be16,
  remotePort: be16,
  local: raw(16, 4),
  remote: raw(16, 4),
  interfaceIndex: u32,
  cookie: raw(8, 4),
});

/** `struct inet_diag_req_v2` */
const request = struct("inet_diag_req_v2", 56, {
  family: u8,
  protocol: u8,
  extensions: u8,
  pad: u8,
  states: u32,
  id: sockId,
});

/** `struct inet_diag_msg`: one socket. */
const socketInfo = struct("inet_diag_msg", 72, {
  family: u8,
  state: u8,
  timer: u8,
  retransmits: u8,
  id: sockId,
  expiresMs: u32,
  receiveQueue: u32,
  sendQueue: u32,
  uid: u32,
  inode: u32,
});

/** A socket that takes connections. */
export interface TcpListener {
  /** Null for a wildcard of the IP versions in `versions`. */
  readonly address: string | null;
  readonly port: number;
  /** For a wildcard: what it takes; a socket on `::` takes IPv4 too unless it is IPV6_V6ONLY. */
  readonly versions: readonly (4 | 6)[];
  /** Connections that wait to be accepted, and how many may (`listen(2)`, `net.core.somaxconn`). */
  readonly queued: number;
  readonly queueLimit: number;
}

/** One end of a TCP connection; addresses in canonical text, an IPv4 address of a dual-stack socket as IPv4. */
export interface TcpEnds {
  readonly local: string;
  readonly localPort: number;
  readonly remote: string;
  readonly remotePort: number;
}

/**
 * What an exact look-up finds. `halfOpen`: a SYN was taken, the handshake goes on. `closing`: TIME_WAIT, or a FIN-WAIT-2 that
 * no program holds any more. `absent`: nothing but, at most, a listener.
 */
export type TcpPresence = "open" | "halfOpen" | "closing" | "absent";

/** A socket for the questions below. */
export function openSocketDiagnostics(): NetlinkSocket {
  return NetlinkSocket.open(NETLINK_SOCK_DIAG);
}

export interface DestroyedOptions {
  /** A connection's socket is gone for good, or has become TIME_WAIT. */
  readonly onConnection: (ends: TcpEnds) => void;
  /** A listening socket, or one that never got anywhere, is gone. */
  readonly onOther: () => void;
  /** Some were missed: ask for everything. */
  readonly onOverrun: () => void;
  readonly onFault: NonNullable<NetlinkSocketOptions["onFault"]>;
}

/** Hears of each TCP socket that the kernel frees. Its handlers must be quick: every connection of the host comes through. */
export function watchDestroyed({ onConnection, onOther, onOverrun, onFault }: DestroyedOptions): NetlinkSocket {
  return NetlinkSocket.open(NETLINK_SOCK_DIAG, {
    groups: [SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY],
    onMessage: (message) => {
      if (message.type !== SOCK_DIAG_BY_FAMILY) return;
      const { id, family } = socketInfo.decode(message.body);
      if (id.remotePort === 0) onOther();
      else onConnection(endsOf(id, asFamily(family)));
    },
    onOverrun,
    onFault,
  });
}

/** Equivalent to `ss -ltn`: both IP versions. */
export async function listListeners(diagnostics: NetlinkSocket): Promise<TcpListener[]> {
  return dumpBoth(diagnostics, 1 << TCP_LISTEN, "list TCP listeners", (info, attributes) => {
    const family = asFamily(info.family);
    const { local, localPort } = endsOf(info.id, family);
    const isV6Only = (attributes.number(INET_DIAG_SKV6ONLY, u8) ?? 0) !== 0;
    return {
      address: isWildcard(local) ? null : local,
      port: localPort,
      versions: family === AF_INET ? [4] : isV6Only ? [6] : [4, 6],
      queued: info.receiveQueue,
      queueLimit: info.sendQueue,
    };
  });
}

/**
 * Connections with one of these local addresses, handshake done, TIME_WAIT left out. The kernel walks through all of its
 * connections for it: for rare occasions.
 */
export async function listConnections(diagnostics: NetlinkSocket, locals: ReadonlySet<string>): Promise<TcpEnds[]> {
  return dumpBoth(diagnostics, CONNECTION_STATES, "list TCP connections", (info) => {
    const ends = endsOf(info.id, asFamily(info.family));
    return locals.has(ends.local) && presenceOf(info) === "open" ? ends : null;
  });
}

/** Looks single connections up by their four numbers: one answer for each, in order. Cheap: a look into a hash table. */
export async function findConnections(
  diagnostics: NetlinkSocket,
  connections: readonly TcpEnds[],
): Promise<TcpPresence[]> {
  const answers = await diagnostics.getEach(connections.map(lookUp), ({ body }) => presenceOf(socketInfo.decode(body)));
  return answers.map((answer) => {
    if (answer instanceof EsplexError) {
      if (isErrno(answer, "ENOENT")) return "absent";
      throw answer;
    }
    return answer ?? "absent";
  });
}

function lookUp({ local, localPort, remote, remotePort }: TcpEnds): NetlinkRequest {
  const id = { localPort, remotePort, local: addressUnion(local), remote: addressUnion(remote), interfaceIndex: 0 };
  return new MessageBuilder(128)
    .head(
      request.encode({
        family: familyOf(local),
        protocol: IPPROTO_TCP,
        states: ALL_STATES,
        id: { ...id, cookie: ANY_COOKIE },
      }),
    )
    .request(SOCK_DIAG_BY_FAMILY, 0, "look a TCP connection up");
}

function presenceOf({ state, inode }: Pick<ValueOf<typeof socketInfo>, "state" | "inode">): TcpPresence {
  switch (state) {
    // The kernel may have put a stand-in in its place, whose end nobody is told of.
    case TCP_FIN_WAIT2:
      return inode === 0 ? "closing" : "open";
    case TCP_LISTEN:
    case TCP_CLOSE:
      return "absent";
    case TCP_SYN_RECV:
      return "halfOpen";
    case TCP_TIME_WAIT:
      return "closing";
    default:
      return "open";
  }
}

async function dumpBoth<T>(
  diagnostics: NetlinkSocket,
  states: number,
  operation: string,
  decode: (info: ValueOf<typeof socketInfo>, attributes: Attributes) => T | null,
): Promise<T[]> {
  const all: T[] = [];
  for (const family of FAMILIES) {
    const build = (): NetlinkRequest =>
      new MessageBuilder(128)
        .head(request.encode({ family, protocol: IPPROTO_TCP, states }))
        .request(SOCK_DIAG_BY_FAMILY, 0, operation);
    const found = await dumpFamily(diagnostics, build, (message) =>
      decode(socketInfo.decode(message.body), new Attributes(message.body, socketInfo.size)),
    );
    for (const entry of found) all.push(entry);
  }
  return all;
}

/** A kernel without IPv6 has no sockets of it. */
async function dumpFamily<T>(
  diagnostics: NetlinkSocket,
  build: () => NetlinkRequest,
  decode: (message: NetlinkMessage) => T | null,
): Promise<T[]> {
  try {
    return await diagnostics.dump(build, decode);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return [];
    throw error;
  }
}

function endsOf({ local, localPort, remote, remotePort }: ValueOf<typeof sockId>, family: AddressFamily): TcpEnds {
  return { local: addressText(local, family), localPort, remote: addressText(remote, family), remotePort };
}

/** ::ffff:0:0/96 (RFC 4291 §2.5.5.2), as a dual-stack socket has it. */
const MAPPED_PREFIX = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

function addressText(bytes: Uint8Array, family: AddressFamily): string {
  if (family === AF_INET) return ipFromBytes(bytes.subarray(0, 4));
  const isMapped = MAPPED_PREFIX.every((byte, at) => bytes[at] === byte);
  return ipFromBytes(isMapped ? bytes.subarray(12) : bytes);
}

function isWildcard(address: string): boolean {
  return address === "0.0.0.0" || address === "::";
}
