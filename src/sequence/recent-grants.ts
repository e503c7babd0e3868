/** Grants that are remembered; a lease has 8 numbers or more, so a packet's grant is found for thousands of packets. Our choice. */
const KEPT_GRANTS = 1024;
const FIRST_SIZE = 16;

/**
 * Which node was granted which of an SA's last numbers. Grants come in order and without gaps, so each is its end alone: ten bytes.
 * In memory only: what an earlier process granted is not known.
 */
export class RecentGrants {
  /** Below it nothing is known. */
  #start: bigint;
  readonly #nodes: string[] = [];
  /** Rings of the same size; the oldest grant is at `#first`. */
  #ends = new BigUint64Array(FIRST_SIZE);
  #holders = new Uint16Array(FIRST_SIZE);
  #first = 0;
  #count = 0;

  /** `next`: the first number that is not granted yet. */
  constructor(next: bigint) {
    this.#start = next;
  }

  /** `node` was granted everything from the end of the last grant up to `end`, exclusive. */
  add(node: string, end: bigint): void {
    const holder = this.#indexOf(node);
    const last = this.#place(this.#count - 1);
    if (this.#count > 0 && this.#holders[last] === holder) {
      this.#ends[last] = end;
      return;
    }
    if (this.#count === this.#ends.length) this.#makeRoom();
    const place = this.#place(this.#count);
    this.#ends[place] = end;
    this.#holders[place] = holder;
    this.#count += 1;
  }

  /** Null for a number that was granted too long ago, by another process, or not yet. */
  holderOf(number: bigint): string | null {
    if (number < this.#start) return null;
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ends[this.#place(middle)] ?? 0n) > number) high = middle;
      else low = middle + 1;
    }
    return low === this.#count ? null : (this.#nodes[this.#holders[this.#place(low)] ?? 0] ?? null);
  }

  /** A full ring grows, and at its full size forgets its oldest grant. */
  #makeRoom(): void {
    const size = this.#ends.length;
    if (size === KEPT_GRANTS) {
      this.#start = this.#ends[this.#first] ?? this.#start;
      this.#first = this.#place(1);
      this.#count -= 1;
      return;
    }
    // Below its full size nothing was ever forgotten: the oldest is at place 0.
    const ends = new BigUint64Array(2 * size);
    const holders = new Uint16Array(2 * size);
    ends.set(this.#ends);
    holders.set(this.#holders);
    this.#ends = ends;
    this.#holders = holders;
  }

  #place(at: number): number {
    return (this.#first + at) & (this.#ends.length - 1);
  }

  #indexOf(node: string): number {
    const known = this.#nodes.indexOf(node);
    return known < 0 ? this.#nodes.push(node) - 1 : known;
  }
}
