import { ByteReader, concatBytes } from "../../core/bytes.ts";
import { algorithmOfScheme, isSha1Algorithm, schemeOfAlgorithm } from "../../crypto/signature-algorithm.ts";
import { fitsKey, schemesFor, type KeyKind, type SignatureScheme } from "../../crypto/signature.ts";
import { AUTH_METHOD, authMethodName } from "../wire/constants.ts";
import type { AuthPayload } from "../wire/authentication.ts";
import { authRefused } from "./problem.ts";
import { hashIdOf } from "./signature-hashes.ts";

/** A signature out of an AUTH payload. */
export interface AuthSignature {
  readonly scheme: SignatureScheme;
  readonly signature: Uint8Array;
}

/** The three methods of RFC 4754 §3 bind a curve to a hash. */
const ECDSA_METHODS = [
  { method: AUTH_METHOD.ECDSA_256, curve: "P-256", hash: "sha256" },
  { method: AUTH_METHOD.ECDSA_384, curve: "P-384", hash: "sha384" },
  { method: AUTH_METHOD.ECDSA_521, curve: "P-521", hash: "sha512" },
] as const;

/** True for a method that proves a certificate's key. */
export function isSignatureMethod(method: number): boolean {
  const { RSA_SIGNATURE, DIGITAL_SIGNATURE } = AUTH_METHOD;
  return [RSA_SIGNATURE, DIGITAL_SIGNATURE, ...ECDSA_METHODS.map((known) => known.method)].some(
    (known) => known === method,
  );
}

/**
 * Reads a peer's signature (RFC 7427 §3, RFC 4754 §3) for a certificate with this key. `hashesExchanged`: both sides have sent
 * SIGNATURE_HASH_ALGORITHMS. Throws `peer.authenticationFailed`; method 1 is refused, for it means SHA-1 (RFC 7296 §3.8, RFC
 * 8247 §3.1) and the peers that have nothing else are older than RFC 7427.
 */
export function readSignature(payload: AuthPayload, key: KeyKind, hashesExchanged: boolean): AuthSignature {
  const { method, data } = payload;
  if (method === AUTH_METHOD.RSA_SIGNATURE) {
    throw authRefused("weakSignature", "RSA signature of method 1: that is SHA-1; the peer must speak RFC 7427");
  }
  const ecdsa = ECDSA_METHODS.find((known) => known.method === method);
  if (ecdsa !== undefined) {
    if (key.kind !== "ecdsa" || key.curve !== ecdsa.curve) {
      throw authRefused("methodNotAllowed", `${authMethodName(method)} with another kind of key`);
    }
    return { scheme: { kind: "ecdsa", hash: ecdsa.hash, encoding: "raw" }, signature: data };
  }
  if (method !== AUTH_METHOD.DIGITAL_SIGNATURE || !hashesExchanged) {
    throw authRefused("methodNotAllowed", `authentication method ${authMethodName(method)} is not allowed here`);
  }
  return readDigitalSignature(data, key);
}

function readDigitalSignature(data: Uint8Array, key: KeyKind): AuthSignature {
  const reader = new ByteReader(data, "AUTH payload");
  const algorithm = reader.bytes(reader.u8());
  if (isSha1Algorithm(algorithm)) throw authRefused("weakSignature", "a signature with SHA-1, which was not offered");
  const scheme = schemeOfAlgorithm(algorithm);
  if (scheme === undefined) throw authRefused("weakSignature", "a signature algorithm that was not offered");
  if (!fitsKey(scheme, key)) throw authRefused("wrongSignature", "a signature algorithm that is not the certificate's");
  return { scheme, signature: reader.rest() };
}

/** AUTH data for a signature, with its method. */
export function writeSignature({ scheme, signature }: AuthSignature): AuthPayload {
  if (scheme.kind === "ecdsa" && scheme.encoding === "raw") {
    const known = ECDSA_METHODS.find(({ hash }) => hash === scheme.hash);
    return { kind: "auth", method: known?.method ?? AUTH_METHOD.ECDSA_256, data: signature };
  }
  const algorithm = algorithmOfScheme(scheme);
  const data = concatBytes(new Uint8Array([algorithm.length]), algorithm, signature);
  return { kind: "auth", method: AUTH_METHOD.DIGITAL_SIGNATURE, data };
}

/**
 * How we sign with this key for a peer that verifies `peerHashes` (null: it does not know RFC 7427): as the peer signs itself
 * when that is possible, else the key's best scheme. Null when there is none; SHA-1 never is one.
 */
export function chooseScheme(
  key: KeyKind,
  peerHashes: readonly number[] | null,
  likePeer: SignatureScheme | null,
): SignatureScheme | null {
  if (peerHashes === null) {
    const known = key.kind === "ecdsa" ? ECDSA_METHODS.find(({ curve }) => curve === key.curve) : undefined;
    return known === undefined ? null : { kind: "ecdsa", hash: known.hash, encoding: "raw" };
  }
  const possible = schemesFor(key).filter((scheme) => peerHashes.includes(hashIdOf(scheme)));
  // libreswan wants PSS back for PSS, others may know PKCS#1 v1.5 only.
  return possible.find(({ kind }) => kind === likePeer?.kind) ?? possible[0] ?? null;
}
