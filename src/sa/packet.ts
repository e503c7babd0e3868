import { parseAhHeader } from "./ah.ts";
import { packetBytes, parseIp, type IpHeader, type IpParseFailure } from "./ip-header.ts";
import type { IpsecProtocol } from "./suite.ts";

/** IANA protocol numbers that this product tells apart. */
export const IP_PROTOCOL = { icmp: 1, ipv4: 4, tcp: 6, udp: 17, ipv6: 41, esp: 50, ah: 51, icmpv6: 58 } as const;

/** RFC 4303 §2: SPI and sequence number stand before the payload. */
const ESP_HEADER_BYTES = 8;
/** RFC 4303 §2.4: pad length and next header stand at the end of the ciphertext. */
export const ESP_TRAILER_BYTES = 2;
/** RFC 9293 §3.1: the part of a TCP header that a peek reads, ports (0) to flags (13). */
export const TCP_PEEK_BYTES = 14;

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

/** The clear part of an ESP or AH packet and where its parts lie. */
export interface EspPacket {
  readonly outer: IpHeader;
  readonly protocol: IpsecProtocol;
  readonly spi: number;
  /** The low 32 bits that travel (RFC 4303 §2.2, RFC 4302 §2.5). */
  readonly sequence: number;
  /** Of ESP IV, ciphertext and ICV; of AH everything from its header on. */
  readonly payload: Uint8Array;
}

export type EspParseFailure = IpParseFailure | "fragment" | "notEsp" | "tooShort";

/** Splits a whole IPv4 or IPv6 packet that carries ESP or AH. Says why when it cannot: the caller counts and drops. */
export function parseEsp(packet: Uint8Array): EspPacket | EspParseFailure {
  const outer = parseIp(packetBytes(packet), { whole: true });
  if (typeof outer === "string") return outer;
  if (outer.fragment !== null) return "fragment";
  const body = packet.subarray(outer.headerBytes, outer.totalBytes);
  if (outer.protocol === IP_PROTOCOL.ah) {
    const header = parseAhHeader(body);
    if (header === null) return "tooShort";
    return { outer, protocol: "ah", spi: header.spi, sequence: header.sequence, payload: body };
  }
  if (outer.protocol !== IP_PROTOCOL.esp) return "notEsp";
  if (body.length < ESP_HEADER_BYTES) return "tooShort";
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const payload = body.subarray(ESP_HEADER_BYTES);
  return { outer, protocol: "esp", spi: view.getUint32(0), sequence: view.getUint32(4), payload };
}
