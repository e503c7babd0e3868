import { packetBytes, parseIp, type IpHeader } from "../src/sa/ip-header.ts";
import { NAT_T_PORT } from "../src/sa/spec.ts";
import { readPcap, type PcapFrame } from "../src/sa/pcap.ts";

const ETHERNET_HEADER_BYTES = 14;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const PROTOCOL_UDP = 17;
const PROTOCOL_ESP = 50;
const PROTOCOL_AH = 51;
/** RFC 4302 §2: next header, length and a reserved field stand before the SPI. */
const AH_SPI_AT = 4;
const PROTOCOL_ICMPV6 = 58;
/** Neighbour solicitation and advertisement (RFC 4861 §4.3, §4.4): what ARP is to IPv4. */
const DISCOVERY_TYPES: readonly number[] = [135, 136];
const IKE_PORTS: readonly number[] = [500, NAT_T_PORT];
/** Sequence numbers per page of a `SequenceSet`; 8 KiB each. */
const PAGE_NUMBERS = 65_536;

/** What the wire between the client and the cluster showed. */
export interface WireEvidence {
  /** All frames read. */
  readonly frames: number;
  /** ESP and AH packets; so are those below. */
  readonly espFromDvipa: number;
  readonly espToDvipa: number;
  /** Those of both that are fragments of a larger packet. */
  readonly espFragments: number;
  /** Those of both that came in UDP (RFC 3948). */
  readonly espInUdp: number;
  /** Those from the DVIPA that are AH. */
  readonly ahFromDvipa: number;
  /** IKE messages and NAT keepalives, both ways. */
  readonly ike: number;
  /** ESP packets from the DVIPA whose (SPI, sequence number) was already seen. */
  readonly duplicates: readonly RepeatedNumber[];
  readonly duplicateCount: number;
  /** Packets from or to the DVIPA that are neither ESP, AH nor IKE. ARP and neighbour discovery are none. */
  readonly cleartextPackets: number;
  /** Those of them that the cluster sent: what a client without an SA sends is its own affair. */
  readonly cleartextFromDvipa: number;
  /** The first few of them, in words. */
  readonly cleartextSamples: readonly string[];
  /** ESP packets from the DVIPA by source MAC address: who really sent them. */
  readonly espFromDvipaByMac: ReadonlyMap<string, number>;
  /** The same by SPI: each rekeyed SA has its own. */
  readonly espFromDvipaBySpi: ReadonlyMap<number, number>;
  /** Numbers below the highest one of each SA, summed, that never came: not sent, or lost before the client's link. */
  readonly numbersSkipped: number;
}

/** A sequence number that was sent twice. */
export interface RepeatedNumber {
  readonly spi: number;
  readonly sequence: number;
  readonly mac: string;
}

const SAMPLES = 10;

/** Reads a capture of the client's link and counts. */
export async function examineCapture(path: string, dvipa: string): Promise<WireEvidence> {
  const examiner = new WireExaminer(dvipa);
  for await (const frame of readPcap(path)) examiner.take(frame);
  return examiner.result();
}

/** Counts frame by frame; the state of `examineCapture`. */
export class WireExaminer {
  readonly #dvipa: string;
  /** By destination address, protocol and SPI: what names an SA (RFC 4301 §4.1). */
  readonly #seen = new Map<string, SequenceSet>();
  readonly #byMac = new Map<string, number>();
  readonly #bySpi = new Map<number, number>();
  readonly #duplicates: RepeatedNumber[] = [];
  readonly #samples: string[] = [];
  readonly #count = {
    frames: 0,
    espFromDvipa: 0,
    espToDvipa: 0,
    espFragments: 0,
    espInUdp: 0,
    ahFromDvipa: 0,
    ike: 0,
    duplicates: 0,
    cleartext: 0,
    cleartextFromDvipa: 0,
  };

  constructor(dvipa: string) {
    this.#dvipa = dvipa;
  }

  /** Takes one Ethernet frame; 96 kept bytes are enough. */
  take(frame: PcapFrame): void {
    this.#count.frames += 1;
    const { bytes } = frame;
    if (bytes.length < ETHERNET_HEADER_BYTES) return;
    const type = bytes.readUInt16BE(12);
    if (type !== ETHERTYPE_IPV4 && type !== ETHERTYPE_IPV6) return;
    const packet = bytes.subarray(ETHERNET_HEADER_BYTES);
    const header = parseIp(packetBytes(packet), { whole: false });
    const mac = macText(bytes.subarray(6, 12));
    if (header === "extensionHeaders") this.#takeCleartext("a header chain that is not read", packet, false, mac);
    if (typeof header === "string") return;
    const fromDvipa = header.source === this.#dvipa;
    if (!fromDvipa && header.destination !== this.#dvipa) return;
    this.#classify(header, packet.subarray(header.headerBytes), fromDvipa, mac);
  }

  result(): WireEvidence {
    const { duplicates: duplicateCount, cleartext: cleartextPackets, ...counts } = this.#count;
    return {
      ...counts,
      duplicateCount,
      duplicates: this.#duplicates,
      cleartextPackets,
      cleartextSamples: this.#samples,
      espFromDvipaByMac: this.#byMac,
      espFromDvipaBySpi: this.#bySpi,
      numbersSkipped: [...this.#seen.values()].reduce((sum, { highest, size }) => sum + highest - size, 0),
    };
  }

  #classify(header: IpHeader, body: Buffer, fromDvipa: boolean, mac: string): void {
    const { protocol, fragment } = header;
    const inUdp = protocol === PROTOCOL_UDP && fragment !== "later" ? espInUdp(body, fromDvipa) : null;
    if (inUdp !== null) {
      this.#count.espInUdp += 1;
      this.#classify({ ...header, protocol: PROTOCOL_ESP }, inUdp, fromDvipa, mac);
      return;
    }
    if (protocol === PROTOCOL_ESP || protocol === PROTOCOL_AH) {
      const named = protocol === PROTOCOL_AH ? body.subarray(AH_SPI_AT) : body;
      if (fragment !== null) this.#count.espFragments += 1;
      if (!fromDvipa) this.#count.espToDvipa += 1;
      else if (fragment !== "later" && named.length >= 8) this.#takeEsp(header.destination, protocol, named, mac);
      return;
    }
    if (protocol === PROTOCOL_UDP && (fragment === "later" || isIke(body, fromDvipa))) {
      this.#count.ike += 1;
      return;
    }
    if (
      header.version === 6 &&
      protocol === PROTOCOL_ICMPV6 &&
      fragment === null &&
      DISCOVERY_TYPES.includes(body[0] ?? 0)
    )
      return;
    this.#takeCleartext(`IP protocol ${protocol}`, body, fromDvipa, mac);
  }

  #takeCleartext(what: string, body: Buffer, fromDvipa: boolean, mac: string): void {
    this.#count.cleartext += 1;
    if (fromDvipa) this.#count.cleartextFromDvipa += 1;
    if (this.#samples.length >= SAMPLES) return;
    const way = fromDvipa ? "from" : "to";
    this.#samples.push(`${what} ${way} the DVIPA, sent by ${mac}: ${body.toString("hex").slice(0, 40)}`);
  }

  /** `named` begins with SPI and number. */
  #takeEsp(destination: string, protocol: number, named: Buffer, mac: string): void {
    const spi = named.readUInt32BE(0);
    const sequence = named.readUInt32BE(4);
    this.#count.espFromDvipa += 1;
    if (protocol === PROTOCOL_AH) this.#count.ahFromDvipa += 1;
    this.#byMac.set(mac, (this.#byMac.get(mac) ?? 0) + 1);
    this.#bySpi.set(spi, (this.#bySpi.get(spi) ?? 0) + 1);
    const sa = `${destination}/${protocol}/${spi}`;
    const numbers = this.#seen.get(sa) ?? new SequenceSet();
    this.#seen.set(sa, numbers);
    if (numbers.add(sequence)) return;
    this.#count.duplicates += 1;
    if (this.#duplicates.length < SAMPLES) this.#duplicates.push({ spi, sequence, mac });
  }
}

/** A set of 32-bit numbers, one bit each, in pages. */
class SequenceSet {
  /** The largest number, and how many there are. */
  highest = 0;
  size = 0;
  readonly #pages = new Map<number, Uint8Array>();

  /** False when the number was there already. */
  add(value: number): boolean {
    const page = Math.floor(value / PAGE_NUMBERS);
    const bits = this.#pages.get(page) ?? new Uint8Array(PAGE_NUMBERS / 8);
    this.#pages.set(page, bits);
    const index = (value % PAGE_NUMBERS) >> 3;
    const mask = 1 << (value & 7);
    const before = bits[index] ?? 0;
    bits[index] = before | mask;
    if ((before & mask) !== 0) return false;
    this.size += 1;
    this.highest = Math.max(this.highest, value);
    return true;
  }
}

/** The DVIPA's end of the datagram is an IKE port: a client behind NAT may use any port itself. */
function isIke(udp: Buffer, fromDvipa: boolean): boolean {
  return udp.length >= 8 && IKE_PORTS.includes(udp.readUInt16BE(fromDvipa ? 0 : 2));
}

/** What stands behind the UDP header when it is ESP to or from the DVIPA's port 4500, not the zero marker of IKE; else null. */
function espInUdp(udp: Buffer, fromDvipa: boolean): Buffer | null {
  if (udp.length < 12 || udp.readUInt16BE(fromDvipa ? 0 : 2) !== NAT_T_PORT) return null;
  return udp.readUInt32BE(8) === 0 ? null : udp.subarray(8);
}

function macText(bytes: Buffer): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}
