import { ipFromBytes } from "../core/ip.ts";

/** RFC 791 §3.1: the shortest header; `ihl` counts words of 4 bytes. */
const IPV4_MIN_HEADER_BYTES = 20;
/** RFC 8200 §3. */
const IPV6_HEADER_BYTES = 40;
/** RFC 8200 §4: the unit in which extension headers count their length, and the shortest one. */
const EXTENSION_UNIT_BYTES = 8;

const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const DESTINATION_OPTIONS = 60;
/**
 * How often each extension header may stand in a packet: what RFC 8200 §4.1 asks of senders. A receiver need not be so
 * strict; we are, for it bounds the walk to five headers. AH and ESP end it, as they do in IPv4: they belong to an SA.
 */
const EXTENSION_LIMITS: ReadonlyMap<number, number> = new Map([
  [HOP_BY_HOP, 1],
  [ROUTING, 1],
  [FRAGMENT, 1],
  [DESTINATION_OPTIONS, 2],
]);

/** Bytes that are read piece by piece: a packet at hand, or one of which a peek decrypts only what is asked for. */
export interface PacketBytes {
  /** How many there are, from the IP header on. */
  readonly lengthBytes: number;
  /** Bytes `[from, to)`; both lie within the length. */
  read(from: number, to: number): Uint8Array;
}

/** A packet that is at hand as a whole. */
export function packetBytes(bytes: Uint8Array): PacketBytes {
  return { lengthBytes: bytes.length, read: (from, to) => bytes.subarray(from, to) };
}

/** Where the IPv6 extension headers end, and what stands there. */
export interface ExtensionWalk {
  /** The first protocol that is no extension header; of a fragment: what its fragment header names. */
  readonly protocol: number;
  readonly headerBytes: number;
  /** Null for a whole packet, also one with a fragment header that says so (RFC 6946). Only a first one has ports or an SPI. */
  readonly fragment: null | "first" | "later";
}

/** The facts of an IP header. `headerBytes` includes IPv4 options and IPv6 extension headers. */
export interface IpHeader extends ExtensionWalk {
  readonly version: 4 | 6;
  readonly source: string;
  readonly destination: string;
  /** Of header and payload, as the header says: what lies beyond it in the frame is padding of the link. */
  readonly totalBytes: number;
}

/** `notIp`: no IP header, cut short, lengths that contradict each other; `extensionHeaders`: a chain that we do not take. */
export type IpParseFailure = "notIp" | "extensionHeaders";

/**
 * Reads the IP header of an untrusted packet. `packet` may be cut after the header (a peek); pass `whole` when the length
 * that the header tells must be there.
 */
export function parseIp(packet: PacketBytes, { whole }: { readonly whole: boolean }): IpHeader | IpParseFailure {
  if (packet.lengthBytes < IPV4_MIN_HEADER_BYTES) return "notIp";
  const head = packet.read(0, IPV4_MIN_HEADER_BYTES);
  const version = (head[0] ?? 0) >>> 4;
  const header = version === 4 ? parseIpv4(head) : version === 6 ? parseIpv6(packet) : "notIp";
  return typeof header !== "string" && whole && packet.lengthBytes < header.totalBytes ? "notIp" : header;
}

function parseIpv4(head: Uint8Array): IpHeader | IpParseFailure {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const headerBytes = (view.getUint8(0) & 0x0f) * 4;
  const totalBytes = view.getUint16(2);
  if (headerBytes < IPV4_MIN_HEADER_BYTES || totalBytes < headerBytes) return "notIp";
  // Flags and offset: 0x2000 is More Fragments, the low 13 bits are the offset.
  const field = view.getUint16(6) & 0x3fff;
  return {
    version: 4,
    source: ipFromBytes(head.subarray(12, 16)),
    destination: ipFromBytes(head.subarray(16, 20)),
    protocol: view.getUint8(9),
    headerBytes,
    totalBytes,
    fragment: field === 0 ? null : (field & 0x1fff) === 0 ? "first" : "later",
  };
}

function parseIpv6(packet: PacketBytes): IpHeader | IpParseFailure {
  if (packet.lengthBytes < IPV6_HEADER_BYTES) return "notIp";
  const head = packet.read(0, IPV6_HEADER_BYTES);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  // A payload length of 0 means a jumbogram (RFC 2675), which no link of ours carries: it is empty here.
  const totalBytes = IPV6_HEADER_BYTES + view.getUint16(4);
  const endBytes = Math.min(totalBytes, packet.lengthBytes);
  const walk = walkExtensionHeaders(packet, view.getUint8(6), IPV6_HEADER_BYTES, endBytes);
  if (walk === null) return "extensionHeaders";
  const source = ipFromBytes(head.subarray(8, 24));
  return { version: 6, source, destination: ipFromBytes(head.subarray(24, 40)), totalBytes, ...walk };
}

/**
 * Walks over IPv6 extension headers from `startBytes` on, the first of which is `first`, up to `endBytes` (RFC 8200 §4).
 * Null when the chain does not end there, repeats a header, has hop-by-hop options anywhere but at its start, or asks for
 * a detour (a routing header with segments left: the destination in the IPv6 header is not the last one).
 */
export function walkExtensionHeaders(
  packet: PacketBytes,
  first: number,
  startBytes: number,
  endBytes: number,
): ExtensionWalk | null {
  const seen: number[] = [];
  let protocol = first;
  let headerBytes = startBytes;
  for (let limit = EXTENSION_LIMITS.get(protocol); limit !== undefined; limit = EXTENSION_LIMITS.get(protocol)) {
    if (headerBytes + EXTENSION_UNIT_BYTES > endBytes) return null;
    if (seen.filter((earlier) => earlier === protocol).length >= limit) return null;
    if (protocol === HOP_BY_HOP && seen.length > 0) return null;
    const [next = 0, extraUnits = 0, high = 0, low = 0] = packet.read(headerBytes, headerBytes + EXTENSION_UNIT_BYTES);
    if (protocol === ROUTING && low !== 0) return null;
    headerBytes += EXTENSION_UNIT_BYTES;
    if (protocol === FRAGMENT) {
      // The upper 13 bits are the offset, the lowest is More Fragments (RFC 8200 §4.5).
      const offset = (high << 8) | (low & 0xf8);
      if (offset !== 0 || (low & 1) !== 0) {
        return { protocol: next, headerBytes, fragment: offset === 0 ? "first" : "later" };
      }
    } else {
      headerBytes += extraUnits * EXTENSION_UNIT_BYTES;
    }
    seen.push(protocol);
    protocol = next;
  }
  return headerBytes > endBytes ? null : { protocol, headerBytes, fragment: null };
}
