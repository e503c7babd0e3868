import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ipFromBytes } from "../../../src/core/ip.ts";
import { eventually } from "./eventually.ts";
import type { Namespace } from "./namespace.ts";
import type { Program } from "./program.ts";

const SNAP_BYTES = 160;
/** A file that does not grow for this long is complete. */
const QUIET_MS = 300;
const PCAP_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;
const ETHERNET_HEADER_BYTES = 14;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const ESP = 50;
const AH = 51;
/** RFC 4302 §2: where the SPI stands in AH; in ESP it comes first. */
const AH_SPI_AT = 4;

/** An IP packet as it was on the wire. */
export interface CapturedPacket {
  readonly source: string;
  readonly destination: string;
  /** IP protocol, for IPv6 the first next header. */
  readonly protocol: number;
  /** Null when it is neither ESP nor AH. The low 32 bits of the number. */
  readonly esp: { readonly spi: number; readonly sequence: number } | null;
}

/** tcpdump on one interface of a namespace. */
export class Capture implements AsyncDisposable {
  readonly #tcpdump: Program;
  readonly #directory: string;

  private constructor(tcpdump: Program, directory: string) {
    this.#tcpdump = tcpdump;
    this.#directory = directory;
  }

  /**
   * Returns when packets are being recorded. `direction` "out" leaves out what arrives: a capture sees a packet that
   * came through an IPsec tunnel a second time, decrypted, as if it had arrived so.
   */
  static async start(
    namespace: Namespace,
    device: string,
    filter = "ip or ip6",
    direction: "inout" | "out" = "inout",
  ): Promise<Capture> {
    const directory = await mkdtemp(join(tmpdir(), "esplex-capture-"));
    const file = join(directory, "pcap");
    const flags = [
      "-Z",
      "root",
      "-n",
      "-U",
      "-p",
      "--immediate-mode",
      "-s",
      `${SNAP_BYTES}`,
      "-B",
      "32768",
      "-Q",
      direction,
      "-i",
      device,
      "-w",
      file,
    ];
    const tcpdump = namespace.spawn("tcpdump", [...flags, filter]);
    await eventually("tcpdump", () => tcpdump.stderr.includes("listening on"));
    return new Capture(tcpdump, directory);
  }

  /** Ends the recording; throws when tcpdump lost packets. */
  async stop(): Promise<CapturedPacket[]> {
    await this.#settled();
    this.#tcpdump.kill("SIGINT");
    await this.#tcpdump.ended;
    const lost = /(\d+) packets? dropped by kernel/.exec(this.#tcpdump.stderr);
    if (lost?.[1] !== "0") throw new Error(`tcpdump lost packets: ${this.#tcpdump.stderr}`);
    return parsePcap(await readFile(join(this.#directory, "pcap")));
  }

  /** Waits until tcpdump has written what is there: on a signal it ends at once. */
  async #settled(): Promise<void> {
    let last = -1;
    let since = Date.now();
    await eventually("tcpdump's file to stay as it is", async () => {
      const { size } = await stat(join(this.#directory, "pcap"));
      if (size !== last) since = Date.now();
      last = size;
      return Date.now() - since > QUIET_MS;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#tcpdump.kill("SIGKILL");
    await this.#tcpdump.ended;
    await rm(this.#directory, { recursive: true, force: true });
  }
}

/** The ESP or AH numbers of one SPI in the order of the wire. */
export function espSequences(packets: readonly CapturedPacket[], spi: number): number[] {
  return packets.flatMap(({ esp }) => (esp?.spi === spi ? [esp.sequence] : []));
}

function parsePcap(file: Buffer): CapturedPacket[] {
  const packets: CapturedPacket[] = [];
  for (let offset = PCAP_HEADER_BYTES; offset + RECORD_HEADER_BYTES <= file.length;) {
    const length = file.readUInt32LE(offset + 8);
    const frame = file.subarray(offset + RECORD_HEADER_BYTES, offset + RECORD_HEADER_BYTES + length);
    const packet = parseFrame(frame);
    if (packet !== null) packets.push(packet);
    offset += RECORD_HEADER_BYTES + length;
  }
  return packets;
}

function parseFrame(frame: Buffer): CapturedPacket | null {
  const type = frame.readUInt16BE(ETHERNET_HEADER_BYTES - 2);
  const ip = frame.subarray(ETHERNET_HEADER_BYTES);
  if (type === ETHERTYPE_IPV4) {
    const headerBytes = ((ip[0] ?? 0) & 0x0f) * 4;
    return packetOf(ip, ip[9] ?? 0, ip.subarray(12, 16), ip.subarray(16, 20), headerBytes);
  }
  return type === ETHERTYPE_IPV6 ? packetOf(ip, ip[6] ?? 0, ip.subarray(8, 24), ip.subarray(24, 40), 40) : null;
}

function packetOf(
  ip: Buffer,
  protocol: number,
  source: Buffer,
  destination: Buffer,
  headerBytes: number,
): CapturedPacket {
  const at = headerBytes + (protocol === AH ? AH_SPI_AT : 0);
  const isIpsec = protocol === ESP || protocol === AH;
  const esp = isIpsec ? { spi: ip.readUInt32BE(at), sequence: ip.readUInt32BE(at + 4) } : null;
  return { source: ipFromBytes(source), destination: ipFromBytes(destination), protocol, esp };
}
