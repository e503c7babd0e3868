/**
 * The ledger: an append-only text of what the coupling service granted and what was given up. One record a line, words
 * parted by one blank, numbers decimal. Records come in blocks; a block ends with `check COUNT CRC`: how many records it
 * has, and the CRC-32 (hex) of their bytes. Ranges are half-open, `-` stands for nothing, `MS` is the wall clock in
 * milliseconds. An SPI of AH is written `ah:SPI`. LINE is a small number that stands for an SA until the next `start`. No keys, and one key per SA: an SA's id
 * names its key. In the file, frequent records are abbreviated (`ledger-abbreviation.ts`). What each kind means for the proof stands in `ledger-verifier.ts`.
 */
import { EsplexError } from "../core/errors.ts";
import type { IpsecProtocol } from "../sa/suite.ts";

/** Why numbers were given up. A first part of the range may have been sent before, unreported: captures tell how much. */
export const BURNT_REASONS = [
  /** The rest of a lease whose node took a later block instead. */
  "replaced",
  /** Given back: the node's kernel can send nothing. */
  "released",
  /** The rest of what an earlier process of the node held. */
  "nodeRestart",
  /** The node went on with an older lease: the grant never reached it. */
  "lostGrant",
  /** The node holds nothing any more, and nobody said where it stopped. */
  "unreported",
  /** The SA ended. */
  "retired",
] as const;

export type BurntReason = (typeof BURNT_REASONS)[number];

/** An SA as the ledger names it. */
export interface LedgerLine {
  readonly line: number;
  readonly atMs: number;
  /** Registered now, or found in the ceiling store when the process began. */
  readonly origin: "opened" | "restored";
  readonly sa: string;
  readonly dvipa: string;
  readonly epoch: bigint;
  /** SPI and destination of its packets; null when the owner did not say. An SPI is one of ESP or of AH (RFC 4301 §4.1). */
  readonly spi: number | null;
  readonly protocol: IpsecProtocol;
  readonly peer: string | null;
  readonly windowPackets: number;
  readonly esn: boolean;
  /** The IV is made from the number: an IV that comes twice breaks the key. */
  readonly counterNonce: boolean;
  /** Nothing below is granted by this process. */
  readonly first: bigint;
  readonly ceiling: bigint;
}

export type LedgerRecord =
  /** A process begins; what an earlier one did not record is lost. */
  | { readonly kind: "start"; readonly atMs: number }
  /** It ended in order: everything is recorded. */
  | { readonly kind: "stop"; readonly atMs: number }
  | { readonly kind: "own"; readonly dvipa: string; readonly epoch: bigint; readonly owner: string }
  | ({ readonly kind: "line" } & LedgerLine)
  /** Carried into a later epoch. */
  | { readonly kind: "epoch"; readonly line: number; readonly epoch: bigint }
  /** Durable: grants may go up to here. */
  | { readonly kind: "ceiling"; readonly line: number; readonly ceiling: bigint }
  | {
      readonly kind: "grant";
      readonly line: number;
      readonly node: string;
      readonly epoch: bigint;
      readonly first: bigint;
      readonly end: bigint;
      readonly atMs: number;
    }
  | {
      readonly kind: "burnt";
      readonly line: number;
      readonly node: string;
      readonly first: bigint;
      readonly end: bigint;
      readonly reason: BurntReason;
    }
  | { readonly kind: "retired"; readonly line: number };

/** One line, without its newline. */
export function encodeLedgerRecord(record: LedgerRecord): string {
  switch (record.kind) {
    case "grant": {
      const { line, node, epoch, first, end, atMs } = record;
      return `grant ${line} ${node} ${epoch} ${first} ${end} ${atMs}`;
    }
    case "burnt":
      return `burnt ${record.line} ${record.node} ${record.first} ${record.end} ${record.reason}`;
    case "ceiling":
      return `ceiling ${record.line} ${record.ceiling}`;
    case "epoch":
      return `epoch ${record.line} ${record.epoch}`;
    case "retired":
      return `retired ${record.line}`;
    case "own":
      return `own ${record.dvipa} ${record.epoch} ${record.owner}`;
    case "start":
    case "stop":
      return `${record.kind} ${record.atMs}`;
    case "line":
      return encodeLine(record);
  }
}

function encodeLine(line: LedgerLine): string {
  const { sa, dvipa, epoch, protocol, peer, windowPackets, esn, counterNonce, first, ceiling } = line;
  const spi = line.spi === null ? "-" : protocol === "ah" ? `${AH_MARK}${line.spi}` : `${line.spi}`;
  const names = `${sa} ${dvipa} ${epoch} ${spi} ${peer ?? "-"}`;
  const traits = `${windowPackets} ${esn ? "esn" : "32bit"} ${counterNonce ? "counter" : "free"}`;
  return `line ${line.line} ${line.atMs} ${line.origin} ${names} ${traits} ${first} ${ceiling}`;
}

/** Reads one line. Throws `store.corrupt`, saying what is wrong; where is the caller's to add. */
export function decodeLedgerRecord(text: string): LedgerRecord {
  const words = new Words(text);
  const record = decodeWords(words);
  words.end();
  return record;
}

function decodeWords(words: Words): LedgerRecord {
  const kind = words.word();
  switch (kind) {
    case "start":
    case "stop":
      return { kind, atMs: words.integer() };
    case "own":
      return { kind, dvipa: words.word(), epoch: words.big(), owner: words.word() };
    case "line":
      return { kind, ...decodeLine(words) };
    case "epoch":
      return { kind, line: words.integer(), epoch: words.big() };
    case "ceiling":
      return { kind, line: words.integer(), ceiling: words.big() };
    case "grant":
      return {
        kind,
        line: words.integer(),
        node: words.word(),
        epoch: words.big(),
        first: words.big(),
        end: words.big(),
        atMs: words.integer(),
      };
    case "burnt":
      return {
        kind,
        line: words.integer(),
        node: words.word(),
        first: words.big(),
        end: words.big(),
        reason: words.oneOf(BURNT_REASONS),
      };
    case "retired":
      return { kind, line: words.integer() };
    default:
      throw malformed(`"${kind.slice(0, 20)}" is no kind of record`);
  }
}

function decodeLine(words: Words): LedgerLine {
  return {
    line: words.integer(),
    atMs: words.integer(),
    origin: words.oneOf(["opened", "restored"] as const),
    sa: words.word(),
    dvipa: words.word(),
    epoch: words.big(),
    ...decodeSpi(words),
    peer: words.unless((text) => text),
    windowPackets: words.integer(),
    esn: words.oneOf(["esn", "32bit"] as const) === "esn",
    counterNonce: words.oneOf(["counter", "free"] as const) === "counter",
    first: words.big(),
    ceiling: words.big(),
  };
}

/** Stands before an SPI of AH. */
const AH_MARK = "ah:";

function decodeSpi(words: Words): Pick<LedgerLine, "spi" | "protocol"> {
  const text = words.unless((word) => word);
  const protocol = text?.startsWith(AH_MARK) === true ? "ah" : "esp";
  return { spi: text === null ? null : integer(protocol === "ah" ? text.slice(AH_MARK.length) : text), protocol };
}

/** The words of a line, read one after the other. */
class Words {
  readonly #words: readonly string[];
  #next = 0;

  constructor(text: string) {
    this.#words = text.split(" ");
  }

  word(): string {
    const word = this.#words[this.#next++];
    if (word === undefined || word === "") throw malformed("a word is missing");
    return word;
  }

  integer(): number {
    return integer(this.word());
  }

  big(): bigint {
    const word = this.word();
    if (!/^\d{1,20}$/.test(word)) throw malformed(`"${word.slice(0, 30)}" is no number`);
    return BigInt(word);
  }

  unless<T>(read: (text: string) => T): T | null {
    const word = this.word();
    return word === "-" ? null : read(word);
  }

  oneOf<T extends string>(known: readonly T[]): T {
    const word = this.word();
    const found = known.find((one) => one === word);
    if (found === undefined) throw malformed(`"${word.slice(0, 30)}" is none of ${known.join(", ")}`);
    return found;
  }

  end(): void {
    if (this.#next < this.#words.length) throw malformed("too many words");
  }
}

function integer(word: string): number {
  const value = /^\d{1,16}$/.test(word) ? Number(word) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw malformed(`"${word.slice(0, 30)}" is no number`);
  return value;
}

function malformed(why: string): EsplexError {
  return new EsplexError("store.corrupt", why);
}
