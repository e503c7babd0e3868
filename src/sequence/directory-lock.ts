import { type FileHandle, open } from "node:fs/promises";
import { EsplexError, messageOf } from "../core/errors.ts";
import { lockFile } from "./file-lock.ts";

/** Keeps a directory to one process, by a lock on `<directory>/lock` (`file-lock.ts`). */
export class DirectoryLock {
  readonly #file: FileHandle;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Throws `config.invalid` when another process has the directory, `store.failed` when it cannot be locked at all. */
  static async take(directory: string): Promise<DirectoryLock> {
    const path = `${directory}/lock`;
    let file: FileHandle;
    try {
      file = await open(path, "a", 0o600);
    } catch (error) {
      throw new EsplexError("store.failed", `${path}: ${messageOf(error)}`, {}, error);
    }
    try {
      if (!(await lockFile(file, path))) {
        throw new EsplexError("config.invalid", `${directory}: another coupling service uses this directory`);
      }
    } catch (error) {
      await file.close();
      throw error;
    }
    return new DirectoryLock(file);
  }

  async release(): Promise<void> {
    await this.#file.close();
  }
}
