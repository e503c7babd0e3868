import { endianness } from "node:os";
import { EsplexError, invariant } from "./errors.ts";

const LITTLE = endianness() === "LE";

/** How one member of a C struct is read and written; `size` and `align` in bytes. */
export interface Field<T> {
  readonly size: number;
  readonly align: number;
  read(view: DataView, offset: number): T;
  write(view: DataView, offset: number, value: T): void;
}

type Fields = Readonly<Record<string, Field<unknown>>>;
/** The plain object that a struct decodes to. */
export type ValueOf<S> =
  S extends Struct<infer F> ? { -readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never } : never;
type Values<F extends Fields> = { [K in keyof F]: F[K] extends Field<infer T> ? T : never };

/** Writes `values` to where there are zeros; members left out stay zero. */
export interface StructWriter<V> {
  readonly size: number;
  writeSome(view: DataView, offset: number, values: V): void;
}

/** A C struct of the kernel's uapi: also a field, so that structs nest. */
export interface Struct<F extends Fields> extends Field<Values<F>>, StructWriter<Partial<Values<F>>> {
  readonly name: string;
  /** Reads from `bytes` at `offset`; `wire.short` when the struct does not fit. Longer input is fine (newer kernels append). */
  decode(bytes: Uint8Array, offset?: number): Values<F>;
  /** Members left out are zero. */
  encode(values: Partial<Values<F>>): Uint8Array;
}

/**
 * Describes a C struct by its members in order, with the compiler's natural alignment; throws at module load when the
 * size is not `sizeBytes`, so a wrong table never reaches the kernel.
 */
export function struct<F extends Fields>(name: string, sizeBytes: number, fields: F): Struct<F> {
  const members: { key: string; field: Field<unknown>; offset: number }[] = [];
  let offset = 0;
  let align = 1;
  for (const [key, field] of Object.entries(fields)) {
    offset = alignUp(offset, field.align);
    members.push({ key, field, offset });
    offset += field.size;
    align = Math.max(align, field.align);
  }
  const size = alignUp(offset, align);
  invariant(size === sizeBytes, `struct ${name} has ${size} bytes, the kernel's has ${sizeBytes}`);

  // Plain loops: a dump of 20,000 states comes through here.
  const read = (view: DataView, base: number): Values<F> => {
    const values: Record<string, unknown> = {};
    for (const { key, field, offset: at } of members) values[key] = field.read(view, base + at);
    return values as Values<F>;
  };
  const write = (view: DataView, base: number, values: Partial<Values<F>>): void => {
    for (const { key, field, offset: at } of members) {
      const value = values[key];
      if (value !== undefined) field.write(view, base + at, value);
    }
  };
  return {
    name,
    size,
    align,
    read,
    write,
    writeSome: write,
    decode: (bytes, at = 0) => {
      if (at < 0 || at + size > bytes.length) {
        throw new EsplexError("wire.short", `${name}: ${size} bytes needed, ${bytes.length - at} there`);
      }
      return read(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), at);
    },
    encode: (values) => {
      const bytes = new Uint8Array(size);
      write(new DataView(bytes.buffer), 0, values);
      return bytes;
    },
  };
}

function alignUp(offset: number, align: number): number {
  return Math.ceil(offset / align) * align;
}

function numberField(size: 1 | 2 | 4, little: boolean): Field<number> {
  const byWidth = {
    1: {
      read: (view: DataView, offset: number) => view.getUint8(offset),
      write: (view: DataView, offset: number, value: number) => view.setUint8(offset, value),
    },
    2: {
      read: (view: DataView, offset: number) => view.getUint16(offset, little),
      write: (view: DataView, offset: number, value: number) => view.setUint16(offset, value, little),
    },
    4: {
      read: (view: DataView, offset: number) => view.getUint32(offset, little),
      write: (view: DataView, offset: number, value: number) => view.setUint32(offset, value, little),
    },
  } as const;
  return { size, align: size, ...byWidth[size] };
}

/** `__u8` */
export const u8 = numberField(1, LITTLE);
/** `__u16`, host byte order */
export const u16 = numberField(2, LITTLE);
/** `__u32`, host byte order */
export const u32 = numberField(4, LITTLE);
/** `__be16` */
export const be16 = numberField(2, false);
/** `__be32` */
export const be32 = numberField(4, false);
/** `__s32`, host byte order */
export const s32: Field<number> = {
  size: 4,
  align: 4,
  read: (view, offset) => view.getInt32(offset, LITTLE),
  write: (view, offset, value) => view.setInt32(offset, value, LITTLE),
};
/** `__u64`, host byte order */
export const u64: Field<bigint> = {
  size: 8,
  align: 8,
  read: (view, offset) => view.getBigUint64(offset, LITTLE),
  write: (view, offset, value) => view.setBigUint64(offset, value, LITTLE),
};

/** `lengthBytes` bytes as they are (an address union, a name, padding), aligned to `align`. */
export function raw(lengthBytes: number, align = 1): Field<Uint8Array> {
  return {
    size: lengthBytes,
    align,
    read: (view, offset) => {
      const bytes = new Uint8Array(lengthBytes);
      for (let i = 0; i < lengthBytes; i++) bytes[i] = view.getUint8(offset + i);
      return bytes;
    },
    write: (view, offset, value) => {
      invariant(value.length <= lengthBytes, "the bytes do not fit into the member");
      value.forEach((byte, i) => view.setUint8(offset + i, byte));
    },
  };
}
