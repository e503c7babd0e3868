import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { EsplexError, messageOf } from "../core/errors.ts";

/** Mode bits that others must not have: of a secret any, of what we believe those that let them write. */
const SECRET_MODE = 0o077;
const TRUSTED_MODE = 0o022;

/**
 * Reads a file of at most `maxBytes`: `secret` only for its owner, `trusted` only its owner may write. `what` names it in errors,
 * which never show its content. Throws `config.unreadable` or `config.invalid`. The caller owns (and wipes) the bytes.
 */
export async function readGuarded(
  path: string,
  what: string,
  guard: "secret" | "trusted",
  maxBytes: number,
): Promise<Uint8Array> {
  let file: FileHandle;
  try {
    // O_NONBLOCK: a FIFO must not hold the start up.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw new EsplexError("config.unreadable", `${what}: ${messageOf(error)}`);
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new EsplexError("config.invalid", `${what}: not a regular file`);
    if (guard === "secret" && (stat.mode & SECRET_MODE) !== 0) {
      throw new EsplexError("config.invalid", `${what}: others may read or write it; run: chmod 600 ${path}`);
    }
    if ((stat.mode & TRUSTED_MODE) !== 0) {
      throw new EsplexError("config.invalid", `${what}: others may write it; run: chmod 644 ${path}`);
    }
    return await readAll(file, what, maxBytes);
  } finally {
    await file.close();
  }
}

async function readAll(file: FileHandle, what: string, maxBytes: number): Promise<Uint8Array> {
  // One byte too many tells a file that is too long.
  const buffer = new Uint8Array(maxBytes + 1);
  let read = 0;
  for (;;) {
    const { bytesRead } = await file.read(buffer, read, buffer.length - read);
    read += bytesRead;
    if (bytesRead === 0 || read === buffer.length) break;
  }
  if (read > maxBytes) {
    buffer.fill(0);
    throw new EsplexError("config.invalid", `${what}: more than ${maxBytes} bytes`);
  }
  const bytes = buffer.slice(0, read);
  buffer.fill(0);
  return bytes;
}
