import { suiteLengths, type AhSuite } from "./suite.ts";

/** RFC 4302 §2: next header, length, reserved field, SPI and sequence number stand before the ICV. */
const AH_FIXED_BYTES = 12;
/** RFC 4302 §2.2: the length field counts words of 4 bytes, less two. */
const LENGTH_UNIT_BYTES = 4;
const LENGTH_OFFSET_UNITS = 2;
/** RFC 4302 §2.6: the header's length is a multiple of 4 bytes in IPv4, of 8 in IPv6; the ICV is padded for it. */
const ALIGN_BYTES = { 4: 4, 6: 8 } as const;

/** What the head of an Authentication Header says (RFC 4302 §2). Not authenticated. */
export interface AhHeader {
  /** IP protocol of what it protects. */
  readonly nextHeader: number;
  /** With ICV and padding; within the bytes that were given. */
  readonly headerBytes: number;
  readonly spi: number;
  /** The low 32 bits that travel (RFC 4302 §2.5.1). */
  readonly sequence: number;
}

/** Reads the header at the start of `bytes`, of which `lengthBytes` count; null when it is cut short or its length field contradicts that. */
export function parseAhHeader(bytes: Uint8Array, lengthBytes = bytes.length): AhHeader | null {
  if (bytes.length < AH_FIXED_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerBytes = (view.getUint8(1) + LENGTH_OFFSET_UNITS) * LENGTH_UNIT_BYTES;
  if (headerBytes < AH_FIXED_BYTES || headerBytes > lengthBytes) return null;
  return { nextHeader: view.getUint8(0), headerBytes, spi: view.getUint32(4), sequence: view.getUint32(8) };
}

/** The only header length that an SA with this suite has in packets of this IP version. */
export function ahHeaderBytes(suite: AhSuite, version: 4 | 6): number {
  const align = ALIGN_BYTES[version];
  return Math.ceil((AH_FIXED_BYTES + suiteLengths(suite).icvBytes) / align) * align;
}
