import { timingSafeEqual } from "node:crypto";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256, sha384, sha512 } from "@noble/hashes/sha2.js";
import { invariant } from "../core/errors.ts";
import type { Secret } from "../core/secret.ts";

/** HMAC with a hash of the SHA-2 family (RFC 4868): a PRF at full length, an integrity algorithm at half of it. */
export type HmacName = "hmac-sha2-256" | "hmac-sha2-384" | "hmac-sha2-512";

const HASHES = { "hmac-sha2-256": sha256, "hmac-sha2-384": sha384, "hmac-sha2-512": sha512 } as const;

/** prf+ counts its blocks in one byte (RFC 7296 §2.13). */
const PRF_PLUS_MAX_BLOCKS = 255;

/** Output length of the PRF, which is also its preferred key length (RFC 4868 §2.1.2). */
export function prfBytes(name: HmacName): number {
  return HASHES[name].outputLen;
}

/** Length of the integrity tag: half of the hash (RFC 4868 §2.3). */
export function integrityTagBytes(name: HmacName): number {
  return HASHES[name].outputLen / 2;
}

/** `prf(key, parts joined)`, RFC 7296 §2.13. */
export function prf(name: HmacName, key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
  const mac = hmac.create(HASHES[name], key);
  for (const part of parts) mac.update(part);
  return mac.digest();
}

/** The first `lengthBytes` of `prf+(key, seed)`, RFC 7296 §2.13. The caller owns (and wipes) the result. */
export function prfPlus(name: HmacName, key: Secret, seed: Uint8Array, lengthBytes: number): Uint8Array {
  const blockBytes = prfBytes(name);
  const blocks = Math.ceil(lengthBytes / blockBytes);
  invariant(blocks <= PRF_PLUS_MAX_BLOCKS, `prf+ cannot give ${lengthBytes} bytes`);
  const stream = new Uint8Array(blocks * blockBytes);
  for (let i = 0; i < blocks; i++) {
    const previous = stream.subarray(Math.max(0, i - 1) * blockBytes, i * blockBytes);
    stream.set(prf(name, key.expose(), previous, seed, new Uint8Array([i + 1])), i * blockBytes);
  }
  const result = stream.slice(0, lengthBytes);
  stream.fill(0);
  return result;
}

/** The truncated HMAC of `data`: AUTH_HMAC_SHA2_256_128 and its sisters. */
export function integrityTag(name: HmacName, key: Secret, data: Uint8Array): Uint8Array {
  return prf(name, key.expose(), data).slice(0, integrityTagBytes(name));
}

/** True when `tag` is the integrity tag of `data`; takes the same time whichever byte differs. */
export function verifyIntegrityTag(name: HmacName, key: Secret, data: Uint8Array, tag: Uint8Array): boolean {
  return tag.length === integrityTagBytes(name) && timingSafeEqual(integrityTag(name, key, data), tag);
}
