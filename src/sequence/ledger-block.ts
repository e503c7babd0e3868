import { crc32 } from "node:zlib";
import { EsplexError, messageOf } from "../core/errors.ts";
import { LedgerAbbreviation } from "./ledger-abbreviation.ts";
import { type LedgerRecord, decodeLedgerRecord } from "./ledger-record.ts";

const CHECK = /^check (\d{1,9}) ([0-9a-f]{8})$/;
/** Longer lines are no records: the longest is a `line` with two IPv6 addresses, below 300 bytes. */
const MAX_LINE_BYTES = 1024;
/** No block is longer, and so no torn end: 20,000 records of the longest kind fit. Our choice. */
export const MAX_BLOCK_BYTES = 16 * 1024 * 1024;

/**
 * The bytes of a block: its records (`encodeLedgerRecord`), one a line, and the check line that ends it. A writer of several blocks
 * gives the same `abbreviation` for all of them, in order.
 */
export function encodeLedgerBlock(records: readonly string[], abbreviation = new LedgerAbbreviation()): Buffer {
  const body = `${records.map((record) => abbreviation.shorten(record)).join("\n")}\n`;
  return Buffer.from(`${body}check ${records.length} ${crc32(body).toString(16).padStart(8, "0")}\n`);
}

/** A ledger begins with these bytes. */
export const LEDGER_MAGIC = "start ";

/** Where the last check line in `tail` ends; null when it has none. */
export function endOfLastBlock(tail: Buffer): number | null {
  let end = tail.lastIndexOf(0x0a);
  while (end >= 0) {
    const start = end === 0 ? 0 : tail.lastIndexOf(0x0a, end - 1) + 1;
    if (CHECK.test(tail.toString("latin1", start, end))) return end + 1;
    end = start - 1;
  }
  return null;
}

/** What a reader does with records, and with the number of the line on which each stands, from 1. */
export type TakeRecord = (record: LedgerRecord, lineNumber: number) => void;

/**
 * Reads a ledger in pieces. A block is handed on once its check line was read. What follows the last check line is a
 * block that was being written when the process died: it is left out, and `tornBytes` says how long it is. Any other damage
 * throws `store.corrupt` with the number of the line.
 */
export class LedgerReader {
  readonly #name: string;
  readonly #take: TakeRecord;
  readonly #abbreviation = new LedgerAbbreviation();
  #rest: Buffer = Buffer.alloc(0);
  #lineNumber = 0;
  #block: string[] = [];
  #blockLine = 1;
  #blockBytes = 0;
  #crc = 0;

  /** `name` stands in errors. */
  constructor(name: string, take: TakeRecord) {
    this.#name = name;
    this.#take = take;
  }

  /** Bytes of the block that has no end (yet). */
  get tornBytes(): number {
    return this.#blockBytes + this.#rest.length;
  }

  push(bytes: Buffer): void {
    const buffer = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    let start = 0;
    for (;;) {
      const newline = buffer.indexOf(0x0a, start);
      if (newline < 0) break;
      this.#line(buffer.subarray(start, newline + 1));
      start = newline + 1;
    }
    // A copy: the caller may use its buffer again.
    this.#rest = Buffer.from(buffer.subarray(start));
    if (this.#rest.length > MAX_LINE_BYTES && !this.#rest.includes(0)) {
      throw this.#corrupt(this.#lineNumber + 1, "the line is too long");
    }
    if (this.tornBytes > MAX_BLOCK_BYTES) throw this.#corrupt(this.#blockLine, "the block that begins here has no end");
  }

  #line(bytes: Buffer): void {
    this.#lineNumber++;
    const text = bytes.toString("latin1", 0, bytes.length - 1);
    const check = CHECK.exec(text);
    if (check === null) {
      this.#block.push(text);
      this.#blockBytes += bytes.length;
      this.#crc = crc32(bytes, this.#crc);
      return;
    }
    const [, count, crc = ""] = check;
    if (Number(count) !== this.#block.length || Number.parseInt(crc, 16) !== this.#crc) {
      throw this.#corrupt(this.#blockLine, `damaged between here and line ${this.#lineNumber}: its check does not fit`);
    }
    for (const [index, record] of this.#block.entries()) this.#record(record, this.#blockLine + index);
    this.#block = [];
    this.#blockLine = this.#lineNumber + 1;
    this.#blockBytes = 0;
    this.#crc = 0;
  }

  #record(text: string, lineNumber: number): void {
    let record: LedgerRecord;
    try {
      record = decodeLedgerRecord(this.#abbreviation.expand(text));
    } catch (error) {
      throw this.#corrupt(lineNumber, messageOf(error));
    }
    this.#take(record, lineNumber);
  }

  #corrupt(lineNumber: number, why: string): EsplexError {
    return new EsplexError("store.corrupt", `${this.#name}, line ${lineNumber}: ${why}`);
  }
}
