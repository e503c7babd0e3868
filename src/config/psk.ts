import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { EsplexError, messageOf } from "../core/errors.ts";
import { Secret } from "../core/secret.ts";
import type { PeerConfig } from "./cluster-schema.ts";

const MAX_PSK_BYTES = 1024;
const OTHERS_MODE = 0o077;
const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;

/**
 * Reads a peer's pre-shared key; its path is relative to the cluster file. One newline at the end is not part of it.
 * Throws `config.unreadable` or `config.invalid` naming file and peer: never its content.
 */
export async function readPsk(peer: PeerConfig, clusterFilePath: string): Promise<Secret> {
  const path = resolve(dirname(clusterFilePath), peer.psk.file);
  const what = `peer ${peer.name}: psk.file ${path}`;
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
    if ((stat.mode & OTHERS_MODE) !== 0) {
      throw new EsplexError("config.invalid", `${what}: others may read or write it; run: chmod 600 ${path}`);
    }
    return new Secret(await readKey(file, what));
  } finally {
    await file.close();
  }
}

async function readKey(file: FileHandle, what: string): Promise<Uint8Array> {
  // Room for CR LF and one byte too many.
  const buffer = new Uint8Array(MAX_PSK_BYTES + 3);
  let read = 0;
  for (;;) {
    const { bytesRead } = await file.read(buffer, read, buffer.length - read);
    read += bytesRead;
    if (bytesRead === 0 || read === buffer.length) break;
  }
  let length = read;
  if (buffer[length - 1] === NEWLINE) length -= buffer[length - 2] === CARRIAGE_RETURN ? 2 : 1;
  if (length < 1 || length > MAX_PSK_BYTES) {
    throw new EsplexError(
      "config.invalid",
      `${what}: a key has 1 to ${MAX_PSK_BYTES} bytes, found ${length > MAX_PSK_BYTES ? "more" : length}`,
    );
  }
  const key = buffer.slice(0, length);
  buffer.fill(0);
  return key;
}
