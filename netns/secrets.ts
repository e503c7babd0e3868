import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";

/** Entropy of the lab's pre-shared key: that of the strongest PRF in use (RFC 7296 §2.15). */
const PSK_BYTES = 32;

/** A fresh pre-shared key (its characters, not what they encode), also written to `path` for its owner alone. */
export async function createPsk(path: string): Promise<string> {
  const text = randomBytes(PSK_BYTES).toString("hex");
  await writeFile(path, text, { mode: 0o600 });
  return text;
}
