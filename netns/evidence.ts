import { readPcap, type PcapFrame } from "../src/sa/pcap.ts";

const ETHERNET_HEADER_BYTES = 14;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_ARP = 0x0806;
const IPV4_MIN_HEADER_BYTES = 20;
const PROTOCOL_UDP = 17;
const PROTOCOL_ESP = 50;
const IKE_PORTS: readonly number[] = [500, 4500];
/** Sequence numbers per page of a `SequenceSet`; 8 KiB each. */
const PAGE_NUMBERS = 65_536;

/** What the wire between the client and the cluster showed. */
export interface WireEvidence {
  /** All frames read. */
  readonly frames: number;
  readonly espFromDvipa: number;
  readonly espToDvipa: number;
  /** IKE messages, both ways. */
  readonly ike: number;
  /** ESP packets from the DVIPA whose (SPI, sequence number) was already seen. */
  readonly duplicates: readonly RepeatedNumber[];
  readonly duplicateCount: number;
  /** Packets from or to the DVIPA that are neither ESP nor IKE. ARP is not one. */
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

/** Reads a capture of the client's link and counts. `dvipa` is an IPv4 address. */
export async function examineCapture(path: string, dvipa: string): Promise<WireEvidence> {
  const examiner = new WireExaminer(dvipa);
  for await (const frame of readPcap(path)) examiner.take(frame);
  return examiner.result();
}

/** Counts frame by frame; the state of `examineCapture`. */
export class WireExaminer {
  readonly #dvipa: number;
  /** By destination address and SPI: what names an SA (RFC 4301 §4.1). */
  readonly #seen = new Map<string, SequenceSet>();
  readonly #byMac = new Map<string, number>();
  readonly #bySpi = new Map<number, number>();
  readonly #duplicates: RepeatedNumber[] = [];
  readonly #samples: string[] = [];
  readonly #count = {
    frames: 0,
    espFromDvipa: 0,
    espToDvipa: 0,
    ike: 0,
    duplicates: 0,
    cleartext: 0,
    cleartextFromDvipa: 0,
  };

  constructor(dvipa: string) {
    this.#dvipa = addressNumber(dvipa);
  }

  /** Takes one Ethernet frame; 96 kept bytes are enough. */
  take(frame: PcapFrame): void {
    this.#count.frames += 1;
    const { bytes } = frame;
    if (bytes.length < ETHERNET_HEADER_BYTES + IPV4_MIN_HEADER_BYTES) return;
    const type = bytes.readUInt16BE(12);
    if (type === ETHERTYPE_ARP || type !== ETHERTYPE_IPV4) return;
    const packet = bytes.subarray(ETHERNET_HEADER_BYTES);
    const fromDvipa = packet.readUInt32BE(12) === this.#dvipa;
    const toDvipa = packet.readUInt32BE(16) === this.#dvipa;
    if (!fromDvipa && !toDvipa) return;
    this.#classify(packet, fromDvipa, macText(bytes.subarray(6, 12)));
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

  #classify(packet: Buffer, fromDvipa: boolean, mac: string): void {
    const headerBytes = (packet.readUInt8(0) & 0x0f) * 4;
    const isLaterFragment = (packet.readUInt16BE(6) & 0x1fff) !== 0;
    const protocol = packet.readUInt8(9);
    const body = packet.subarray(headerBytes);
    if (protocol === PROTOCOL_ESP) {
      if (!fromDvipa) this.#count.espToDvipa += 1;
      else if (!isLaterFragment && body.length >= 8) this.#takeEsp(packet.readUInt32BE(16), body, mac);
      return;
    }
    if (protocol === PROTOCOL_UDP && (isLaterFragment || isIke(body, fromDvipa))) {
      this.#count.ike += 1;
      return;
    }
    this.#count.cleartext += 1;
    if (fromDvipa) this.#count.cleartextFromDvipa += 1;
    if (this.#samples.length < SAMPLES) {
      const way = fromDvipa ? "from" : "to";
      this.#samples.push(
        `IP protocol ${protocol} ${way} the DVIPA, sent by ${mac}: ${body.toString("hex").slice(0, 40)}`,
      );
    }
  }

  #takeEsp(destination: number, esp: Buffer, mac: string): void {
    const spi = esp.readUInt32BE(0);
    const sequence = esp.readUInt32BE(4);
    this.#count.espFromDvipa += 1;
    this.#byMac.set(mac, (this.#byMac.get(mac) ?? 0) + 1);
    this.#bySpi.set(spi, (this.#bySpi.get(spi) ?? 0) + 1);
    const sa = `${destination}/${spi}`;
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

function addressNumber(address: string): number {
  return address.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
}

function macText(bytes: Buffer): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}
