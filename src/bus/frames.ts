import { EsplexError } from "../core/errors.ts";

/** Longest frame body that is accepted, in bytes. Our choice: over 1,000 SAs of a snapshot. */
export const MAX_FRAME_BYTES = 1024 * 1024;

/** Length of the `u32be` that stands before each body. */
const LENGTH_BYTES = 4;

/** First size of the buffer for an unfinished frame, in bytes; it doubles as the frame comes in. */
const FIRST_BUFFER_BYTES = 4096;

/**
 * Cuts a byte stream into frames: `u32be` length, then that many bytes: UTF-8 text, or a batch (`reserve-batch.ts`). It holds at most one unfinished
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

  /**
   * The bodies of the frames that `chunk` completes, in order, as views: of `chunk`, or of a buffer that nobody writes to again.
   * Throws `bus.protocol` on an empty or too long frame: the stream is lost then.
   */
  push(chunk: Buffer): Buffer[] {
    if (this.#heldBytes === 0) return this.#cut(chunk);
    this.#append(chunk);
    if (this.#heldBytes < this.#neededBytes()) return [];
    const bytes = this.#held.subarray(0, this.#heldBytes);
    this.#held = Buffer.alloc(0);
    this.#heldBytes = 0;
    return this.#cut(bytes);
  }

  #cut(bytes: Buffer): Buffer[] {
    const frames: Buffer[] = [];
    let offset = 0;
    while (bytes.length - offset >= LENGTH_BYTES) {
      const end = offset + LENGTH_BYTES + this.#checked(bytes.readUInt32BE(offset));
      if (end > bytes.length) break;
      frames.push(bytes.subarray(offset + LENGTH_BYTES, end));
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

/** First size of the buffer that frames are written into, in bytes: a few turns' worth of them. */
const SLAB_BYTES = 64 * 1024;

/**
 * Writes frames one behind the other: all of one turn of the event loop, for one write to the socket. `take` hands a part of
 * the buffer on and never writes there again.
 */
export class FrameWriter {
  readonly #maxFrameBytes: number;
  #bytes: Buffer = Buffer.alloc(0);
  #view = new DataView(this.#bytes.buffer);
  /** What has not been taken: `[#start, #end)` of `#bytes`. */
  #start = 0;
  #end = 0;
  /** Where the open frame's length stands, counted from `#start`. */
  #frame = 0;
  #longestBytes = 0;

  constructor(maxFrameBytes = MAX_FRAME_BYTES) {
    this.#maxFrameBytes = maxFrameBytes;
  }

  /** Bytes that wait to be taken. */
  get lengthBytes(): number {
    return this.#end - this.#start;
  }

  /** The buffer under `room`: good until the next call of `room`. */
  get view(): DataView {
    return this.#view;
  }

  /** The offset in `view` where the open frame's body begins. */
  get bodyOffset(): number {
    return this.#start + this.#frame + LENGTH_BYTES;
  }

  /** A whole frame of text. */
  text(body: string): void {
    const lengthBytes = Buffer.byteLength(body);
    this.open();
    const offset = this.room(lengthBytes);
    this.#bytes.write(body, offset);
    this.close();
  }

  /** Begins a frame; `room` is its body, `close` ends it. */
  open(): void {
    this.#frame = this.lengthBytes;
    this.room(LENGTH_BYTES);
  }

  /** The offset in `view` of the next `lengthBytes` bytes of the open frame: the caller writes all of them. */
  room(lengthBytes: number): number {
    if (this.#end + lengthBytes > this.#bytes.length) this.#grow(lengthBytes);
    const offset = this.#end;
    this.#end += lengthBytes;
    return offset;
  }

  /** Ends the open frame. */
  close(): void {
    const lengthBytes = this.lengthBytes - this.#frame - LENGTH_BYTES;
    if (lengthBytes > this.#longestBytes) this.#longestBytes = lengthBytes;
    this.#view.setUint32(this.#start + this.#frame, lengthBytes);
  }

  /** All frames since the last call. Throws `bus.protocol` when one of them is too long: the other side would refuse it. */
  take(): Buffer {
    if (this.#longestBytes > this.#maxFrameBytes) {
      throw new EsplexError(
        "bus.protocol",
        `a frame of ${this.#longestBytes} bytes; allowed: 1 to ${this.#maxFrameBytes}`,
      );
    }
    const taken = this.#bytes.subarray(this.#start, this.#end);
    this.#start = this.#end;
    return taken;
  }

  #grow(lengthBytes: number): void {
    const held = this.#bytes.subarray(this.#start, this.#end);
    this.#bytes = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, 2 * (held.length + lengthBytes)));
    this.#view = new DataView(this.#bytes.buffer);
    held.copy(this.#bytes);
    this.#start = 0;
    this.#end = held.length;
  }
}
