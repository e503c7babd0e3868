import { EsplexError } from "./errors.ts";

/**
 * Reads untrusted bytes front to back: every read is checked first, and a short read throws `wire.short`.
 * All numbers are in network byte order.
 */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;
  #offset = 0;

  /** `what` names the thing being read, for the error message ("IKE header"). */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#what = what;
  }

  get offset(): number {
    return this.#offset;
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8));
  }

  /** A view of the next `lengthBytes` bytes (not a copy). */
  bytes(lengthBytes: number): Uint8Array {
    const start = this.#take(lengthBytes);
    return this.#bytes.subarray(start, start + lengthBytes);
  }

  /** A view of everything that is left. */
  rest(): Uint8Array {
    return this.bytes(this.remaining);
  }

  skip(lengthBytes: number): void {
    this.#take(lengthBytes);
  }

  /** Throws `wire.malformed` when bytes are left over. */
  end(): void {
    if (this.remaining !== 0) {
      throw new EsplexError("wire.malformed", `${this.#what}: ${this.remaining} bytes left over`);
    }
  }

  #take(lengthBytes: number): number {
    if (lengthBytes < 0 || this.#offset + lengthBytes > this.#bytes.length) {
      throw new EsplexError(
        "wire.short",
        `${this.#what}: ${lengthBytes} bytes needed at offset ${this.#offset}, ${this.remaining} there`,
      );
    }
    const start = this.#offset;
    this.#offset += lengthBytes;
    return start;
  }
}

/** Joins byte strings into a new one. */
export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}

/** Lower-case hex, two digits a byte. Never for keys. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("hex");
}

/** Bytes from hex digits; throws `wire.malformed` on anything else. */
export function fromHex(hex: string): Uint8Array {
  if (hex.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(hex)) {
    throw new EsplexError("wire.malformed", "not an even number of hex digits");
  }
  return new Uint8Array(Buffer.from(hex, "hex"));
}

/** True when both hold the same bytes. Not for secrets: its time depends on the content. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

/** Big-endian bytes of an unsigned number. */
export function u16be(value: number): Uint8Array {
  return new Uint8Array([(value >>> 8) & 0xff, value & 0xff]);
}

/** Big-endian bytes of an unsigned number. */
export function u32be(value: number): Uint8Array {
  return new Uint8Array([(value >>> 24) & 0xff, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff]);
}

/** Big-endian bytes of an unsigned 64-bit number. */
export function u64be(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}
