import { constants, createPrivateKey, sign, verify, type KeyObject } from "node:crypto";
import { inspect } from "node:util";
import { EsplexError } from "../core/errors.ts";

/** Hashes that a signature may use. SHA-1 is none of them: RFC 8247 §3.2. */
export type SignatureHash = "sha256" | "sha384" | "sha512";

/** How something is signed. PSS always has a salt as long as its hash (RFC 7427 appendix A.4, RFC 8017 §9.1). */
export type SignatureScheme =
  | { readonly kind: "rsa-pkcs1" | "rsa-pss"; readonly hash: SignatureHash }
  /** `der`: ECDSA-Sig-Value (RFC 3279 §2.2.3). `raw`: r | s (RFC 4754 §7). */
  | { readonly kind: "ecdsa"; readonly hash: SignatureHash; readonly encoding: "der" | "raw" }
  | { readonly kind: "ed25519" };

/** What a key can do. */
export type KeyKind =
  | { readonly kind: "rsa"; readonly bits: number }
  | { readonly kind: "ecdsa"; readonly curve: "P-256" | "P-384" | "P-521" }
  | { readonly kind: "ed25519" };

/** RFC 8247 §3.2 wants 2048; above the other, a stranger's key would only cost time (our choice). */
const RSA_MIN_BITS = 2048;
const RSA_MAX_BITS = 8192;
/** RFC 8017 allows any; the exponents in use are 3 to 65537, a long one only costs time (our choice). */
const RSA_MAX_EXPONENT = 2n ** 32n;

const CURVES: Readonly<Record<string, "P-256" | "P-384" | "P-521">> = {
  prime256v1: "P-256",
  secp384r1: "P-384",
  secp521r1: "P-521",
};

const REDACTED = "[private key]";

/** A private key that only signs: no way of printing shows it. */
export class SigningKey {
  readonly kind: KeyKind;
  readonly #key: KeyObject;

  private constructor(key: KeyObject, kind: KeyKind) {
    this.#key = key;
    this.kind = kind;
  }

  /** Takes a PEM key: PKCS#8, PKCS#1 or SEC 1, not encrypted. Throws `config.invalid`, which never shows the key. */
  static fromPem(pem: Uint8Array): SigningKey {
    let key: KeyObject;
    try {
      key = createPrivateKey({ key: Buffer.from(pem.buffer, pem.byteOffset, pem.length), format: "pem" });
    } catch {
      throw new EsplexError("config.invalid", "not an unencrypted private key in PEM");
    }
    const kind = keyKind(key);
    if (kind === null) throw new EsplexError("config.invalid", `a private key must be ${ALLOWED_KEYS}`);
    return new SigningKey(key, kind);
  }

  /** The key that a peer verifies with. */
  matches(publicKey: KeyObject): boolean {
    const probe = new TextEncoder().encode("does this key belong to that certificate?");
    const scheme = schemesFor(this.kind)[0];
    return scheme !== undefined && verifySignature(scheme, publicKey, probe, this.sign(scheme, probe));
  }

  /** Signs `data`. The scheme must be one of {@link schemesFor} this key, or the raw encoding of it. */
  sign(scheme: SignatureScheme, data: Uint8Array): Uint8Array {
    return new Uint8Array(sign(digestOf(scheme), data, { key: this.#key, ...optionsOf(scheme) }));
  }

  toString(): string {
    return REDACTED;
  }

  toJSON(): string {
    return REDACTED;
  }

  [inspect.custom](): string {
    return REDACTED;
  }
}

/** For messages. */
const ALLOWED_KEYS = `RSA with ${RSA_MIN_BITS} to ${RSA_MAX_BITS} bits, ECDSA on P-256, P-384 or P-521, or Ed25519`;

/** What this key (public or private) can do, null when we do not take it. */
export function keyKind(key: KeyObject): KeyKind | null {
  const details = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case "rsa": {
      const bits = details.modulusLength ?? 0;
      const fits = bits >= RSA_MIN_BITS && bits <= RSA_MAX_BITS && (details.publicExponent ?? 0n) < RSA_MAX_EXPONENT;
      return fits ? { kind: "rsa", bits } : null;
    }
    case "ec": {
      const curve = CURVES[details.namedCurve ?? ""];
      return curve === undefined ? null : { kind: "ecdsa", curve };
    }
    case "ed25519":
      return { kind: "ed25519" };
    default:
      return null;
  }
}

/** `RSA 2048`, `ECDSA P-256`, `Ed25519`. */
export function keyName(kind: KeyKind): string {
  if (kind.kind === "rsa") return `RSA ${kind.bits}`;
  return kind.kind === "ecdsa" ? `ECDSA ${kind.curve}` : "Ed25519";
}

/** `rsa-pss sha256` */
export function schemeName(scheme: SignatureScheme): string {
  return scheme.kind === "ed25519" ? scheme.kind : `${scheme.kind} ${scheme.hash}`;
}

/** The hash that a curve is used with when nothing else is asked for: RFC 4754 §1. */
const CURVE_HASH = { "P-256": "sha256", "P-384": "sha384", "P-521": "sha512" } as const;

/** The schemes of a key, best first. */
export function schemesFor(kind: KeyKind): readonly SignatureScheme[] {
  const hashes: readonly SignatureHash[] = ["sha256", "sha384", "sha512"];
  switch (kind.kind) {
    case "rsa":
      return (["rsa-pss", "rsa-pkcs1"] as const).flatMap((name) => hashes.map((hash) => ({ kind: name, hash })));
    case "ecdsa": {
      const own = CURVE_HASH[kind.curve];
      const others = hashes.filter((hash) => hash !== own);
      return [own, ...others].map((hash) => ({ kind: "ecdsa", hash, encoding: "der" }));
    }
    case "ed25519":
      return [{ kind: "ed25519" }];
  }
}

/** True when `kind` is a key for `scheme`. */
export function fitsKey(scheme: SignatureScheme, kind: KeyKind): boolean {
  return scheme.kind === kind.kind || (kind.kind === "rsa" && scheme.kind.startsWith("rsa-"));
}

/** True when `signature` is that of `data`. A signature that cannot be read is a wrong one. */
export function verifySignature(
  scheme: SignatureScheme,
  key: KeyObject,
  data: Uint8Array,
  signature: Uint8Array,
): boolean {
  const kind = keyKind(key);
  if (kind === null || !fitsKey(scheme, kind)) return false;
  try {
    return verify(digestOf(scheme), data, { key, ...optionsOf(scheme) }, signature);
  } catch {
    return false;
  }
}

function digestOf(scheme: SignatureScheme): string | null {
  return scheme.kind === "ed25519" ? null : scheme.hash;
}

function optionsOf(scheme: SignatureScheme): Readonly<Record<string, unknown>> {
  switch (scheme.kind) {
    case "rsa-pkcs1":
      return { padding: constants.RSA_PKCS1_PADDING };
    case "rsa-pss":
      return { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };
    case "ecdsa":
      return { dsaEncoding: scheme.encoding === "der" ? "der" : "ieee-p1363" };
    case "ed25519":
      return {};
  }
}
