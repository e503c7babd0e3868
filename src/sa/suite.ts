/**
 * ESP transforms that esplex negotiates and installs. Names are RFC 7296 / IANA terms; the kernel's names for them
 * live in `xfrm/`, the IKE transform IDs in `ike/`.
 */
export type EspSuite = EspAeadSuite | EspCbcSuite;

/** RFC 4106, 16-byte ICV. Key material is the AES key followed by a 4-byte salt. */
export interface EspAeadSuite {
  readonly kind: "aes-gcm-16";
  readonly keyBits: 128 | 256;
}

/** RFC 3602 with RFC 4868. */
export interface EspCbcSuite {
  readonly kind: "aes-cbc";
  readonly keyBits: 128 | 256;
  readonly integrity: "hmac-sha2-256" | "hmac-sha2-384" | "hmac-sha2-512";
}

/** Length of the salt that follows the AES key in GCM key material (RFC 4106 §8.1). */
export const GCM_SALT_BYTES = 4;

const INTEGRITY = {
  "hmac-sha2-256": { keyBytes: 32, icvBytes: 16 },
  "hmac-sha2-384": { keyBytes: 48, icvBytes: 24 },
  "hmac-sha2-512": { keyBytes: 64, icvBytes: 32 },
} as const;

/** Lengths of one suite on the wire and in key material, in bytes (RFC 4106, 3602, 4868). */
export interface SuiteLengths {
  /** Encryption key material, for GCM with its salt. */
  readonly encryptionKeyBytes: number;
  /** Zero for an AEAD. */
  readonly integrityKeyBytes: number;
  readonly ivBytes: number;
  readonly icvBytes: number;
  /** Ciphertext is a multiple of this many bytes (RFC 4303 §2.4: at least 4). */
  readonly blockBytes: number;
}

export function suiteLengths(suite: EspSuite): SuiteLengths {
  if (suite.kind === "aes-gcm-16") {
    const encryptionKeyBytes = suite.keyBits / 8 + GCM_SALT_BYTES;
    return { encryptionKeyBytes, integrityKeyBytes: 0, ivBytes: 8, icvBytes: 16, blockBytes: 4 };
  }
  const { keyBytes, icvBytes } = INTEGRITY[suite.integrity];
  return { encryptionKeyBytes: suite.keyBits / 8, integrityKeyBytes: keyBytes, ivBytes: 16, icvBytes, blockBytes: 16 };
}

/** `AES_GCM_16_128`, `AES_CBC_256/HMAC_SHA2_256_128`: as strongSwan prints them. */
export function suiteName(suite: EspSuite): string {
  if (suite.kind === "aes-gcm-16") return `AES_GCM_16_${suite.keyBits}`;
  const bits = suite.integrity.slice(-3);
  return `AES_CBC_${suite.keyBits}/HMAC_SHA2_${bits}_${Number(bits) / 2}`;
}
