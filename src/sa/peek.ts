import { ahHeaderBytes, parseAhHeader } from "./ah.ts";
import { parseIp, walkExtensionHeaders, type PacketBytes } from "./ip-header.ts";
import { ESP_TRAILER_BYTES, IP_PROTOCOL, parseTcp, TCP_PEEK_BYTES, type TcpSummary } from "./packet.ts";
import { createPlaintextReader, type PlaintextReader } from "./plaintext-reader.ts";
import type { SharedSa } from "./spec.ts";
import { suiteLengths, type AhSuite } from "./suite.ts";

/**
 * What the protected packet says of itself. NOT authenticated: nobody has checked the ICV, so a forger may have flipped
 * any bit. Good enough to choose a host, never to change a replay window or to trust the content.
 */
export type PeekResult =
  | { readonly kind: "tcp"; readonly source: string; readonly destination: string; readonly tcp: TcpSummary }
  | { readonly kind: "other"; readonly protocol: number }
  | { readonly kind: "unreadable"; readonly reason: UnreadableReason };

/** `innerHeader` is what a kernel may understand and we do not; the rest is what nobody does. */
type UnreadableReason = "tooShort" | "badLength" | "innerHeader" | "innerFragment";

/** What a peek reads of nearly every packet in tunnel mode: IPv4 without options (RFC 791 §3.1), then TCP. */
const TUNNEL_HEAD_BYTES = 20 + TCP_PEEK_BYTES;

/** Looks into packets of one inbound SA. Holds a keyed context: make one per SA and keep it. */
export interface Peeker {
  /** `payload` is that of `EspPacket`; `source` and `destination` are the outer addresses. */
  peek(payload: Uint8Array, source: string, destination: string): PeekResult;
}

/**
 * A peeker for the inbound half of `sa`. Decrypts to the end of the TCP header and, in transport mode, the trailer that
 * says what the payload is: one to three AES blocks instead of the packet (seeds, inbound claims 4 and 5).
 */
export function createPeeker(sa: SharedSa): Peeker {
  const { suite } = sa;
  if (suite.kind === "ah") return createAhPeeker(suite, sa.mode);
  const lengths = suiteLengths(suite);
  const headBytes = sa.mode === "tunnel" ? TUNNEL_HEAD_BYTES : TCP_PEEK_BYTES;
  const read = createPlaintextReader(suite, sa.inbound.encryptionKey.expose(), headBytes);
  const look = sa.mode === "tunnel" ? peekTunnel : peekTransport;
  return {
    peek: (payload, source, destination) => {
      const plaintextBytes = payload.length - lengths.ivBytes - lengths.icvBytes;
      if (plaintextBytes < ESP_TRAILER_BYTES) return { kind: "unreadable", reason: "tooShort" };
      if (plaintextBytes % lengths.blockBytes !== 0) return { kind: "unreadable", reason: "badLength" };
      return look(read, payload, plaintextBytes, source, destination);
    },
  };
}

/** AH hides nothing: what it protects stands behind its header, whose length is that of the SA or the packet is none of it. */
function createAhPeeker(suite: AhSuite, mode: SharedSa["mode"]): Peeker {
  return {
    peek: (payload, source, destination) => {
      const header = parseAhHeader(payload);
      const version = source.includes(":") ? 6 : 4;
      if (header?.headerBytes !== ahHeaderBytes(suite, version)) return { kind: "unreadable", reason: "badLength" };
      const { nextHeader, headerBytes } = header;
      const read: PlaintextReader = (bytes, from, to) => bytes.subarray(headerBytes + from, headerBytes + to);
      const lengthBytes = payload.length - headerBytes;
      if (mode === "transport") return peekUpper(read, payload, nextHeader, lengthBytes, source, destination);
      const isInner = nextHeader === IP_PROTOCOL.ipv4 || nextHeader === IP_PROTOCOL.ipv6;
      return isInner ? peekInner(read, payload, lengthBytes) : { kind: "other", protocol: nextHeader };
    },
  };
}

function peekTransport(
  read: PlaintextReader,
  payload: Uint8Array,
  plaintextBytes: number,
  source: string,
  destination: string,
): PeekResult {
  // The next header stands in the trailer; without it UDP with the same ports would look like TCP.
  const trailerAt = plaintextBytes - ESP_TRAILER_BYTES;
  const [padBytes = 0, first = 0] = read(payload, trailerAt, plaintextBytes);
  return peekUpper(read, payload, first, trailerAt - padBytes, source, destination);
}

/** What transport mode protects: `lengthBytes` of it, beginning with a header of type `first`. */
function peekUpper(
  read: PlaintextReader,
  payload: Uint8Array,
  first: number,
  lengthBytes: number,
  source: string,
  destination: string,
): PeekResult {
  if (first === IP_PROTOCOL.tcp) return peekTcp(read, payload, 0, lengthBytes, source, destination);
  // Destination options may stand behind the ESP or AH header (RFC 4303 §3.1.1, RFC 4302 §3.1.1); in IPv4 these numbers mean something else.
  if (!source.includes(":")) return { kind: "other", protocol: first };
  const inside: PacketBytes = { lengthBytes, read: (from, to) => read(payload, from, to) };
  const walk = walkExtensionHeaders(inside, first, 0, inside.lengthBytes);
  if (walk === null) return { kind: "unreadable", reason: "innerHeader" };
  if (walk.protocol !== IP_PROTOCOL.tcp) return { kind: "other", protocol: walk.protocol };
  if (walk.fragment !== null) return { kind: "unreadable", reason: "innerFragment" };
  return peekTcp(read, payload, walk.headerBytes, inside.lengthBytes, source, destination);
}

function peekTunnel(read: PlaintextReader, payload: Uint8Array, plaintextBytes: number): PeekResult {
  return peekInner(read, payload, plaintextBytes - ESP_TRAILER_BYTES);
}

/** The packet that tunnel mode protects, with what may follow it. */
function peekInner(read: PlaintextReader, payload: Uint8Array, lengthBytes: number): PeekResult {
  const inner = parseIp({ lengthBytes, read: (from, to) => read(payload, from, to) }, { whole: false });
  if (typeof inner === "string") return { kind: "unreadable", reason: "innerHeader" };
  if (inner.protocol !== IP_PROTOCOL.tcp) return { kind: "other", protocol: inner.protocol };
  // The ports are in the first fragment only: the kernel, which reassembles, has to look.
  if (inner.fragment !== null) return { kind: "unreadable", reason: "innerFragment" };
  const endBytes = Math.min(inner.totalBytes, lengthBytes);
  return peekTcp(read, payload, inner.headerBytes, endBytes, inner.source, inner.destination);
}

/** `endBytes`: where the segment ends at the latest. */
function peekTcp(
  read: PlaintextReader,
  payload: Uint8Array,
  from: number,
  endBytes: number,
  source: string,
  destination: string,
): PeekResult {
  const tcp = endBytes - from < TCP_PEEK_BYTES ? null : parseTcp(read(payload, from, from + TCP_PEEK_BYTES));
  return tcp === null ? { kind: "unreadable", reason: "tooShort" } : { kind: "tcp", source, destination, tcp };
}
