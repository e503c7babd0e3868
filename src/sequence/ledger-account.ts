import { IvList } from "./iv-list.ts";
import { BURNT_REASONS, type BurntReason, type LedgerLine } from "./ledger-record.ts";
import { NumberSet } from "./number-set.ts";

interface Range {
  readonly first: bigint;
  end: bigint;
}

/** Why numbers will not be sent: what the ledger names, and what a restart of the coupling service skips up to its ceiling. */
export type UnusedReason = BurntReason | "serviceStop" | "serviceCrash";

/** What the ledger and the captures say about one SA. The checks are the verifier's. */
export class LedgerAccount {
  readonly line: LedgerLine;
  epoch: bigint;
  /** No number at or above it was granted. */
  next: bigint;
  ceiling: bigint;
  isRetired = false;
  /** Numbers that were seen on the wire. */
  readonly seen = new NumberSet();
  readonly ivs = new IvList();
  /** Of the numbers seen, those that were granted. */
  usedNumbers = 0;
  readonly #granted: Range[] = [];
  readonly #skipped: (Range & { readonly reason: "serviceStop" | "serviceCrash" })[] = [];
  readonly #burnt = new Map<BurntReason, NumberSet>();
  /** The highest number seen, to find the upper half of the next one. */
  #highest: bigint;

  constructor(line: LedgerLine) {
    this.line = line;
    this.epoch = line.epoch;
    this.next = line.first;
    this.ceiling = line.ceiling;
    this.#highest = line.first;
    // Its first life is in another file: nothing is known about the numbers below.
    if (line.origin === "restored") this.#skipped.push({ first: 0n, end: line.first, reason: "serviceCrash" });
  }

  /** Adds a grant that starts at `next`. */
  grant(first: bigint, end: bigint): void {
    const last = this.#granted.at(-1);
    if (last?.end === first) last.end = end;
    else this.#granted.push({ first, end });
    this.next = end;
  }

  /** A process ended; the next one begins at `ceiling`. */
  skip(ceiling: bigint, reason: "serviceStop" | "serviceCrash"): void {
    if (this.next < ceiling) this.#skipped.push({ first: this.next, end: ceiling, reason });
    this.next = ceiling;
    this.ceiling = ceiling;
  }

  /** Gives how many of the numbers were burnt before. */
  burn(first: bigint, end: bigint, reason: BurntReason): number {
    let before = 0;
    for (const [other, numbers] of this.#burnt) {
      if (other === reason) continue;
      for (let number = first; number < end; number++) if (numbers.has(number)) before++;
    }
    const numbers = this.#burnt.get(reason) ?? new NumberSet();
    this.#burnt.set(reason, numbers);
    return before + numbers.addRange(first, end);
  }

  /** True when all of `[first, end)` was granted. */
  wasGranted(first: bigint, end: bigint): boolean {
    const range = rangeOf(this.#granted, first);
    return range !== null && end <= range.end;
  }

  /** How a number came to be sent: granted, perhaps granted without a record, or never. */
  standing(number: bigint): "granted" | "unrecorded" | "outside" {
    if (this.wasGranted(number, number + 1n)) return "granted";
    return rangeOf(this.#skipped, number)?.reason === "serviceCrash" ? "unrecorded" : "outside";
  }

  /** The whole number of which a packet carries the low half: with ESN the one nearest to the highest seen (RFC 4303 §A2). */
  wholeNumber(low: number): bigint {
    const number = this.line.esn ? nearest(this.#highest, BigInt(low)) : BigInt(low);
    if (number > this.#highest) this.#highest = number;
    return number;
  }

  get grantedNumbers(): bigint {
    return total(this.#granted);
  }

  /** Numbers that will not be sent, by reason; those that were seen are not among them. */
  *unused(): Generator<[UnusedReason, bigint]> {
    for (const reason of BURNT_REASONS) {
      const numbers = this.#burnt.get(reason);
      if (numbers !== undefined) yield [reason, BigInt(numbers.size - numbers.common(this.seen))];
    }
    for (const reason of ["serviceStop", "serviceCrash"] as const) {
      // What went before this file is not counted: it is not known where its numbers began.
      const ranges = this.#skipped.filter((range) => range.reason === reason && range.first > 0n);
      if (ranges.length > 0) yield [reason, total(ranges)];
    }
  }
}

/** The last of the ascending ranges that holds `number`. */
function rangeOf<R extends Range>(ranges: readonly R[], number: bigint): R | null {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const range = ranges[middle];
    if (range !== undefined && range.first <= number) low = middle + 1;
    else high = middle;
  }
  const found = ranges[low - 1];
  return found !== undefined && number < found.end ? found : null;
}

function total(ranges: readonly Range[]): bigint {
  return ranges.reduce((sum, { first, end }) => sum + end - first, 0n);
}

function nearest(highest: bigint, low: bigint): bigint {
  const candidate = ((highest >> 32n) << 32n) | low;
  const half = 1n << 31n;
  if (candidate + half < highest) return candidate + (1n << 32n);
  if (candidate > highest + half && candidate >= 1n << 32n) return candidate - (1n << 32n);
  return candidate;
}
