import { type FileHandle, open } from "node:fs/promises";
import type { Counters } from "../../core/counters.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { lockFile } from "../../sequence/file-lock.ts";
import { LedgerAbbreviation } from "../../sequence/ledger-abbreviation.ts";
import { LEDGER_MAGIC, MAX_BLOCK_BYTES, encodeLedgerBlock, endOfLastBlock } from "../../sequence/ledger-block.ts";

/** Records wait this long for others to share a write with them. What a SIGKILL may take. Our choice. */
const GATHER_MS = 5;
/** Records in one block. */
const MAX_BLOCK_RECORDS = 20_000;
/** Records that may wait for a slow disk, about 60 bytes each; then the ledger has failed. */
const MAX_WAITING_RECORDS = 1_000_000;

/** What the coupling service needs of a ledger's file. */
export interface LedgerSink {
  /** Takes a record's text; it is in memory when this returns, and in the file within milliseconds. */
  append(record: string): void;
  /** Why records are lost; null while all is well. */
  readonly failure: string | null;
}

/**
 * The ledger's file: blocks of records are appended, one write for all that came meanwhile. A failed write ends the ledger,
 * not the granting: the ledger is the evidence, what keeps numbers apart are the ceilings. It is logged, `failure` says so, and
 * `ledger.lostRecords` counts what is missing. Writes are handed to the kernel, and synced when the file is closed: a killed
 * process loses milliseconds, a power cut what the kernel had not written yet. The file is locked while it is open: records of two
 * services in one file would prove nothing.
 */
export class LedgerFile implements LedgerSink {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #counters: Counters;
  readonly #log: Log;
  readonly #abbreviation = new LedgerAbbreviation();
  #waiting: string[] = [];
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> | null = null;
  #failure: string | null = null;
  #isClosed = false;

  private constructor(path: string, file: FileHandle, counters: Counters, log: Log) {
    this.#path = path;
    this.#file = file;
    this.#counters = counters;
    this.#log = log;
  }

  /**
   * Opens (and makes) the ledger and cuts a block off that was being written when a process died. Throws `store.corrupt` when it
   * is damaged elsewhere, `store.failed` when the disk refuses, `config.invalid` when another process writes it.
   */
  static async open(path: string, counters: Counters, log: Log): Promise<LedgerFile> {
    let file: FileHandle;
    try {
      file = await open(path, "a+", 0o600);
    } catch (error) {
      throw new EsplexError("store.failed", `the ledger ${path} cannot be opened: ${messageOf(error)}`, {}, error);
    }
    try {
      // First: the end of a ledger that somebody writes looks torn.
      if (!(await lockFile(file, path))) throw alreadyWritten(path);
      const torn = await cutTornEnd(path, file);
      if (torn > 0) log.warn("the ledger ended in the middle of a block, which was cut off", { path, bytes: torn });
      return new LedgerFile(path, file, counters, log);
    } catch (error) {
      await file.close();
      if (error instanceof EsplexError) throw error;
      throw new EsplexError("store.failed", `the ledger ${path} failed: ${messageOf(error)}`, {}, error);
    }
  }

  get failure(): string | null {
    return this.#failure;
  }

  append(record: string): void {
    if (this.#failure !== null || this.#isClosed) {
      this.#counters.add("ledger.lostRecords");
      return;
    }
    this.#waiting.push(record);
    if (this.#waiting.length > MAX_WAITING_RECORDS) this.#fail("the disk is too slow");
    else if (this.#writing === null) this.#gather();
  }

  /** Writes what is left, also what still comes meanwhile, and closes the file. Later records are lost, and counted. */
  async close(): Promise<void> {
    do await this.#flush();
    while (this.#waiting.length > 0);
    this.#isClosed = true;
    try {
      if (this.#failure === null) await this.#file.datasync();
    } catch (error) {
      this.#fail(messageOf(error));
    }
    await this.#file.close();
  }

  #gather(): void {
    this.#timer ??= setTimeout(() => void this.#flush(), GATHER_MS);
  }

  /** Writes what waits; never rejects. */
  #flush(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = null;
      // What came after the last look of the writing found nobody to wake.
      if (this.#waiting.length > 0) this.#gather();
    });
    return this.#writing;
  }

  async #writeAll(): Promise<void> {
    while (this.#waiting.length > 0 && this.#failure === null) {
      const records = this.#waiting.splice(0, MAX_BLOCK_RECORDS);
      const block = encodeLedgerBlock(records, this.#abbreviation);
      try {
        let written = 0;
        while (written < block.length) written += (await this.#file.write(block, written)).bytesWritten;
      } catch (error) {
        this.#counters.add("ledger.lostRecords", records.length);
        this.#fail(messageOf(error));
      }
    }
  }

  #fail(why: string): void {
    if (this.#failure !== null) return;
    this.#failure = `the ledger ${this.#path} failed: ${why}`;
    this.#counters.add("ledger.lostRecords", this.#waiting.length);
    this.#waiting = [];
    this.#log.error("the ledger is not written any more; numbers are still granted", { reason: this.#failure });
  }
}

function alreadyWritten(path: string): EsplexError {
  return new EsplexError(
    "config.invalid",
    `the ledger ${path}: another coupling service writes it: stop that one, or give this one a file of its own (--ledger FILE)`,
  );
}

/** Cuts off what follows the last check line; gives how many bytes that were. */
async function cutTornEnd(path: string, file: FileHandle): Promise<number> {
  const { size } = await file.stat();
  const start = Buffer.alloc(Math.min(size, LEDGER_MAGIC.length));
  await file.read(start, 0, start.length, 0);
  if (!LEDGER_MAGIC.startsWith(start.toString("latin1"))) {
    throw new EsplexError("config.invalid", `${path} is no ledger: move it away, or name another file`);
  }
  const from = Math.max(0, size - MAX_BLOCK_BYTES);
  const tail = Buffer.alloc(size - from);
  await file.read(tail, 0, tail.length, from);
  const wholeBytes = endOfLastBlock(tail);
  if (wholeBytes === null && from > 0) {
    throw new EsplexError(
      "store.corrupt",
      `${path}: its end is damaged: move it away, and keep it for "ledger verify"`,
    );
  }
  const keptBytes = from + (wholeBytes ?? 0);
  if (keptBytes < size) {
    await file.truncate(keptBytes);
    await file.datasync();
  }
  return size - keptBytes;
}
