import { createCipheriv, createHash } from "node:crypto";
import { open } from "node:fs/promises";

/** Largest stream the application serves, bytes: our choice, far above what a test asks for. */
export const MAX_STREAM_BYTES = 1 << 30;

const CHUNK_BYTES = 1 << 16;

/**
 * `bytes` pseudo-random bytes that belong to `seed` (a node's name): AES-128-CTR over zeros, keyed by the seed's hash.
 * Both ends can compute them, so a checksum tells which node sent a download and whether it arrived whole.
 */
export function* streamChunks(seed: string, bytes: number): Generator<Buffer, void, undefined> {
  const key = createHash("sha256").update(seed).digest().subarray(0, 16);
  const cipher = createCipheriv("aes-128-ctr", key, Buffer.alloc(16));
  for (let left = bytes; left > 0; left -= CHUNK_BYTES) {
    yield cipher.update(Buffer.alloc(Math.min(left, CHUNK_BYTES)));
  }
}

/** SHA-256 (hex) of what `streamChunks(seed, bytes)` yields. */
export function streamDigest(seed: string, bytes: number): string {
  const hash = createHash("sha256");
  for (const chunk of streamChunks(seed, bytes)) hash.update(chunk);
  return hash.digest("hex");
}

/** Writes the stream into a new file, for an upload. */
export async function writeStreamFile(path: string, seed: string, bytes: number): Promise<void> {
  const file = await open(path, "w", 0o600);
  try {
    for (const chunk of streamChunks(seed, bytes)) await file.writeFile(chunk);
  } finally {
    await file.close();
  }
}
