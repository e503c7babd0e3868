import { toHex } from "../core/bytes.ts";

/** Ids that one connection remembers. Our choice: more only means that some are converted again. */
const SLOTS = 1024;
/** Bytes of an SA's id; its text has two hex digits for each. */
export const SA_ID_BYTES = 16;

const SA_ID = /^[0-9a-f]{32}$/;
/** Hex digits at the end of an id that choose its slot: 12 bits, of which `SLOTS` leaves ten. */
const SLOT_DIGITS = 3;

/** An SA's id as text and as four big-endian words. */
export interface SaId {
  readonly text: string;
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly d: number;
}

/**
 * Converts ids of SAs between text and bytes, and remembers the last one of each slot: the hot message names the same few SAs
 * again and again, and a text that is the same object is found faster in every map behind the bus. What a peer sends can push
 * others out, nothing else.
 */
export class SaIdCache {
  readonly #slots: (SaId | undefined)[] = Array.from({ length: SLOTS });

  /** The text of the id at `offset`; the caller has checked that `SA_ID_BYTES` bytes are there. */
  read(view: DataView, offset: number): string {
    const a = view.getUint32(offset);
    const b = view.getUint32(offset + 4);
    const c = view.getUint32(offset + 8);
    const d = view.getUint32(offset + 12);
    const slot = d % SLOTS;
    const known = this.#slots[slot];
    if (known?.d === d && known.c === c && known.b === b && known.a === a) return known.text;
    const text = toHex(new Uint8Array(view.buffer, view.byteOffset + offset, SA_ID_BYTES));
    this.#slots[slot] = { text, a, b, c, d };
    return text;
  }

  /** The words of an id; null when `text` is none. */
  find(text: string): SaId | null {
    const slot = slotOf(text);
    const known = this.#slots[slot];
    if (known?.text === text) return known;
    if (!SA_ID.test(text)) return null;
    const word = (index: number): number => Number.parseInt(text.slice(8 * index, 8 * index + 8), 16);
    const id = { text, a: word(0), b: word(1), c: word(2), d: word(3) };
    this.#slots[slot] = id;
    return id;
  }
}

/** Writes the id's bytes at `offset`. */
export function writeSaId(view: DataView, offset: number, { a, b, c, d }: SaId): void {
  view.setUint32(offset, a);
  view.setUint32(offset + 4, b);
  view.setUint32(offset + 8, c);
  view.setUint32(offset + 12, d);
}

/** The slot that `read` uses for the same id; any slot for what is no id. */
function slotOf(text: string): number {
  let bits = 0;
  for (let i = text.length - SLOT_DIGITS; i < text.length; i++) {
    const code = text.charCodeAt(i);
    // "0" to "9" are 0x30 to 0x39, "a" to "f" 0x61 to 0x66.
    bits = 16 * bits + (code & 15) + (code > 0x60 ? 9 : 0);
  }
  return bits % SLOTS;
}
