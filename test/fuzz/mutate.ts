import { concatBytes, u16be, u32be } from "../../src/core/bytes.ts";
import type { SeededRandom } from "../fault/random.ts";

/** Lengths, counts and types at which decoders go wrong. */
const EDGES_8 = [0, 1, 2, 3, 4, 7, 8, 0x20, 0x7f, 0x80, 0xfe, 0xff];
const EDGES_16 = [0, 1, 3, 4, 5, 8, 0xff, 0x100, 0x7fff, 0x8000, 0xfffe, 0xffff];
const EDGES_32 = [0, 1, 27, 28, 29, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
/** Changes of one case at most. */
const CHANGES_MAX = 6;
/** No mutated input is longer than this: beyond the limit of a message, so that it is tried too. */
const LENGTH_MAX = 20_000;

type Mutation = (random: SeededRandom, bytes: Uint8Array, other: Uint8Array) => Uint8Array;

const place = (random: SeededRandom, bytes: Uint8Array): number => random.between(0, bytes.length);
const range = (random: SeededRandom, bytes: Uint8Array): [number, number] => {
  const first = random.between(0, bytes.length + 1);
  return [first, Math.min(bytes.length, first + random.between(0, 1 + Math.max(4, bytes.length >> 2)))];
};

function overwrite(bytes: Uint8Array, at: number, value: Uint8Array): Uint8Array {
  const changed = bytes.slice();
  changed.set(value.subarray(0, Math.max(0, bytes.length - at)), at);
  return changed;
}

function oneOf<T>(random: SeededRandom, items: readonly T[]): T {
  const item = items[random.between(0, items.length)];
  if (item === undefined) throw new Error("nothing to choose from");
  return item;
}

const MUTATIONS: readonly Mutation[] = [
  (random, bytes) => {
    const at = place(random, bytes);
    return overwrite(bytes, at, new Uint8Array([(bytes[at] ?? 0) ^ (1 << random.between(0, 8))]));
  },
  (random, bytes) => overwrite(bytes, place(random, bytes), new Uint8Array([random.between(0, 256)])),
  (random, bytes) => overwrite(bytes, place(random, bytes), new Uint8Array([oneOf(random, EDGES_8)])),
  (random, bytes) => overwrite(bytes, place(random, bytes), u16be(oneOf(random, EDGES_16))),
  (random, bytes) => overwrite(bytes, place(random, bytes), u32be(oneOf(random, EDGES_32))),
  // A little more or less, where a length may stand.
  (random, bytes) => {
    const at = place(random, bytes);
    const value = ((bytes[at] ?? 0) << 8) + (bytes[at + 1] ?? 0) + random.between(-9, 10);
    return overwrite(bytes, at, u16be(value & 0xffff));
  },
  (random, bytes) => bytes.slice(0, place(random, bytes)),
  (random, bytes) => {
    const [first, end] = range(random, bytes);
    return concatBytes(bytes.subarray(0, first), bytes.subarray(end));
  },
  (random, bytes) => {
    const [first, end] = range(random, bytes);
    const again = bytes.subarray(first, end);
    const copies = Array.from({ length: random.between(1, oneOf(random, [2, 4, 70])) }, () => again);
    return concatBytes(bytes.subarray(0, end), ...copies, bytes.subarray(end));
  },
  (random, bytes) => {
    const at = random.between(0, bytes.length + 1);
    const inserted = Uint8Array.from({ length: random.between(1, 17) }, () => random.between(0, 256));
    return concatBytes(bytes.subarray(0, at), inserted, bytes.subarray(at));
  },
  (random, bytes, other) => {
    const [first, end] = range(random, other);
    const at = random.between(0, bytes.length + 1);
    const skipped = random.between(0, 2) * (end - first);
    return concatBytes(bytes.subarray(0, at), other.subarray(first, end), bytes.subarray(at + skipped));
  },
];

/** One of `seeds`, changed in one to six places; now and then as it is. */
export function mutated(random: SeededRandom, seeds: readonly Uint8Array[]): Uint8Array {
  return mutate(random, oneOf(random, seeds), seeds);
}

/** `bytes` changed in up to six places, with pieces of `others`. */
export function mutate(random: SeededRandom, bytes: Uint8Array, others: readonly Uint8Array[]): Uint8Array {
  let changed = bytes;
  for (let left = random.between(0, CHANGES_MAX + 1); left > 0; left--) {
    changed = oneOf(random, MUTATIONS)(random, changed, oneOf(random, others));
    if (changed.length > LENGTH_MAX) changed = changed.slice(0, LENGTH_MAX);
  }
  return changed;
}

export { oneOf };
