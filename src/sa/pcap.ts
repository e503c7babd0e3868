import { createReadStream } from "node:fs";

/** One captured frame. `bytes` is valid until the next frame is read. */
export interface PcapFrame {
  /** Since the epoch, µs. */
  readonly timestampMicros: bigint;
  /** What was kept of the frame: at most the capture's snapshot length. */
  readonly bytes: Buffer;
  /** Length on the wire, bytes. */
  readonly lengthBytes: number;
}

/** Link type of a capture on an Ethernet interface (LINKTYPE_ETHERNET). */
const LINKTYPE_ETHERNET = 1;

const FILE_HEADER_BYTES = 24;
const FRAME_HEADER_BYTES = 16;
/** libpcap's own limit on the snapshot length (MAXIMUM_SNAPLEN). */
const MAX_FRAME_BYTES = 262_144;
const MAGIC_MICROS = 0xa1b2c3d4;

/**
 * Reads a little-endian microsecond pcap file (draft-ietf-opsawg-pcap), as tcpdump writes it on this hardware, frame by
 * frame without holding it in memory. A file that ends inside a frame, or is no such file, is an error: a capture with
 * a hole proves nothing.
 */
export async function* readPcap(path: string): AsyncGenerator<PcapFrame, void, undefined> {
  let buffered: Buffer = Buffer.alloc(0);
  let position = 0;
  let headerSeen = false;
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
    buffered = position === buffered.length ? chunk : Buffer.concat([buffered.subarray(position), chunk]);
    position = 0;
    if (!headerSeen) {
      if (buffered.length < FILE_HEADER_BYTES) continue;
      checkFileHeader(path, buffered);
      headerSeen = true;
      position = FILE_HEADER_BYTES;
    }
    for (;;) {
      const next = frameAt(path, buffered, position);
      if (next === undefined) break;
      position = next.end;
      yield next.frame;
    }
  }
  if (!headerSeen || position !== buffered.length)
    throw new Error(`${path}: the capture ends in the middle of a frame`);
}

function checkFileHeader(path: string, header: Buffer): void {
  if (header.readUInt32LE(0) !== MAGIC_MICROS) throw new Error(`${path}: not a little-endian microsecond pcap file`);
  const linkType = header.readUInt32LE(20) & 0xffff;
  if (linkType !== LINKTYPE_ETHERNET) throw new Error(`${path}: link type ${linkType}, not Ethernet`);
}

function frameAt(path: string, bytes: Buffer, start: number): { frame: PcapFrame; end: number } | undefined {
  if (bytes.length - start < FRAME_HEADER_BYTES) return undefined;
  const keptBytes = bytes.readUInt32LE(start + 8);
  if (keptBytes > MAX_FRAME_BYTES) throw new Error(`${path}: a frame of ${keptBytes} bytes cannot be`);
  const end = start + FRAME_HEADER_BYTES + keptBytes;
  if (bytes.length < end) return undefined;
  const frame = {
    timestampMicros: BigInt(bytes.readUInt32LE(start)) * 1_000_000n + BigInt(bytes.readUInt32LE(start + 4)),
    bytes: bytes.subarray(start + FRAME_HEADER_BYTES, end),
    lengthBytes: bytes.readUInt32LE(start + 12),
  };
  return { frame, end };
}
