import { EsplexError } from "../core/errors.ts";

/** Longest frame body that is accepted, in bytes. Our choice: over 1,000 SAs of a snapshot. */
export const MAX_FRAME_BYTES = 1024 * 1024;

/** Length of the `u32be` that stands before each body. */
const LENGTH_BYTES = 4;

/** First size of the buffer for an unfinished frame, in bytes; it doubles as the frame comes in. */
const FIRST_BUFFER_BYTES = 4096;

/**
 * Cuts a byte stream into frames: `u32be` length, then that many bytes of UTF-8 text. It holds at most one unfinished
 * frame and one chunk, and grows with what has really arrived, not with what a length promises.
 */
export class FrameDecoder {
  readonly #maxFrameBytes: number;
  /** The start of an unfinished frame: the first `#heldBytes` of this buffer. */
  #held: Buffer = Buffer.alloc(0);
  #heldBytes = 0;

  constructor(maxFrameBytes = MAX_FRAME_BYTES) {
    this.#maxFrameBytes = maxFrameBytes;
  }

  /** Bytes that wait for the rest of their frame. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** The frames that `chunk` completes, in order. Throws `bus.protocol` on an empty or too long frame: the stream is lost then. */
  push(chunk: Buffer): string[] {
    if (this.#heldBytes === 0) return this.#cut(chunk);
    this.#append(chunk);
    if (this.#heldBytes < this.#neededBytes()) return [];
    const bytes = this.#held.subarray(0, this.#heldBytes);
    this.#held = Buffer.alloc(0);
    this.#heldBytes = 0;
    return this.#cut(bytes);
  }

  #cut(bytes: Buffer): string[] {
    const frames: string[] = [];
    let offset = 0;
    while (bytes.length - offset >= LENGTH_BYTES) {
      const end = offset + LENGTH_BYTES + this.#checked(bytes.readUInt32BE(offset));
      if (end > bytes.length) break;
      frames.push(bytes.toString("utf8", offset + LENGTH_BYTES, end));
      offset = end;
    }
    if (offset < bytes.length) this.#append(bytes.subarray(offset));
    return frames;
  }

  #append(bytes: Buffer): void {
    const wanted = this.#heldBytes + bytes.length;
    if (wanted > this.#held.length) {
      const grown = Buffer.allocUnsafe(Math.max(wanted, 2 * this.#held.length, FIRST_BUFFER_BYTES));
      this.#held.copy(grown, 0, 0, this.#heldBytes);
      this.#held = grown;
    }
    bytes.copy(this.#held, this.#heldBytes);
    this.#heldBytes = wanted;
  }

  /** Bytes of the unfinished frame with its length field, as far as that has come in. */
  #neededBytes(): number {
    if (this.#heldBytes < LENGTH_BYTES) return LENGTH_BYTES;
    return LENGTH_BYTES + this.#checked(this.#held.readUInt32BE(0));
  }

  #checked(lengthBytes: number): number {
    if (lengthBytes === 0 || lengthBytes > this.#maxFrameBytes) {
      throw new EsplexError("bus.protocol", `a frame of ${lengthBytes} bytes; allowed: 1 to ${this.#maxFrameBytes}`);
    }
    return lengthBytes;
  }
}

/** One buffer with all `bodies` as frames: one write to the socket. Throws `bus.protocol` when one is too long. */
export function encodeFrames(bodies: readonly string[], maxFrameBytes = MAX_FRAME_BYTES): Buffer {
  const lengths = bodies.map((body) => Buffer.byteLength(body));
  const out = Buffer.allocUnsafe(lengths.reduce((sum, length) => sum + LENGTH_BYTES + length, 0));
  let offset = 0;
  for (const [index, body] of bodies.entries()) {
    const length = lengths[index] ?? 0;
    if (length > maxFrameBytes) {
      throw new EsplexError("bus.protocol", `a frame of ${length} bytes; allowed: ${maxFrameBytes}`);
    }
    offset = out.writeUInt32BE(length, offset);
    offset += out.write(body, offset);
  }
  return out;
}
