import { packetBytes, parseIp, type IpHeader } from "./ip-header.ts";
import { IP_PROTOCOL } from "./packet.ts";
import { NAT_T_PORT } from "./spec.ts";
import type { IpsecProtocol } from "./suite.ts";

/** RFC 792, RFC 4443 §2.1: type, code, checksum and four bytes more stand before the quoted packet. */
const ICMP_HEADER_BYTES = 8;
/** Destination unreachable (with fragmentation needed), time exceeded, parameter problem (RFC 792). */
const ICMPV4_ERRORS: readonly number[] = [3, 11, 12];
/** RFC 4443 §2.1: error messages have types below this. */
const ICMPV6_FIRST_INFORMATIONAL = 128;
const UDP_HEADER_BYTES = 8;

/** What an ICMP error says of a protected packet that left a DVIPA. Nothing of it is authenticated. */
export interface IcmpError {
  /** Source of the packet, and destination of the ICMP message. */
  readonly dvipa: string;
  /** Destination of the packet. */
  readonly peer: string;
  readonly protocol: IpsecProtocol;
  readonly isInUdp: boolean;
  readonly spi: number;
  /** The low 32 bits that travel. */
  readonly sequence: number;
}

/**
 * `malformed`: no ICMP error, or one that does not quote a packet of its destination; `other`: it quotes something that is neither
 * ESP nor AH, or a later fragment; `shortQuote`: the quote ends before the sequence number.
 */
export type IcmpErrorFailure = "malformed" | "other" | "shortQuote";

/** Reads an ICMP error (RFC 792, RFC 4443) about ESP, bare or in UDP, or AH. Its checksum is left to the kernel. */
export function parseIcmpError(packet: Uint8Array): IcmpError | IcmpErrorFailure {
  const quote = quoteOf(packet);
  return typeof quote === "string" ? quote : readQuote(quote);
}

/** The TCP connection that an ICMP error is about, as the distributor names it. */
export interface QuotedConnection {
  readonly dvipa: string;
  readonly port: number;
  readonly client: string;
  readonly clientPort: number;
}

/** Reads an ICMP error about a TCP segment that a DVIPA has sent in clear; null when it is about something else. */
export function parseTcpError(packet: Uint8Array): QuotedConnection | null {
  const quote = quoteOf(packet);
  if (typeof quote === "string") return null;
  const { header, body } = quote;
  // RFC 9293 §3.1: the ports come first.
  if (header.protocol !== IP_PROTOCOL.tcp || body.length < 4) return null;
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const { source: dvipa, destination: client } = header;
  return { dvipa, port: view.getUint16(0), client, clientPort: view.getUint16(2) };
}

/** What an ICMP error quotes. */
interface Quote {
  readonly header: IpHeader;
  /** Behind the IP header. */
  readonly body: Uint8Array;
}

function quoteOf(packet: Uint8Array): Quote | "malformed" | "other" {
  const outer = parseIp(packetBytes(packet), { whole: true });
  if (typeof outer === "string" || outer.fragment !== null) return "malformed";
  const message = packet.subarray(outer.headerBytes, outer.totalBytes);
  if (message.length < ICMP_HEADER_BYTES || !isError(outer, message[0] ?? 0)) return "malformed";
  const quote = message.subarray(ICMP_HEADER_BYTES);
  const quoted = parseIp(packetBytes(quote), { whole: false });
  if (typeof quoted === "string") return "malformed";
  if (quoted.version !== outer.version || quoted.source !== outer.destination) return "malformed";
  if (quoted.fragment === "later") return "other";
  return { header: quoted, body: quote.subarray(quoted.headerBytes) };
}

function readQuote({ header: quoted, body }: Quote): IcmpError | IcmpErrorFailure {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const isInUdp = quoted.protocol === IP_PROTOCOL.udp;
  if (isInUdp) {
    if (body.length < 2) return "shortQuote";
    if (view.getUint16(0) !== NAT_T_PORT) return "other";
  }
  const protocol = quoted.protocol === IP_PROTOCOL.ah ? "ah" : "esp";
  if (protocol === "esp" && !isInUdp && quoted.protocol !== IP_PROTOCOL.esp) return "other";
  // RFC 4303 §2: the SPI comes first; RFC 4302 §2: after next header, length and reserved; the number follows.
  const spiAt = isInUdp ? UDP_HEADER_BYTES : protocol === "ah" ? 4 : 0;
  if (body.length < spiAt + 8) return "shortQuote";
  const spi = view.getUint32(spiAt);
  // RFC 3948 §2.2: IKE's marker.
  if (isInUdp && spi === 0) return "other";
  const { source: dvipa, destination: peer } = quoted;
  return { dvipa, peer, protocol, isInUdp, spi, sequence: view.getUint32(spiAt + 4) };
}

function isError({ version, protocol }: IpHeader, type: number): boolean {
  if (version === 4) return protocol === IP_PROTOCOL.icmp && ICMPV4_ERRORS.includes(type);
  return protocol === IP_PROTOCOL.icmpv6 && type < ICMPV6_FIRST_INFORMATIONAL;
}
