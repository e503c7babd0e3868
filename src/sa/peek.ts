import { createCipheriv, createDecipheriv } from "node:crypto";
import { invariant } from "../core/errors.ts";
import { ESP_TRAILER_BYTES, IP_PROTOCOL, parseIpv4, parseTcp, TCP_PEEK_BYTES, type TcpSummary } from "./packet.ts";
import type { SharedSa } from "./spec.ts";
import { GCM_SALT_BYTES, suiteLengths, type SuiteLengths } from "./suite.ts";

/** AES works on 16 bytes whatever its key length (FIPS 197). */
const AES_BLOCK_BYTES = 16;
/** RFC 4106 §3 and SP 800-38D: counter 1 makes the ICV, the plaintext starts at 2. */
const GCM_FIRST_COUNTER = 2;
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

/** Reads plaintext bytes `[from, to)` out of IV + ciphertext, decrypting the blocks that hold them and no others. */
type BlockReader = (payload: Uint8Array, from: number, to: number) => Uint8Array;

/** Looks into packets of one inbound SA. Holds a keyed AES context: make one per SA and keep it. */
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
  const key = sa.inbound.encryptionKey.expose();
  const read = sa.suite.kind === "aes-gcm-16" ? gcmReader(key, lengths) : cbcReader(key, lengths);
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
  read: BlockReader,
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

function peekTunnel(read: BlockReader, payload: Uint8Array, plaintextBytes: number): PeekResult {
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

/** The AES blocks `[first, first + count)` that cover plaintext bytes `[from, to)`. */
function coveringBlocks(from: number, to: number): { first: number; count: number } {
  const first = Math.floor(from / AES_BLOCK_BYTES);
  return { first, count: Math.ceil(to / AES_BLOCK_BYTES) - first };
}

/** GCM is CTR: the keystream of a block is AES(salt ‖ IV ‖ counter), from ECB with one cached context. */
function gcmReader(keyAndSalt: Uint8Array, { ivBytes, icvBytes }: SuiteLengths): BlockReader {
  const key = keyAndSalt.subarray(0, -GCM_SALT_BYTES);
  const salt = keyAndSalt.subarray(-GCM_SALT_BYTES);
  const ecb = createCipheriv(`aes-${key.length * 8}-ecb`, key, null).setAutoPadding(false);
  return (payload, from, to) => {
    const { first, count } = coveringBlocks(from, to);
    const counters = Buffer.alloc(count * AES_BLOCK_BYTES);
    for (let i = 0; i < count; i++) {
      const at = i * AES_BLOCK_BYTES;
      counters.set(salt, at);
      counters.set(payload.subarray(0, ivBytes), at + GCM_SALT_BYTES);
      counters.writeUInt32BE(GCM_FIRST_COUNTER + first + i, at + AES_BLOCK_BYTES - 4);
    }
    const keystream = ecb.update(counters);
    const ciphertext = payload.subarray(ivBytes, payload.length - icvBytes);
    const offset = first * AES_BLOCK_BYTES;
    const plain = new Uint8Array(to - from);
    for (let i = 0; i < plain.length; i++) plain[i] = (ciphertext[from + i] ?? 0) ^ (keystream[from + i - offset] ?? 0);
    return plain;
  };
}

/** CBC: plaintext block = AES⁻¹(ciphertext block) ⊕ the block before it, the IV before the first. */
function cbcReader(key: Uint8Array, { ivBytes }: SuiteLengths): BlockReader {
  invariant(ivBytes === AES_BLOCK_BYTES, "the IV of CBC is one block");
  const ecb = createDecipheriv(`aes-${key.length * 8}-ecb`, key, null).setAutoPadding(false);
  return (payload, from, to) => {
    const { first, count } = coveringBlocks(from, to);
    const offset = first * AES_BLOCK_BYTES;
    // `payload` starts with the IV: the block before ciphertext block i lies at i, block i itself one further.
    const before = payload.subarray(offset, offset + count * AES_BLOCK_BYTES);
    const blocks = payload.subarray(offset + AES_BLOCK_BYTES, offset + (count + 1) * AES_BLOCK_BYTES);
    const decrypted = ecb.update(blocks);
    const plain = new Uint8Array(to - from);
    for (let i = 0; i < plain.length; i++)
      plain[i] = (decrypted[from + i - offset] ?? 0) ^ (before[from + i - offset] ?? 0);
    return plain;
  };
}
