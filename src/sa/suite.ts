/**
 * Transforms that esplex negotiates and installs. Names are RFC 7296 / IANA terms; the kernel's names for them
 * live in `xfrm/`, the IKE transform IDs in `ike/`. A suite tells its protocol: a Child SA is of ESP or of AH, never of both
 * (RFC 7296 §3.3).
 */
export type ChildSuite = EspSuite | AhSuite;

/** The two protocols of IPsec: an SPI names an SA only together with one of them (RFC 4301 §4.1). */
export type IpsecProtocol = "esp" | "ah";

export type EspSuite = EspAeadSuite | EspMacSuite;

/** Encrypts and authenticates in one, with a 16-byte ICV. Key material is the key followed by a salt. */
export type EspAeadSuite =
  | {
      /** RFC 4106, RFC 4309. */
      readonly kind: "aes-gcm-16" | "aes-ccm-16";
      readonly keyBits: 128 | 256;
    }
  | {
      /** RFC 7634: a key of 256 bits, always. */
      readonly kind: "chacha20-poly1305";
    };

/** A cipher with an HMAC behind it (RFC 4868). */
export type EspMacSuite =
  | {
      /** RFC 3602; RFC 3686, whose key is followed by a salt ("nonce" there). */
      readonly kind: "aes-cbc" | "aes-ctr";
      readonly keyBits: 128 | 256;
      readonly integrity: EspIntegrity;
    }
  | {
      /** RFC 2410: authenticated and readable by everybody. Never without being asked for. */
      readonly kind: "null";
      readonly integrity: EspIntegrity;
    };

/** RFC 4302 with an HMAC (RFC 4868): authenticates the packet with its header, and hides nothing. Never without being asked for. */
export interface AhSuite {
  readonly kind: "ah";
  readonly integrity: EspIntegrity;
}

export type EspIntegrity = "hmac-sha2-256" | "hmac-sha2-384" | "hmac-sha2-512";

const INTEGRITY = {
  "hmac-sha2-256": { keyBytes: 32, icvBytes: 16 },
  "hmac-sha2-384": { keyBytes: 48, icvBytes: 24 },
  "hmac-sha2-512": { keyBytes: 64, icvBytes: 32 },
} as const;

/** ICV of every AEAD here (RFC 4106 §6, RFC 4309 §6, RFC 7634 §2.1). */
const AEAD_ICV_BYTES = 16;

/**
 * Salt behind the key (RFC 4106 §8.1, RFC 4309 §7.1, RFC 3686 §5.1, RFC 7634 §2), IV in each packet, and the multiple of
 * bytes that ciphertext has (RFC 4303 §2.4: at least 4).
 */
const CIPHERS: Readonly<Record<ChildSuite["kind"], { saltBytes: number; ivBytes: number; blockBytes: number }>> = {
  "aes-gcm-16": { saltBytes: 4, ivBytes: 8, blockBytes: 4 },
  "aes-ccm-16": { saltBytes: 3, ivBytes: 8, blockBytes: 4 },
  "chacha20-poly1305": { saltBytes: 4, ivBytes: 8, blockBytes: 4 },
  "aes-cbc": { saltBytes: 0, ivBytes: 16, blockBytes: 16 },
  "aes-ctr": { saltBytes: 4, ivBytes: 8, blockBytes: 4 },
  null: { saltBytes: 0, ivBytes: 0, blockBytes: 4 },
  ah: { saltBytes: 0, ivBytes: 0, blockBytes: 1 },
};

/** Lengths of one suite on the wire and in key material, in bytes. */
export interface SuiteLengths {
  /** Encryption key material, with its salt. */
  readonly encryptionKeyBytes: number;
  /** What of it is salt, at its end. */
  readonly saltBytes: number;
  /** Zero for an AEAD. */
  readonly integrityKeyBytes: number;
  readonly ivBytes: number;
  readonly icvBytes: number;
  /** Ciphertext is a multiple of this many bytes (RFC 4303 §2.4: at least 4; AH has none and no padding either). */
  readonly blockBytes: number;
}

export function suiteLengths(suite: ChildSuite): SuiteLengths {
  const { saltBytes, ivBytes, blockBytes } = CIPHERS[suite.kind];
  const integrity = integrityOf(suite);
  const { keyBytes, icvBytes } = integrity === null ? { keyBytes: 0, icvBytes: AEAD_ICV_BYTES } : INTEGRITY[integrity];
  const encryptionKeyBytes = keyBitsOf(suite) / 8 + saltBytes;
  return { encryptionKeyBytes, saltBytes, integrityKeyBytes: keyBytes, ivBytes, icvBytes, blockBytes };
}

/** ESP or AH. */
export function protocolOf({ kind }: Pick<ChildSuite, "kind">): IpsecProtocol {
  return kind === "ah" ? "ah" : "esp";
}

function keyBitsOf(suite: ChildSuite): number {
  if (suite.kind === "chacha20-poly1305") return 256;
  return suite.kind === "null" || suite.kind === "ah" ? 0 : suite.keyBits;
}

/** Null for an AEAD. */
function integrityOf(suite: ChildSuite): EspIntegrity | null {
  return "integrity" in suite ? suite.integrity : null;
}

/** True when both name the same algorithms with the same key length. */
export function sameSuite(a: ChildSuite, b: ChildSuite): boolean {
  return a.kind === b.kind && keyBitsOf(a) === keyBitsOf(b) && integrityOf(a) === integrityOf(b);
}

/** `AES_GCM_16_128`, `AES_CBC_256/HMAC_SHA2_256_128`, `AH/HMAC_SHA2_256_128`: as strongSwan prints them. */
export function suiteName(suite: ChildSuite): string {
  const cipher = suite.kind.toUpperCase().replaceAll("-", "_");
  const name = "keyBits" in suite ? `${cipher}_${suite.keyBits}` : cipher;
  const integrity = integrityOf(suite);
  if (integrity === null) return name;
  const bits = integrity.slice(-3);
  return `${name}/HMAC_SHA2_${bits}_${Number(bits) / 2}`;
}

const KEY_BITS = [128, 256] as const;
const HMACS = ["hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512"] as const;

/**
 * What a peer may have whose configuration lists nothing. The peer's order decides among them, so nothing belongs here that one
 * would not want to end up with.
 */
export const DEFAULT_ESP_SUITES: readonly EspSuite[] = [
  ...KEY_BITS.map((keyBits): EspSuite => ({ kind: "aes-gcm-16", keyBits })),
  { kind: "chacha20-poly1305" },
  ...KEY_BITS.flatMap((keyBits) => HMACS.map((integrity): EspSuite => ({ kind: "aes-cbc", keyBits, integrity }))),
];

/** Every suite of ESP that esplex knows: the others are for peers whose configuration lists them. */
export const ESP_SUITES: readonly EspSuite[] = [
  ...DEFAULT_ESP_SUITES,
  ...KEY_BITS.map((keyBits): EspSuite => ({ kind: "aes-ccm-16", keyBits })),
  ...KEY_BITS.flatMap((keyBits) => HMACS.map((integrity): EspSuite => ({ kind: "aes-ctr", keyBits, integrity }))),
  ...HMACS.map((integrity): EspSuite => ({ kind: "null", integrity })),
];

/** Every suite of AH that esplex knows: all of them are for peers whose configuration lists them. */
export const AH_SUITES: readonly AhSuite[] = HMACS.map((integrity) => ({ kind: "ah", integrity }));
