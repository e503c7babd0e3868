import { ipFromBytes } from "../core/ip.ts";

/** IANA protocol numbers that this product tells apart. */
export const IP_PROTOCOL = { icmp: 1, ipv4: 4, tcp: 6, udp: 17, esp: 50, ah: 51 } as const;

/** RFC 791 §3.1: the shortest header; `ihl` counts words of 4 bytes. */
const IPV4_MIN_HEADER_BYTES = 20;
/** RFC 4303 §2: SPI and sequence number stand before the payload. */
const ESP_HEADER_BYTES = 8;
/** RFC 4303 §2.4: pad length and next header stand at the end of the ciphertext. */
export const ESP_TRAILER_BYTES = 2;
/** RFC 9293 §3.1: the part of a TCP header that a peek reads, ports (0) to flags (13). */
export const TCP_PEEK_BYTES = 14;

/** The fixed facts of an IPv4 header. `headerBytes` includes options. */
export interface Ipv4Header {
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly headerBytes: number;
  /** Total Length: what lies beyond it in the frame is padding of the link. */
  readonly totalBytes: number;
  /** True for every fragment but a whole packet. */
  readonly fragment: boolean;
}

/**
 * Reads an IPv4 header from untrusted bytes; null when there is none (wrong version, cut short, lengths that contradict
 * each other). `bytes` may be cut after the header (a peek); pass `whole` when Total Length must be covered.
 */
export function parseIpv4(bytes: Uint8Array, { whole }: { readonly whole: boolean }): Ipv4Header | null {
  const [versionAndIhl] = bytes;
  if (bytes.length < IPV4_MIN_HEADER_BYTES || versionAndIhl === undefined || versionAndIhl >>> 4 !== 4) return null;
  const headerBytes = (versionAndIhl & 0x0f) * 4;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const totalBytes = view.getUint16(2);
  if (headerBytes < IPV4_MIN_HEADER_BYTES || totalBytes < headerBytes) return null;
  if (whole && bytes.length < totalBytes) return null;
  // Flags and offset: 0x2000 is More Fragments, the low 13 bits are the offset.
  const fragment = (view.getUint16(6) & 0x3fff) !== 0;
  return {
    source: ipFromBytes(bytes.subarray(12, 16)),
    destination: ipFromBytes(bytes.subarray(16, 20)),
    protocol: view.getUint8(9),
    headerBytes,
    totalBytes,
    fragment,
  };
}

/** What a peek wants to know of a TCP segment (RFC 9293 §3.1). */
export interface TcpSummary {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly syn: boolean;
  readonly ack: boolean;
  readonly fin: boolean;
  readonly rst: boolean;
}

const TCP_FIN = 0x01;
const TCP_SYN = 0x02;
const TCP_RST = 0x04;
const TCP_ACK = 0x10;

/** Reads ports and flags from the first `TCP_PEEK_BYTES` bytes of a TCP header; null when there are fewer. */
export function parseTcp(bytes: Uint8Array): TcpSummary | null {
  if (bytes.length < TCP_PEEK_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const flags = view.getUint8(13);
  return {
    sourcePort: view.getUint16(0),
    destinationPort: view.getUint16(2),
    syn: (flags & TCP_SYN) !== 0,
    ack: (flags & TCP_ACK) !== 0,
    fin: (flags & TCP_FIN) !== 0,
    rst: (flags & TCP_RST) !== 0,
  };
}

/** The clear part of an ESP packet and where its parts lie. */
export interface EspPacket {
  readonly outer: Ipv4Header;
  readonly spi: number;
  /** The low 32 bits that travel (RFC 4303 §2.2). */
  readonly sequence: number;
  /** IV, ciphertext and ICV. */
  readonly payload: Uint8Array;
}

export type EspParseFailure = "notIpv4" | "fragment" | "notEsp" | "tooShort";

/** Splits a whole IPv4 packet that carries ESP. Says why when it cannot: the caller counts and drops. */
export function parseEsp(packet: Uint8Array): EspPacket | EspParseFailure {
  const outer = parseIpv4(packet, { whole: true });
  if (outer === null) return "notIpv4";
  if (outer.fragment) return "fragment";
  if (outer.protocol !== IP_PROTOCOL.esp) return "notEsp";
  const body = packet.subarray(outer.headerBytes, outer.totalBytes);
  if (body.length < ESP_HEADER_BYTES) return "tooShort";
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return { outer, spi: view.getUint32(0), sequence: view.getUint32(4), payload: body.subarray(ESP_HEADER_BYTES) };
}
