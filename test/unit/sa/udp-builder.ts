import { concatBytes, u16be } from "../../../src/core/bytes.ts";
import { ipFromBytes } from "../../../src/core/ip.ts";
import { ipv4Packet } from "./esp-builder.ts";

/** What is said of the UDP header; defaults: RFC 3948's. */
interface UdpChanges {
  readonly source?: string;
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  /** What the header says, in bytes. */
  readonly udpBytes?: number;
  readonly checksum?: number;
  readonly optionWords?: number;
  readonly fragmentField?: number;
}

/** The body behind a UDP header (RFC 768). */
export function udpDatagram(body: Uint8Array, changes: UdpChanges = {}): Uint8Array {
  const { sourcePort = 40_000, destinationPort = 4500, udpBytes = 8 + body.length, checksum = 0 } = changes;
  return concatBytes(u16be(sourcePort), u16be(destinationPort), u16be(udpBytes), u16be(checksum), body);
}

/** An IPv4 packet with ESP and no options, put into UDP. */
export function inUdp(packet: Uint8Array, changes: UdpChanges = {}): Uint8Array {
  const { source = ipFromBytes(packet.subarray(12, 16)), optionWords = 0, fragmentField = 0 } = changes;
  const destination = ipFromBytes(packet.subarray(16, 20));
  return ipv4Packet(source, destination, 17, udpDatagram(packet.subarray(20), changes), { optionWords, fragmentField });
}
