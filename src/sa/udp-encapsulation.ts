import { packetBytes, parseIp, type IpHeader, type IpParseFailure } from "./ip-header.ts";
import { IP_PROTOCOL } from "./packet.ts";
import { NAT_T_PORT } from "./spec.ts";

const UDP_HEADER_BYTES = 8;
/** Where the IP headers keep what changes when the UDP header goes (RFC 791 §3.1, RFC 8200 §3). */
const IPV4 = { totalLength: 2, protocol: 9, checksum: 10 } as const;
const IPV6 = { headerBytes: 40, payloadLength: 4, nextHeader: 6 } as const;
const SPI_BYTES = 4;

/** `udpLength`: a UDP header that does not fit its packet; `notEsp`: UDP, but not to our port or without an SPI. */
export type StripFailure = IpParseFailure | "fragment" | "udpLength" | "notEsp";

/**
 * Takes the UDP header out of a whole packet with ESP in UDP to port 4500 (RFC 3948 §2.1): a new packet with plain ESP, its IP
 * header telling length and protocol of what is left. Null when there is no UDP; the failure when it is not such a packet. The
 * UDP checksum is not looked at: it may be zero (§2.1), and ESP has its own.
 */
export function stripUdp(packet: Uint8Array): Uint8Array | StripFailure | null {
  const outer = parseIp(packetBytes(packet), { whole: true });
  if (typeof outer === "string") return outer;
  if (outer.protocol !== IP_PROTOCOL.udp) return null;
  if (outer.fragment !== null) return "fragment";
  const udp = packet.subarray(outer.headerBytes, outer.totalBytes);
  if (udp.length < UDP_HEADER_BYTES) return "udpLength";
  const view = new DataView(udp.buffer, udp.byteOffset, udp.byteLength);
  const udpBytes = view.getUint16(4);
  if (udpBytes < UDP_HEADER_BYTES || udpBytes > udp.length) return "udpLength";
  const isEsp =
    view.getUint16(2) === NAT_T_PORT &&
    udpBytes >= UDP_HEADER_BYTES + SPI_BYTES &&
    view.getUint32(UDP_HEADER_BYTES) !== 0;
  if (!isEsp) return "notEsp";
  return withoutUdp(packet, outer, udpBytes - UDP_HEADER_BYTES);
}

function withoutUdp(
  packet: Uint8Array,
  { version, headerBytes }: IpHeader,
  espBytes: number,
): Uint8Array | StripFailure {
  // The last header of a chain would have to be found and changed; nobody sends options with ESP in UDP.
  if (version === 6 && headerBytes !== IPV6.headerBytes) return "extensionHeaders";
  const stripped = new Uint8Array(headerBytes + espBytes);
  stripped.set(packet.subarray(0, headerBytes));
  const espAt = headerBytes + UDP_HEADER_BYTES;
  stripped.set(packet.subarray(espAt, espAt + espBytes), headerBytes);
  const view = new DataView(stripped.buffer);
  if (version === 6) {
    view.setUint16(IPV6.payloadLength, espBytes);
    view.setUint8(IPV6.nextHeader, IP_PROTOCOL.esp);
    return stripped;
  }
  view.setUint16(IPV4.totalLength, stripped.length);
  view.setUint8(IPV4.protocol, IP_PROTOCOL.esp);
  view.setUint16(IPV4.checksum, 0);
  view.setUint16(IPV4.checksum, internetChecksum(stripped.subarray(0, headerBytes)));
  return stripped;
}

/** RFC 1071, over an even number of bytes. */
function internetChecksum(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += view.getUint16(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
