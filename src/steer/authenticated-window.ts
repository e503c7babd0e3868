import type { ReceivedNumbers } from "../sa/received-numbers.ts";

/** Numbers that fit a JavaScript number exactly; an SA does not get there. */
const TOP_MAX = Number.MAX_SAFE_INTEGER;
const WORD_BITS = 32;
const LOW_RANGE = 2 ** 32;

/** `replayed`: some node has authenticated this number. `tooOld`: it lies left of the window (RFC 4303 §3.4.3). */
export type ReplayVerdict = "fresh" | "replayed" | "tooOld";

/**
 * The distributor's replay window of an inbound SA: the union of what the nodes have authenticated. Packets only ask; nothing
 * moves it but a node's report, for nobody has checked the packet's ICV here (RFC 4303 §3.4.3, R15, C8, C9).
 */
export class AuthenticatedWindow {
  readonly #windowPackets: number;
  readonly #esn: boolean;
  /** Of the number n in bit n modulo the window's size, for the numbers of the window. */
  readonly #seen: Uint32Array;
  #top = 0;

  /** `windowPackets` is rounded up to whole words. */
  constructor(windowPackets: number, esn: boolean) {
    const words = Math.max(1, Math.ceil(windowPackets / WORD_BITS));
    this.#windowPackets = words * WORD_BITS;
    this.#seen = new Uint32Array(words);
    this.#esn = esn;
  }

  /** The highest number that a node has authenticated; 0 before the first. */
  get highest(): number {
    return this.#top;
  }

  /** The window as a kernel would report it that has received everything. */
  received(): ReceivedNumbers {
    const bits = new Uint8Array(this.#windowPackets / 8);
    for (let offset = 0; offset < Math.min(this.#windowPackets, this.#top); offset++) {
      if (this.#has(this.#top - offset)) bits[offset >> 3] = (bits[offset >> 3] ?? 0) | (1 << (offset & 7));
    }
    return { highest: BigInt(this.#top), bits };
  }

  /** The lowest number that is not too old. */
  get bottom(): number {
    return Math.max(1, this.#top - this.#windowPackets + 1);
  }

  /** Adds what a node has authenticated. Repeated and old reports change nothing. */
  add({ highest, bits }: ReceivedNumbers): void {
    if (highest <= 0n || highest > BigInt(TOP_MAX)) return;
    const newest = Number(highest);
    this.#advanceTo(newest);
    const first = this.#top - this.#windowPackets;
    for (let offset = 0; offset < bits.length * 8; offset++) {
      const number = newest - offset;
      if (number <= 0 || number <= first) return;
      if (((bits[offset >> 3] ?? 0) & (1 << (offset & 7))) !== 0) this.#mark(number);
    }
  }

  /** About the 32 bits of a sequence number that travel in a packet. */
  check(sequence: number): ReplayVerdict {
    const number = this.numberOf(sequence);
    if (number > this.#top) return "fresh";
    if (number <= 0 || number <= this.#top - this.#windowPackets) return "tooOld";
    return this.#has(number) ? "replayed" : "fresh";
  }

  /**
   * The whole number of which these are the low 32 bits: with ESN the one that lies in the window, or else the next one above
   * it (RFC 4303 appendix A2.2).
   */
  numberOf(sequence: number): number {
    if (!this.#esn) return sequence;
    const highPart = Math.floor(this.#top / LOW_RANGE);
    const number = highPart * LOW_RANGE + sequence;
    const bottom = this.#top - this.#windowPackets + 1;
    if (number < bottom) return number + LOW_RANGE;
    return number >= bottom + LOW_RANGE ? number - LOW_RANGE : number;
  }

  #advanceTo(top: number): void {
    if (top <= this.#top) return;
    if (top - this.#top >= this.#windowPackets) this.#seen.fill(0);
    else for (let number = this.#top + 1; number <= top; number++) this.#clear(number);
    this.#top = top;
  }

  #has(number: number): boolean {
    const at = number % this.#windowPackets;
    return ((this.#seen[at >> 5] ?? 0) & (1 << (at & 31))) !== 0;
  }

  #mark(number: number): void {
    const at = number % this.#windowPackets;
    this.#seen[at >> 5] = (this.#seen[at >> 5] ?? 0) | (1 << (at & 31));
  }

  #clear(number: number): void {
    const at = number % this.#windowPackets;
    this.#seen[at >> 5] = (this.#seen[at >> 5] ?? 0) & ~(1 << (at & 31));
  }
}
