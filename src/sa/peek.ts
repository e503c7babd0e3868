import { ESP_TRAILER_BYTES, IP_PROTOCOL, parseIpv4, parseTcp, TCP_PEEK_BYTES, type TcpSummary } from "./packet.ts";
import { createPlaintextReader, type PlaintextReader } from "./plaintext-reader.ts";
import type { SharedSa } from "./spec.ts";
import { suiteLengths } from "./suite.ts";

/** RFC 791: the shortest inner header. */
const INNER_HEADER_BYTES = 20;

/**
 * What the encrypted packet says of itself. NOT authenticated: nobody has checked the ICV, so a forger may have flipped
 * any bit. Good enough to choose a host, never to change a replay window or to trust the content.
 */
export type PeekResult =
  | { readonly kind: "tcp"; readonly source: string; readonly destination: string; readonly tcp: TcpSummary }
  | { readonly kind: "other"; readonly protocol: number }
  | { readonly kind: "unreadable"; readonly reason: "tooShort" | "badLength" | "innerHeader" | "innerFragment" };

/** Looks into packets of one inbound SA. Holds a keyed context: make one per SA and keep it. */
export interface Peeker {
  /** `payload` is IV, ciphertext and ICV; `source` and `destination` are the outer addresses. */
  peek(payload: Uint8Array, source: string, destination: string): PeekResult;
}

/**
 * A peeker for the inbound half of `sa`. Decrypts to the end of the TCP header and, in transport mode, the trailer that
 * says what the payload is: one to three AES blocks instead of the packet (seeds, inbound claims 4 and 5).
 */
export function createPeeker(sa: SharedSa): Peeker {
  const lengths = suiteLengths(sa.suite);
  const read = createPlaintextReader(sa.suite, sa.inbound.encryptionKey.expose());
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

function peekTransport(
  read: PlaintextReader,
  payload: Uint8Array,
  plaintextBytes: number,
  source: string,
  destination: string,
): PeekResult {
  // The next header stands in the trailer; without it UDP with the same ports would look like TCP.
  const [padBytes = 0, protocol = 0] = read(payload, plaintextBytes - ESP_TRAILER_BYTES, plaintextBytes);
  if (protocol !== IP_PROTOCOL.tcp) return { kind: "other", protocol };
  if (plaintextBytes - ESP_TRAILER_BYTES - padBytes < TCP_PEEK_BYTES) return { kind: "unreadable", reason: "tooShort" };
  const tcp = parseTcp(read(payload, 0, TCP_PEEK_BYTES));
  return tcp === null ? { kind: "unreadable", reason: "tooShort" } : { kind: "tcp", source, destination, tcp };
}

function peekTunnel(read: PlaintextReader, payload: Uint8Array, plaintextBytes: number): PeekResult {
  if (plaintextBytes < INNER_HEADER_BYTES + ESP_TRAILER_BYTES) return { kind: "unreadable", reason: "tooShort" };
  const inner = parseIpv4(read(payload, 0, INNER_HEADER_BYTES), { whole: false });
  if (inner === null) return { kind: "unreadable", reason: "innerHeader" };
  if (inner.protocol !== IP_PROTOCOL.tcp) return { kind: "other", protocol: inner.protocol };
  // The ports are in the first fragment only: the kernel, which reassembles, has to look.
  if (inner.fragment) return { kind: "unreadable", reason: "innerFragment" };
  const end = inner.headerBytes + TCP_PEEK_BYTES;
  if (inner.totalBytes < end || plaintextBytes - ESP_TRAILER_BYTES < end) {
    return { kind: "unreadable", reason: "tooShort" };
  }
  const tcp = parseTcp(read(payload, inner.headerBytes, end));
  if (tcp === null) return { kind: "unreadable", reason: "tooShort" };
  return { kind: "tcp", source: inner.source, destination: inner.destination, tcp };
}
