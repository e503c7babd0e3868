import { packetBytes, parseIp } from "./ip-header.ts";
import { IP_PROTOCOL } from "./packet.ts";
import type { IpsecProtocol } from "./suite.ts";

/** What a capture shows of one ESP or AH packet; of AH in front of ESP it shows the AH. */
export interface CapturedEsp {
  readonly protocol: IpsecProtocol;
  readonly source: string;
  readonly destination: string;
  readonly spi: number;
  /** The low 32 bits that travel (RFC 4303 §2.2). */
  readonly sequence: number;
  /** The first 8 bytes after the ESP header, an AEAD's explicit IV (RFC 4106 §3.1); null when the capture was cut before, and for AH. */
  readonly iv: bigint | null;
  /** From the SPI on, as far as it was captured. */
  readonly bytes: Buffer;
}

const ETHERNET_HEADER_BYTES = 14;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const UDP_HEADER_BYTES = 8;
/** RFC 3948 §2: ESP in UDP; four zero bytes there mean IKE. */
const NAT_T_PORT = 4500;
const ESP_HEADER_BYTES = 8;
const IV_BYTES = 8;
/** RFC 4302 §2: next header, length and a reserved field stand before the SPI. */
const AH_SPI_AT = 4;

interface Datagram {
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly body: Buffer;
}

/**
 * The ESP or AH packet in an Ethernet frame: over IPv4 or IPv6, bare or, for ESP, in UDP. Null for anything else and for later fragments, "cut" for one of which the capture does not hold the header.
 */
export function espOfFrame(frame: Buffer): CapturedEsp | "cut" | null {
  const datagram = datagramOf(frame);
  if (datagram === null) return null;
  const { source, destination } = datagram;
  if (datagram.protocol === IP_PROTOCOL.ah) return capturedAh(datagram);
  const bytes = datagram.protocol === IP_PROTOCOL.esp ? datagram.body : espInUdp(datagram);
  if (bytes === null) return null;
  if (bytes.length < ESP_HEADER_BYTES) return "cut";
  const hasIv = bytes.length >= ESP_HEADER_BYTES + IV_BYTES;
  const iv = hasIv ? bytes.readBigUInt64BE(ESP_HEADER_BYTES) : null;
  return { protocol: "esp", source, destination, ...namesAt(bytes), iv, bytes };
}

function capturedAh({ source, destination, body }: Datagram): CapturedEsp | "cut" {
  const bytes = body.subarray(AH_SPI_AT);
  if (bytes.length < ESP_HEADER_BYTES) return "cut";
  return { protocol: "ah", source, destination, ...namesAt(bytes), iv: null, bytes };
}

/** SPI and number stand in the same order in both (RFC 4303 §2, RFC 4302 §2). */
function namesAt(bytes: Buffer): Pick<CapturedEsp, "spi" | "sequence"> {
  return { spi: bytes.readUInt32BE(0), sequence: bytes.readUInt32BE(4) };
}

function datagramOf(frame: Buffer): Datagram | null {
  if (frame.length < ETHERNET_HEADER_BYTES) return null;
  const type = frame.readUInt16BE(12);
  if (type !== ETHERTYPE_IPV4 && type !== ETHERTYPE_IPV6) return null;
  const packet = frame.subarray(ETHERNET_HEADER_BYTES);
  const header = parseIp(packetBytes(packet), { whole: false });
  if (typeof header === "string" || header.fragment === "later") return null;
  const { source, destination, protocol, headerBytes, totalBytes } = header;
  return { source, destination, protocol, body: packet.subarray(headerBytes, totalBytes) };
}

function espInUdp({ protocol, body }: Datagram): Buffer | null {
  if (protocol !== IP_PROTOCOL.udp || body.length < UDP_HEADER_BYTES + 4) return null;
  if (body.readUInt16BE(0) !== NAT_T_PORT && body.readUInt16BE(2) !== NAT_T_PORT) return null;
  const payload = body.subarray(UDP_HEADER_BYTES);
  return payload.readUInt32BE(0) === 0 ? null : payload;
}
