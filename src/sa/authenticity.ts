import { createDecipheriv, createHmac, timingSafeEqual } from "node:crypto";
import { concatBytes, u32be } from "../core/bytes.ts";
import type { EspPacket } from "./packet.ts";
import type { SharedSa } from "./spec.ts";
import { suiteLengths, type EspAeadSuite } from "./suite.ts";

/** RFC 4302 §2: where the ICV stands in an Authentication Header. */
const AH_ICV_AT = 12;
const MARK_BYTES = 4;
const IPV4_HEADER_BYTES = 20;
const IPV6_HEADER_BYTES = 40;

/**
 * True when the ICV of a packet of the inbound half of `sa` is right: its peer has sent it, at some time. Nothing is said about
 * replay. For a packet now and then: a node's kernel is what checks them all. `highHalf`: of the packet's number, with ESN; 0 at an SA's beginning. AH
 * behind IPv4 options or IPv6 extension headers is not told apart from a forgery: false.
 */
export function isAuthentic(sa: SharedSa, packet: Uint8Array, esp: EspPacket, highHalf = 0): boolean {
  const { suite } = sa;
  const { ivBytes, icvBytes } = suiteLengths(suite);
  const head = concatBytes(u32be(esp.spi), u32be(esp.sequence));
  if (suite.kind === "ah") return isMacOf(sa, ahInput(packet, esp, icvBytes), ahIcv(esp, icvBytes), highHalf);
  if (esp.payload.length < ivBytes + icvBytes) return false;
  const covered = esp.payload.subarray(0, -icvBytes);
  const icv = esp.payload.subarray(-icvBytes);
  if ("integrity" in suite) return isMacOf(sa, [head, covered], icv, highHalf);
  // RFC 4106 §5: the high half stands between SPI and low half.
  const associated = sa.esn ? concatBytes(u32be(esp.spi), u32be(highHalf), u32be(esp.sequence)) : head;
  return opens(suite, sa.inbound.encryptionKey.expose(), associated, covered, icv);
}

/**
 * A part of the packet's ICV, 30 bits of it: tells two packets with the same number apart. The sender makes one packet with a number
 * (RFC 4303 §3.3.3), and who has not seen it does not know its ICV. Every packet comes here.
 */
export function icvMark({ protocol, payload }: EspPacket): number {
  const at = protocol === "ah" ? AH_ICV_AT : payload.length - MARK_BYTES;
  const byte = (offset: number): number => payload[at + offset] ?? 0;
  return ((byte(0) & 0x3f) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3);
}

/** RFC 4303 §2.8, RFC 4302 §3.3.3.2.2: the high half of an extended number is part of the input, behind everything. */
function isMacOf(
  { suite, inbound, esn }: SharedSa,
  input: readonly Uint8Array[] | null,
  icv: Uint8Array,
  highHalf: number,
): boolean {
  if (input === null || !("integrity" in suite) || inbound.integrityKey === null) return false;
  const mac = createHmac(`sha${suite.integrity.slice(-3)}`, inbound.integrityKey.expose());
  for (const part of input) mac.update(part);
  if (esn) mac.update(u32be(highHalf));
  const wanted = mac.digest().subarray(0, icv.length);
  return wanted.length === icv.length && timingSafeEqual(wanted, icv);
}

function opens(
  suite: EspAeadSuite,
  keyAndSalt: Uint8Array,
  associated: Uint8Array,
  ivAndCiphertext: Uint8Array,
  icv: Uint8Array,
): boolean {
  const { encryptionKeyBytes, saltBytes, ivBytes } = suiteLengths(suite);
  const key = keyAndSalt.subarray(0, encryptionKeyBytes - saltBytes);
  const nonce = concatBytes(keyAndSalt.subarray(encryptionKeyBytes - saltBytes), ivAndCiphertext.subarray(0, ivBytes));
  const ciphertext = ivAndCiphertext.subarray(ivBytes);
  const decipher = newDecipher(suite, key, nonce, icv.length);
  decipher.setAAD(associated, { plaintextLength: ciphertext.length });
  decipher.setAuthTag(icv);
  try {
    decipher.update(ciphertext);
    decipher.final();
    return true;
  } catch {
    return false; // that is how OpenSSL says that the tag is wrong
  }
}

function newDecipher(
  suite: EspAeadSuite,
  key: Uint8Array,
  nonce: Uint8Array,
  authTagLength: number,
): ReturnType<typeof createDecipheriv> & { setAAD(aad: Uint8Array, options: { plaintextLength: number }): unknown } & {
  setAuthTag(tag: Uint8Array): unknown;
} {
  switch (suite.kind) {
    case "aes-gcm-16":
      return createDecipheriv(`aes-${suite.keyBits}-gcm`, key, nonce, { authTagLength });
    case "aes-ccm-16":
      return createDecipheriv(`aes-${suite.keyBits}-ccm`, key, nonce, { authTagLength });
    case "chacha20-poly1305":
      return createDecipheriv("chacha20-poly1305", key, nonce, { authTagLength });
  }
}

function ahIcv({ payload }: EspPacket, icvBytes: number): Uint8Array {
  return payload.subarray(AH_ICV_AT, AH_ICV_AT + icvBytes);
}

/** What an AH's ICV covers (RFC 4302 §3.3.3): IP header and AH with mutable fields and ICV zero. Null where more than that would change. */
function ahInput(packet: Uint8Array, { outer, payload }: EspPacket, icvBytes: number): Uint8Array[] | null {
  const header = packet.slice(0, outer.headerBytes);
  if (header.length !== (outer.version === 4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES)) return null;
  if (payload.length < AH_ICV_AT + icvBytes) return null;
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  if (outer.version === 4) {
    // DSCP and ECN; flags and fragment offset; TTL; checksum.
    view.setUint8(1, 0);
    view.setUint16(6, 0);
    view.setUint8(8, 0);
    view.setUint16(10, 0);
  } else {
    // All but the version; hop limit.
    view.setUint32(0, 0x60000000);
    view.setUint8(7, 0);
  }
  const body = payload.slice();
  body.fill(0, AH_ICV_AT, AH_ICV_AT + icvBytes);
  return [header, body];
}
