import { spawn } from "node:child_process";
import { once } from "node:events";
import type { FileHandle } from "node:fs/promises";
import { EsplexError, messageOf } from "../core/errors.ts";

/**
 * Takes the exclusive flock(2) of an open file; false when another process has it. Node has no flock, so flock(1) (util-linux, on
 * every Debian) takes it on our own open file, which it inherits: the lock belongs to the open file, not to the process, so
 * it stays when flock(1) ends and goes when the last holder of the file is gone. The kernel frees it even on SIGKILL;
 * there is no stale lock file, no process id that may be reused, and namespaces do not matter. Throws `store.failed` when the
 * file, named `path` there, cannot be locked at all.
 */
export async function lockFile(file: FileHandle, path: string): Promise<boolean> {
  const status = await flock(file.fd);
  if (status !== 0 && status !== 1)
    throw new EsplexError("store.failed", `${path}: flock failed with exit status ${status ?? "?"}`);
  return status === 0;
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
