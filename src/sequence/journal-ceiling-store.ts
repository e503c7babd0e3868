import { type FileHandle, mkdir, open, readFile, rename } from "node:fs/promises";
import { EsplexError, messageOf } from "../core/errors.ts";
import type { CeilingStore, StoredSequence, StoredState } from "./ceiling-store.ts";
import { DirectoryLock } from "./directory-lock.ts";
import { type Change, encodeRecord, readJournal } from "./journal-record.ts";
import { StoredValues } from "./stored-values.ts";

const JOURNAL = "journal";
const NEW_JOURNAL = "journal.new";
/** A journal this long is rewritten, when that makes it at least `COMPACT_RATIO` times shorter. Our choice. */
const COMPACT_BYTES = 4 * 1024 * 1024;
const COMPACT_RATIO = 4;
/** What one change takes in a journal, roughly. */
const CHANGE_BYTES = 220;
/** Changes in one record of a rewritten journal. */
const CHANGES_A_RECORD = 1000;

interface Queued {
  readonly change: Change;
  readonly resolve: () => void;
  readonly reject: (error: EsplexError) => void;
}

/**
 * A `CeilingStore` in one directory: an append-only journal. All changes that come while a write is under way go into the
 * next record: one write and one fdatasync for all of them. After a failed write it stays failed: a second fdatasync may
 * report success for data that the first one lost.
 */
export class JournalCeilingStore implements CeilingStore {
  readonly #directory: string;
  readonly #lock: DirectoryLock;
  readonly #initial: StoredState;
  readonly #values: StoredValues;
  readonly #compactBytes: number;
  #file: FileHandle;
  #lengthBytes: number;
  #queue: Queued[] = [];
  #writing: Promise<void> | null = null;
  #failure: EsplexError | null = null;

  private constructor(
    directory: string,
    lock: DirectoryLock,
    opened: { file: FileHandle; values: StoredValues; lengthBytes: number },
    compactBytes: number,
  ) {
    this.#directory = directory;
    this.#lock = lock;
    this.#file = opened.file;
    this.#values = opened.values;
    this.#lengthBytes = opened.lengthBytes;
    this.#initial = opened.values.state();
    this.#compactBytes = compactBytes;
  }

  /**
   * Opens (and creates) the store in `directory`. Throws `config.invalid` when another process uses it, `store.corrupt` when the
   * journal is damaged, `store.failed` when the disk refuses.
   */
  static async open(directory: string, compactBytes = COMPACT_BYTES): Promise<JournalCeilingStore> {
    try {
      await mkdir(directory, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw failed(directory, error);
    }
    const lock = await DirectoryLock.take(directory);
    try {
      return new JournalCeilingStore(directory, lock, await openJournal(directory), compactBytes);
    } catch (error) {
      await lock.release();
      throw error instanceof EsplexError ? error : failed(directory, error);
    }
  }

  initial(): StoredState {
    return this.#initial;
  }

  put(sequence: StoredSequence, from: bigint | null): Promise<void> {
    const found = this.#values.ceiling(sequence.sa);
    if (found !== from) return Promise.reject(mismatch(`ceiling of ${sequence.sa}`, from, found));
    return this.#append({ kind: "put", sequence });
  }

  raise(sa: string, from: bigint, to: bigint): Promise<void> {
    const found = this.#values.ceiling(sa);
    // Retired meanwhile: nothing to keep.
    if (found === null) return Promise.resolve();
    if (found !== from) return Promise.reject(mismatch(`ceiling of ${sa}`, from, found));
    return this.#append({ kind: "raise", sa, from, to });
  }

  retire(sa: string): Promise<void> {
    return this.#append({ kind: "retire", sa });
  }

  own(dvipa: string, from: bigint, to: bigint, owner: string): Promise<void> {
    const found = this.#values.epoch(dvipa);
    if (found !== from) return Promise.reject(mismatch(`epoch of ${dvipa}`, from, found));
    return this.#append({ kind: "own", owner: { dvipa, epoch: to, owner } });
  }

  async close(): Promise<void> {
    this.#failure ??= new EsplexError("store.failed", "the ceiling store is closed");
    await this.#writing;
    await this.#file.close();
    await this.#lock.release();
  }

  #append(change: Change): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#values.apply(change);
      this.#queue.push({ change, resolve, reject });
      this.#writing ??= this.#writeAll();
    });
  }

  /** Writes record after record until nothing waits. Never rejects: failures go to those who wait. */
  async #writeAll(): Promise<void> {
    // Changes of the same turn of the event loop share the first record.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const batch = this.#queue;
      this.#queue = [];
      try {
        await this.#write(encodeRecord(batch.map(({ change }) => change)));
      } catch (error) {
        this.#failure = failed(this.#directory, error);
        const failure = this.#failure;
        for (const { reject } of [...batch, ...this.#queue]) reject(failure);
        this.#queue = [];
        break;
      }
      for (const { resolve } of batch) resolve();
    }
    this.#writing = null;
  }

  async #write(record: Buffer): Promise<void> {
    if (
      this.#lengthBytes > this.#compactBytes &&
      this.#lengthBytes > COMPACT_RATIO * CHANGE_BYTES * this.#values.size
    ) {
      // The values already hold the batch, so the new journal makes it durable.
      return this.#compact();
    }
    await writeWhole(this.#file, record);
    await this.#file.datasync();
    this.#lengthBytes += record.length;
  }

  async #compact(): Promise<void> {
    const written = await writeJournal(this.#directory, this.#values);
    const old = this.#file;
    this.#file = written.file;
    this.#lengthBytes = written.lengthBytes;
    await old.close();
  }
}

async function openJournal(
  directory: string,
): Promise<{ file: FileHandle; values: StoredValues; lengthBytes: number }> {
  const path = `${directory}/${JOURNAL}`;
  const values = new StoredValues();
  const bytes = await readIfThere(path);
  if (bytes === null) return { ...(await writeJournal(directory, values)), values };
  const { changes, wholeBytes } = readJournal(bytes, path);
  for (const change of changes) values.apply(change);
  const file = await open(path, "a");
  if (wholeBytes < bytes.length) await file.truncate(wholeBytes);
  // Also what an earlier process wrote and could not sync must be on the disk before anything is granted on it.
  await file.sync();
  return { file, values, lengthBytes: wholeBytes };
}

/** Writes a whole journal beside the old one and puts it in its place; durable when it resolves. */
async function writeJournal(
  directory: string,
  values: StoredValues,
): Promise<{ file: FileHandle; lengthBytes: number }> {
  const file = await open(`${directory}/${NEW_JOURNAL}`, "w", 0o600);
  const changes = values.changes();
  let lengthBytes = 0;
  for (let i = 0; i < changes.length; i += CHANGES_A_RECORD) {
    const record = encodeRecord(changes.slice(i, i + CHANGES_A_RECORD));
    await writeWhole(file, record);
    lengthBytes += record.length;
  }
  await file.sync();
  await rename(`${directory}/${NEW_JOURNAL}`, `${directory}/${JOURNAL}`);
  const parent = await open(directory, "r");
  try {
    await parent.sync();
  } finally {
    await parent.close();
  }
  return { file, lengthBytes };
}

async function writeWhole(file: FileHandle, bytes: Buffer): Promise<void> {
  let written = 0;
  while (written < bytes.length) written += (await file.write(bytes, written)).bytesWritten;
}

async function readIfThere(path: string): Promise<Buffer | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

function failed(directory: string, error: unknown): EsplexError {
  return new EsplexError("store.failed", `the ceiling store in ${directory} failed: ${messageOf(error)}`, {}, error);
}

function mismatch(what: string, expected: bigint | null, found: bigint | null): EsplexError {
  const text = (value: bigint | null): string => value?.toString() ?? "nothing";
  return new EsplexError("store.corrupt", `${what}: expected ${text(expected)}, the store has ${text(found)}`);
}
