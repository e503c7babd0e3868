import { spawn } from "node:child_process";
import { once } from "node:events";
import { type FileHandle, open } from "node:fs/promises";
import { EsplexError, messageOf } from "../core/errors.ts";

/**
 * Keeps a directory to one process, by flock(2) on `<directory>/lock`. Node has no flock, so flock(1) (util-linux, on every
 * Debian) takes it on our own open file, which it inherits: the lock belongs to the open file, not to the process, so it
 * stays when flock(1) ends and goes when the last holder of the file is gone. The kernel frees it even on SIGKILL;
 * there is no stale lock file, no process id that may be reused, and namespaces do not matter.
 */
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
      const status = await flock(file.fd);
      if (status === 1) {
        throw new EsplexError("config.invalid", `${directory}: another coupling service uses this directory`);
      }
      if (status !== 0)
        throw new EsplexError("store.failed", `${path}: flock failed with exit status ${status ?? "?"}`);
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

/** Exit status of flock(1): 0 locked, 1 somebody else has it. */
async function flock(fd: number): Promise<number | null> {
  const child = spawn("flock", ["--exclusive", "--nonblock", "3"], { stdio: ["ignore", "ignore", "ignore", fd] });
  try {
    const [status] = (await once(child, "close")) as [number | null];
    return status;
  } catch (error) {
    throw new EsplexError("store.failed", `flock (package util-linux) cannot run: ${messageOf(error)}`, {}, error);
  }
}
