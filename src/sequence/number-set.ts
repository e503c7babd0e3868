/** Numbers per page; 8 KiB each. */
const PAGE_NUMBERS = 65_536;
const PAGE_BITS = 16n;
const PAGE_MASK = 0xffffn;

/** A set of sequence numbers below 2^64, one bit each, in pages of 8 KiB where there are any. */
export class NumberSet {
  readonly #pages = new Map<bigint, Uint8Array>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** False when the number was there already. */
  add(value: bigint): boolean {
    const isNew = setBit(this.#page(value >> PAGE_BITS), Number(value & PAGE_MASK));
    if (isNew) this.#size++;
    return isNew;
  }

  /** Adds `[first, end)`; gives how many of them were there already. */
  addRange(first: bigint, end: bigint): number {
    let known = 0;
    let from = first;
    while (from < end) {
      const key = from >> PAGE_BITS;
      const page = this.#page(key);
      const pageEnd = (key + 1n) << PAGE_BITS;
      const to = end < pageEnd ? end : pageEnd;
      const last = Number(to - 1n - (key << PAGE_BITS));
      for (let at = Number(from & PAGE_MASK); at <= last; at++) if (!setBit(page, at)) known++;
      from = to;
    }
    this.#size += Number(end - first) - known;
    return known;
  }

  has(value: bigint): boolean {
    const page = this.#pages.get(value >> PAGE_BITS);
    const at = Number(value & PAGE_MASK);
    return page !== undefined && ((page[at >> 3] ?? 0) & (1 << (at & 7))) !== 0;
  }

  /** How many numbers are in both. */
  common(other: NumberSet): number {
    let count = 0;
    for (const [key, page] of this.#pages) {
      const theirs = other.#pages.get(key);
      if (theirs === undefined) continue;
      for (let i = 0; i < PAGE_NUMBERS / 8; i++) count += ones((page[i] ?? 0) & (theirs[i] ?? 0));
    }
    return count;
  }

  #page(key: bigint): Uint8Array {
    let page = this.#pages.get(key);
    if (page === undefined) this.#pages.set(key, (page = new Uint8Array(PAGE_NUMBERS / 8)));
    return page;
  }
}

function setBit(page: Uint8Array, at: number): boolean {
  const before = page[at >> 3] ?? 0;
  const bit = 1 << (at & 7);
  page[at >> 3] = before | bit;
  return (before & bit) === 0;
}

function ones(byte: number): number {
  let count = 0;
  for (let rest = byte; rest !== 0; rest &= rest - 1) count++;
  return count;
}
