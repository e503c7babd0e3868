import { createCipheriv, createDecipheriv } from "node:crypto";
import { concatBytes } from "../core/bytes.ts";
import { EsplexError, invariant } from "../core/errors.ts";
import type { Secret } from "../core/secret.ts";

/** Tag of AES-GCM-16 (RFC 5282 §3, RFC 4106 §6). */
export const GCM_TAG_BYTES = 16;
/** AES block, and so the IV of CBC. */
export const AES_BLOCK_BYTES = 16;
/** Full nonce of GCM: salt and explicit IV. */
const GCM_NONCE_BYTES = 12;

function cipherName(mode: "gcm" | "cbc", key: Secret): "aes-128-gcm" | "aes-256-gcm" | "aes-128-cbc" | "aes-256-cbc" {
  invariant(key.lengthBytes === 16 || key.lengthBytes === 32, "an AES key has 16 or 32 bytes here");
  const bits = key.lengthBytes === 16 ? 128 : 256;
  return `aes-${bits}-${mode}`;
}

/** Encrypts with AES-GCM; returns ciphertext followed by the 16-byte tag. `nonce` must never repeat under `key`. */
export function gcmSeal(key: Secret, nonce: Uint8Array, aad: Uint8Array, plaintext: Uint8Array): Uint8Array {
  invariant(nonce.length === GCM_NONCE_BYTES, "a GCM nonce has 12 bytes");
  const name = cipherName("gcm", key) as "aes-128-gcm";
  const cipher = createCipheriv(name, key.expose(), nonce, { authTagLength: GCM_TAG_BYTES });
  cipher.setAAD(aad);
  return concatBytes(cipher.update(plaintext), cipher.final(), cipher.getAuthTag());
}

/** Reverses {@link gcmSeal}. Throws `wire.integrity` when the tag is wrong, `wire.short` when there is no room for one. */
export function gcmOpen(key: Secret, nonce: Uint8Array, aad: Uint8Array, sealed: Uint8Array): Uint8Array {
  invariant(nonce.length === GCM_NONCE_BYTES, "a GCM nonce has 12 bytes");
  if (sealed.length < GCM_TAG_BYTES) throw new EsplexError("wire.short", "no room for a GCM tag");
  const name = cipherName("gcm", key) as "aes-128-gcm";
  const decipher = createDecipheriv(name, key.expose(), nonce, { authTagLength: GCM_TAG_BYTES });
  decipher.setAAD(aad);
  decipher.setAuthTag(sealed.subarray(sealed.length - GCM_TAG_BYTES));
  try {
    return concatBytes(decipher.update(sealed.subarray(0, sealed.length - GCM_TAG_BYTES)), decipher.final());
  } catch {
    throw new EsplexError("wire.integrity", "wrong GCM tag");
  }
}

/** Encrypts whole blocks with AES-CBC. The caller pads and authenticates. */
export function cbcEncrypt(key: Secret, iv: Uint8Array, plaintext: Uint8Array): Uint8Array {
  const cipher = createCipheriv(cipherName("cbc", key), key.expose(), iv).setAutoPadding(false);
  return concatBytes(cipher.update(plaintext), cipher.final());
}

/** Decrypts whole blocks; throws `wire.malformed` on a broken block. The caller has checked the integrity tag. */
export function cbcDecrypt(key: Secret, iv: Uint8Array, ciphertext: Uint8Array): Uint8Array {
  if (ciphertext.length % AES_BLOCK_BYTES !== 0)
    throw new EsplexError("wire.malformed", "CBC text is not whole blocks");
  const decipher = createDecipheriv(cipherName("cbc", key), key.expose(), iv).setAutoPadding(false);
  return concatBytes(decipher.update(ciphertext), decipher.final());
}
