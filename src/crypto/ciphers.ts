import { createCipheriv, createDecipheriv } from "node:crypto";
import { concatBytes } from "../core/bytes.ts";
import { EsplexError, invariant } from "../core/errors.ts";
import type { Secret } from "../core/secret.ts";

/** Tag of both AEADs (RFC 5282 §3, RFC 4106 §6, RFC 7634 §3). */
export const AEAD_TAG_BYTES = 16;
/** AES block, and so the IV of CBC. */
export const AES_BLOCK_BYTES = 16;
/** Full nonce of both: salt and explicit IV. */
const AEAD_NONCE_BYTES = 12;
/** RFC 7634 §1.1. */
const CHACHA20_KEY_BYTES = 32;

/** AEADs that encrypt IKE messages. */
export type AeadName = "aes-gcm-16" | "chacha20-poly1305";

function aesBits(key: Secret): 128 | 256 {
  invariant(key.lengthBytes === 16 || key.lengthBytes === 32, "an AES key has 16 or 32 bytes here");
  return key.lengthBytes === 16 ? 128 : 256;
}

/** As OpenSSL calls it. Its types know only names of one AEAD at a time; all of them take the same calls. */
function aeadCipherName(name: AeadName, key: Secret): "chacha20-poly1305" {
  if (name === "aes-gcm-16") return `aes-${aesBits(key)}-gcm` as "chacha20-poly1305";
  invariant(key.lengthBytes === CHACHA20_KEY_BYTES, "a ChaCha20 key has 32 bytes");
  return "chacha20-poly1305";
}

/** Encrypts with an AEAD; returns ciphertext followed by the 16-byte tag. `nonce` must never repeat under `key`. */
export function aeadSeal(
  name: AeadName,
  key: Secret,
  nonce: Uint8Array,
  aad: Uint8Array,
  plaintext: Uint8Array,
): Uint8Array {
  invariant(nonce.length === AEAD_NONCE_BYTES, "an AEAD nonce has 12 bytes");
  const cipher = createCipheriv(aeadCipherName(name, key), key.expose(), nonce, { authTagLength: AEAD_TAG_BYTES });
  cipher.setAAD(aad, { plaintextLength: plaintext.length });
  return concatBytes(cipher.update(plaintext), cipher.final(), cipher.getAuthTag());
}

/** Reverses {@link aeadSeal}. Throws `wire.integrity` when the tag is wrong, `wire.short` when there is no room for one. */
export function aeadOpen(
  name: AeadName,
  key: Secret,
  nonce: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Uint8Array {
  invariant(nonce.length === AEAD_NONCE_BYTES, "an AEAD nonce has 12 bytes");
  const textBytes = sealed.length - AEAD_TAG_BYTES;
  if (textBytes < 0) throw new EsplexError("wire.short", "no room for an AEAD tag");
  const decipher = createDecipheriv(aeadCipherName(name, key), key.expose(), nonce, { authTagLength: AEAD_TAG_BYTES });
  decipher.setAAD(aad, { plaintextLength: textBytes });
  decipher.setAuthTag(sealed.subarray(textBytes));
  try {
    return concatBytes(decipher.update(sealed.subarray(0, textBytes)), decipher.final());
  } catch {
    throw new EsplexError("wire.integrity", "wrong AEAD tag");
  }
}

/** Encrypts whole blocks with AES-CBC. The caller pads and authenticates. */
export function cbcEncrypt(key: Secret, iv: Uint8Array, plaintext: Uint8Array): Uint8Array {
  const cipher = createCipheriv(`aes-${aesBits(key)}-cbc`, key.expose(), iv).setAutoPadding(false);
  return concatBytes(cipher.update(plaintext), cipher.final());
}

/** Decrypts whole blocks; throws `wire.malformed` on a broken block. The caller has checked the integrity tag. */
export function cbcDecrypt(key: Secret, iv: Uint8Array, ciphertext: Uint8Array): Uint8Array {
  if (ciphertext.length % AES_BLOCK_BYTES !== 0)
    throw new EsplexError("wire.malformed", "CBC text is not whole blocks");
  const decipher = createDecipheriv(`aes-${aesBits(key)}-cbc`, key.expose(), iv).setAutoPadding(false);
  return concatBytes(decipher.update(ciphertext), decipher.final());
}
