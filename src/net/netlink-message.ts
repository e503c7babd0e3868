import { EsplexError } from "../core/errors.ts";
import { struct, u16, u32, type Field, type StructWriter } from "../core/struct.ts";

/** `struct nlmsghdr`, include/uapi/linux/netlink.h */
export const nlmsghdr = struct("nlmsghdr", 16, { length: u32, type: u16, flags: u16, seq: u32, port: u32 });

export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

const NLM_F_REQUEST = 0x1;
export const NLM_F_ACK = 0x4;
export const NLM_F_MULTI = 0x2;
export const NLM_F_DUMP_INTR = 0x10;
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
/** `NLM_F_ROOT | NLM_F_MATCH` */
export const NLM_F_DUMP = 0x300;
/** On an answer: the error message was cut to its header (`NETLINK_CAP_ACK`). */
export const NLM_F_CAPPED = 0x100;
/** On an answer: extended-ack attributes follow. */
export const NLM_F_ACK_TLVS = 0x200;

const NLA_TYPE_MASK = 0x3fff;
const NLA_F_NESTED = 0x8000;
const HEADER_BYTES = nlmsghdr.size;
const ATTRIBUTE_HEADER_BYTES = 4;
/** `nla_len` is 16 bits. */
const ATTRIBUTE_MAX_BYTES = 0xffff - ATTRIBUTE_HEADER_BYTES;

/** One message as it came: `body` is a view into the receive buffer, valid only inside the handler. */
export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly seq: number;
  /** The receiver's port for an answer; for a notification whatever the kernel left there. */
  readonly port: number;
  readonly body: Uint8Array;
}

/** A message to send: `frame` starts with 16 bytes that the socket fills in as `struct nlmsghdr`. */
export interface NetlinkRequest {
  readonly type: number;
  /** Beyond `NLM_F_REQUEST`, which is always set. */
  readonly flags: number;
  readonly frame: Uint8Array;
  /** For error messages: what is being done to what. Never a key. */
  readonly operation: string;
}

/** Writes one message into one buffer, so that key bytes lie in one place; outgrown buffers are wiped. */
export class MessageBuilder {
  #bytes: Uint8Array;
  #view: DataView;
  #length = HEADER_BYTES;

  constructor(capacityBytes = 512) {
    this.#bytes = takeFromSlab(Math.max(capacityBytes, HEADER_BYTES));
    this.#view = viewOf(this.#bytes);
  }

  /** The fixed part of the message, before its attributes. */
  head(bytes: Uint8Array): this {
    this.#append(bytes);
    this.#align();
    return this;
  }

  /** The same, written in place. Members left out are zero. */
  headOf<V>(layout: StructWriter<V>, values: NoInfer<V>): this {
    const start = this.#take(layout.size); // may move `#view`
    layout.writeSome(this.#view, start, values);
    this.#align();
    return this;
  }

  /** One attribute that is a struct and what follows it. Members left out are zero. */
  attributeOf<V>(type: number, layout: StructWriter<V>, values: NoInfer<V>, ...rest: readonly Uint8Array[]): this {
    const header = this.#take(ATTRIBUTE_HEADER_BYTES);
    const start = this.#take(layout.size); // may move `#view`
    layout.writeSome(this.#view, start, values);
    for (const part of rest) this.#append(part);
    const lengthBytes = this.#length - start;
    if (lengthBytes > ATTRIBUTE_MAX_BYTES) throw new RangeError(`attribute ${type} of ${lengthBytes} bytes`);
    this.#attributeHeader(header, type, lengthBytes);
    this.#align();
    return this;
  }

  /** An attribute of one number. */
  attributeNumber<T>(type: number, field: Field<T>, value: T): this {
    this.#attributeHeader(this.#take(ATTRIBUTE_HEADER_BYTES), type, field.size);
    const start = this.#take(field.size); // may move `#view`
    field.write(this.#view, start, value);
    this.#align();
    return this;
  }

  /** One attribute whose payload is `parts` in order. */
  attribute(type: number, ...parts: readonly Uint8Array[]): this {
    const lengthBytes = parts.reduce((sum, part) => sum + part.length, 0);
    if (lengthBytes > ATTRIBUTE_MAX_BYTES) throw new RangeError(`attribute ${type} of ${lengthBytes} bytes`);
    this.#attributeHeader(this.#take(ATTRIBUTE_HEADER_BYTES), type, lengthBytes);
    for (const part of parts) this.#append(part);
    this.#align();
    return this;
  }

  /** An attribute that holds attributes. */
  nested(type: number, build: (inner: this) => void): this {
    const start = this.#take(ATTRIBUTE_HEADER_BYTES);
    build(this);
    this.#attributeHeader(start, type | NLA_F_NESTED, this.#length - start - ATTRIBUTE_HEADER_BYTES);
    return this;
  }

  /** Finishes the message. Who adds to it afterwards gets another buffer, and this one is wiped. */
  request(type: number, flags: number, operation: string): NetlinkRequest {
    giveBack(this.#bytes, this.#length);
    this.#bytes = this.#bytes.subarray(0, this.#length);
    return { type, flags, frame: this.#bytes, operation };
  }

  #attributeHeader(offset: number, type: number, lengthBytes: number): void {
    u16.write(this.#view, offset, ATTRIBUTE_HEADER_BYTES + lengthBytes);
    u16.write(this.#view, offset + 2, type);
  }

  #append(bytes: Uint8Array): void {
    const start = this.#take(bytes.length); // may move `#bytes`
    this.#bytes.set(bytes, start);
  }

  #take(lengthBytes: number): number {
    const start = this.#length;
    this.#length += lengthBytes;
    if (this.#length > this.#bytes.length) {
      const outgrown = this.#bytes;
      this.#bytes = takeFromSlab(Math.max(2 * outgrown.length, this.#length + 64));
      this.#view = viewOf(this.#bytes);
      this.#bytes.set(outgrown);
      outgrown.fill(0);
    }
    return start;
  }

  #align(): void {
    this.#take(aligned(this.#length) - this.#length);
  }
}

/**
 * Messages lie side by side in slabs of this size, in bytes: one allocation outside of the JavaScript heap for hundreds of
 * messages. No byte of a slab is given out twice, so each message owns its part, starts with zeros, and is wiped alone.
 */
const SLAB_BYTES = 64 * 1024;
let slab = new Uint8Array(0);
let slabUsedBytes = 0;

function takeFromSlab(lengthBytes: number): Uint8Array {
  if (lengthBytes > SLAB_BYTES / 4) return new Uint8Array(lengthBytes);
  if (slabUsedBytes + lengthBytes > slab.length) {
    slab = new Uint8Array(SLAB_BYTES);
    slabUsedBytes = 0;
  }
  const start = slabUsedBytes;
  slabUsedBytes += aligned(lengthBytes);
  return slab.subarray(start, start + lengthBytes);
}

/** What a finished message did not use, when nothing lies behind it: never written, so still zeros. */
function giveBack(bytes: Uint8Array, usedBytes: number): void {
  if (bytes.buffer !== slab.buffer || bytes.byteOffset + aligned(bytes.length) !== slabUsedBytes) return;
  slabUsedBytes = bytes.byteOffset + aligned(usedBytes);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Fills in the header of `request.frame`. */
export function finishFrame(request: NetlinkRequest, flags: number, seq: number, port: number): Uint8Array {
  const { frame, type } = request;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  nlmsghdr.write(view, 0, { length: frame.length, type, flags: request.flags | flags | NLM_F_REQUEST, seq, port });
  return frame;
}

/**
 * The messages of one datagram; `wire.malformed` when a length leads outside it. Members are read one by one and not by
 * `nlmsghdr.decode`: every queued packet comes through here.
 */
export function parseMessages(datagram: Uint8Array): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.length);
  let offset = 0;
  while (offset + HEADER_BYTES <= datagram.length) {
    const length = u32.read(view, offset);
    if (length < HEADER_BYTES || offset + length > datagram.length) {
      throw new EsplexError("wire.malformed", `netlink message of ${length} bytes at ${offset} of ${datagram.length}`);
    }
    messages.push({
      type: u16.read(view, offset + 4),
      flags: u16.read(view, offset + 6),
      seq: u32.read(view, offset + 8),
      port: u32.read(view, offset + 12),
      body: datagram.subarray(offset + HEADER_BYTES, offset + length),
    });
    offset += aligned(length);
  }
  return messages;
}

/** Goes from attribute to attribute: for messages that come too often for `Attributes`. */
export class AttributeCursor {
  /** Of the attribute that `next` came to. */
  type = 0;
  /** Where its payload ends. */
  end = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #start = 0;
  #nextAt: number;

  constructor(bytes: Uint8Array, offset: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#nextAt = aligned(offset);
  }

  /** False when there are no more; `wire.malformed` when a length leads outside the message. */
  next(): boolean {
    const at = this.#nextAt;
    const { length: limit } = this.#bytes;
    if (at + ATTRIBUTE_HEADER_BYTES > limit) return false;
    const length = u16.read(this.#view, at);
    if (length < ATTRIBUTE_HEADER_BYTES || at + length > limit) {
      throw new EsplexError("wire.malformed", `netlink attribute of ${length} bytes at ${at} of ${limit}`);
    }
    this.type = u16.read(this.#view, at + 2) & NLA_TYPE_MASK;
    this.#start = at + ATTRIBUTE_HEADER_BYTES;
    this.end = at + length;
    this.#nextAt = at + aligned(length);
    return true;
  }

  /** Where the payload starts; `wire.short` when it has fewer than `needBytes`. */
  start(needBytes: number): number {
    if (this.end - this.#start < needBytes) {
      throw new EsplexError("wire.short", `netlink attribute ${this.type} is too short`);
    }
    return this.#start;
  }
}

/** Attributes by type (views, the last of a type wins), from `offset` of a message body. */
export class Attributes {
  readonly #values = new Map<number, Uint8Array>();

  constructor(bytes: Uint8Array, offset = 0) {
    for (const cursor = new AttributeCursor(bytes, offset); cursor.next();) {
      this.#values.set(cursor.type, bytes.subarray(cursor.start(0), cursor.end));
    }
  }

  bytes(type: number): Uint8Array | null {
    return this.#values.get(type) ?? null;
  }

  has(type: number): boolean {
    return this.#values.has(type);
  }

  /** A number read as `field`; null when the attribute is missing, `wire.short` when it is too short. */
  number(type: number, field: Field<number>): number | null {
    const bytes = this.#values.get(type);
    if (bytes === undefined) return null;
    if (bytes.length < field.size) throw new EsplexError("wire.short", `netlink attribute ${type} is too short`);
    return field.read(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0);
  }

  /** A zero-terminated string. */
  text(type: number): string | null {
    const bytes = this.#values.get(type);
    if (bytes === undefined) return null;
    const end = bytes.indexOf(0);
    return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
  }

  nested(type: number): Attributes {
    return new Attributes(this.#values.get(type) ?? new Uint8Array());
  }
}

/** The bytes of one number, as an attribute's payload. */
export function numberBytes<T>(field: Field<T>, value: T): Uint8Array {
  const bytes = new Uint8Array(field.size);
  field.write(new DataView(bytes.buffer), 0, value);
  return bytes;
}

function aligned(lengthBytes: number): number {
  return (lengthBytes + 3) & ~3;
}
