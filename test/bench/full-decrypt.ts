/** What a peek saves: an ESP packet decrypted as a whole, its ICV checked, with node:crypto alone. */
import { createDecipheriv, createHmac, timingSafeEqual } from "node:crypto";
import type { SharedSa } from "../../src/sa/spec.ts";
import { suiteLengths, type EspMacSuite } from "../../src/sa/suite.ts";

/** RFC 4303 §2: SPI and sequence number. */
const ESP_HEADER_BYTES = 8;
/** AES-GCM and ChaCha20-Poly1305: a salt ahead of the IV (RFC 4106 §4, RFC 7634 §2). */
const SALT_BYTES = 4;

/** Takes ESP from the SPI to the ICV, returns plaintext with its trailer; throws when the ICV is wrong. */
export type FullDecrypt = (esp: Uint8Array) => Buffer;

export function fullDecrypt(sa: SharedSa): FullDecrypt {
  switch (sa.suite.kind) {
    case "aes-gcm-16":
      return aeadDecrypt(sa, `aes-${sa.suite.keyBits}-gcm` as "aes-128-gcm");
    case "chacha20-poly1305":
      return aeadDecrypt(sa, "chacha20-poly1305");
    case "aes-cbc":
      return cbcDecrypt(sa, sa.suite);
    default:
      throw new Error(`${sa.suite.kind} is not measured`);
  }
}

function aeadDecrypt(sa: SharedSa, cipher: "aes-128-gcm" | "chacha20-poly1305"): FullDecrypt {
  const { ivBytes, icvBytes } = suiteLengths(sa.suite);
  const material = sa.inbound.encryptionKey.expose();
  const key = material.subarray(0, -SALT_BYTES);
  const nonce = new Uint8Array(SALT_BYTES + ivBytes);
  nonce.set(material.subarray(-SALT_BYTES));
  return (esp) => {
    const ivEnd = ESP_HEADER_BYTES + ivBytes;
    const icvAt = esp.length - icvBytes;
    nonce.set(esp.subarray(ESP_HEADER_BYTES, ivEnd), SALT_BYTES);
    const decipher = createDecipheriv(cipher as "aes-128-gcm", key, nonce, { authTagLength: icvBytes });
    decipher.setAAD(esp.subarray(0, ESP_HEADER_BYTES));
    decipher.setAuthTag(esp.subarray(icvAt));
    const plain = decipher.update(esp.subarray(ivEnd, icvAt));
    decipher.final();
    return plain;
  };
}

function cbcDecrypt(sa: SharedSa, { keyBits, integrity }: EspMacSuite & { kind: "aes-cbc" | "aes-ctr" }): FullDecrypt {
  const { ivBytes, icvBytes } = suiteLengths(sa.suite);
  const key = sa.inbound.encryptionKey.expose();
  const macKey = sa.inbound.integrityKey?.expose() ?? new Uint8Array();
  const hash = `sha${integrity.slice(-3)}`;
  return (esp) => {
    const ivEnd = ESP_HEADER_BYTES + ivBytes;
    const icvAt = esp.length - icvBytes;
    const icv = createHmac(hash, macKey).update(esp.subarray(0, icvAt)).digest().subarray(0, icvBytes);
    if (!timingSafeEqual(icv, esp.subarray(icvAt))) throw new Error("wrong ICV");
    const iv = esp.subarray(ESP_HEADER_BYTES, ivEnd);
    const decipher = createDecipheriv(`aes-${keyBits}-cbc`, key, iv).setAutoPadding(false);
    return decipher.update(esp.subarray(ivEnd, icvAt));
  };
}
