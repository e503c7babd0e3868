import type { Endpoint } from "./events.ts";

/** How many requests are remembered; the newest take the place of others. Our choice: 768 kB. */
const SLOTS = 0x10000;
/** Initiators repeat a request no sooner; by default libreswan after 500 ms, OpenIKED after 2 s, strongSwan after 4 s. Our choice. */
const SOONEST_MS = 400;
/** Who has paused for longer begins anew: strongSwan's longest pause by default is 42 s. Our choice. */
const LATEST_MS = 60_000;
/** Of the 32-bit FNV-1a, and an odd one of MurmurHash3's finalizer. */
const FNV_PRIME = 0x01000193;
const OTHER_FACTOR = 0x85ebca6b;

/**
 * Which IKE_SA_INIT requests come a second time, as those of a real initiator do that has no answer (RFC 7296 §2.1), and hardly
 * those of a flood. Bounded: a table of fixed size that forgets. One passes for another's repetition where 48 bits of hash are the
 * same; it is asked for a cookie then, no more.
 */
export class Repetitions {
  readonly #tags = new Uint32Array(SLOTS);
  readonly #seenMs = new Float64Array(SLOTS).fill(Number.NEGATIVE_INFINITY);
  /** Nobody outside knows which requests share a place. */
  readonly #seed: number;

  constructor(randomBytes: (lengthBytes: number) => Uint8Array) {
    this.#seed = new DataView(randomBytes(4).slice().buffer).getUint32(0);
  }

  /** Takes note of a request; true when it was here before and may be answered: once in `SOONEST_MS`. */
  isRepeated(nowMs: number, remote: Endpoint, spiI: Uint8Array): boolean {
    const { slot, tag } = this.#placeOf(remote, spiI);
    const ageMs = nowMs - (this.#seenMs[slot] ?? 0);
    const isKnown = this.#tags[slot] === tag && ageMs <= LATEST_MS;
    if (isKnown && ageMs < SOONEST_MS) return false;
    this.#tags[slot] = tag;
    this.#seenMs[slot] = nowMs;
    return isKnown;
  }

  /** FNV-1a twice, with its own factor and with one of MurmurHash3: this runs for each packet of a flood. */
  #placeOf({ address, port }: Endpoint, spiI: Uint8Array): { readonly slot: number; readonly tag: number } {
    let slot = this.#seed;
    let tag = ~this.#seed;
    const mix = (value: number): void => {
      slot = Math.imul(slot ^ value, FNV_PRIME);
      tag = Math.imul(tag ^ value, OTHER_FACTOR);
    };
    for (let i = 0; i < address.length; i++) mix(address.charCodeAt(i));
    mix(port & 0xff);
    mix(port >>> 8);
    for (const byte of spiI) mix(byte);
    return { slot: (slot ^ (slot >>> 16)) & (SLOTS - 1), tag: (tag ^ (tag >>> 13)) >>> 0 };
  }
}
