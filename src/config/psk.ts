import { dirname, resolve } from "node:path";
import { EsplexError } from "../core/errors.ts";
import { Secret } from "../core/secret.ts";
import { readGuarded } from "./private-file.ts";

const MAX_PSK_BYTES = 1024;
const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;

/** A peer with a pre-shared key. */
interface PskPeer {
  readonly name: string;
  readonly psk: { readonly file: string };
}

/**
 * Reads a peer's pre-shared key; its path is relative to the cluster file. One newline at the end is not part of it.
 * Throws `config.unreadable` or `config.invalid` naming file and peer: never its content.
 */
export async function readPsk(peer: PskPeer, clusterFilePath: string): Promise<Secret> {
  const path = resolve(dirname(clusterFilePath), peer.psk.file);
  const what = `peer ${peer.name}: psk.file ${path}`;
  // Room for CR LF and one byte too many.
  const content = await readGuarded(path, what, "secret", MAX_PSK_BYTES + 3);
  let { length } = content;
  if (content[length - 1] === NEWLINE) length -= content[length - 2] === CARRIAGE_RETURN ? 2 : 1;
  if (length < 1 || length > MAX_PSK_BYTES) {
    content.fill(0);
    throw new EsplexError(
      "config.invalid",
      `${what}: a key has 1 to ${MAX_PSK_BYTES} bytes, found ${length > MAX_PSK_BYTES ? "more" : length}`,
    );
  }
  const key = content.slice(0, length);
  content.fill(0);
  return new Secret(key);
}
