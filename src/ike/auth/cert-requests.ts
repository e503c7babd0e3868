import { concatBytes, toHex } from "../../core/bytes.ts";
import { keyHash, type Certificate } from "../../x509/certificate.ts";
import { CERT_ENCODING } from "../wire/constants.ts";
import type { CertRequestPayload } from "../wire/authentication.ts";
import { WIRE_LIMITS } from "../wire/limits.ts";
import type { Payload } from "../wire/payload.ts";

/** SHA-1 of an authority's SubjectPublicKeyInfo, RFC 7296 §3.7. */
const AUTHORITY_BYTES = 20;

/** CERTREQ for certificates below these authorities, the first of them when they are many; none without any. */
export function certRequests(anchors: readonly Certificate[]): CertRequestPayload[] {
  if (anchors.length === 0) return [];
  const hashes = anchors.slice(0, WIRE_LIMITS.ownAuthorities).map(keyHash);
  return [{ kind: "certreq", encoding: CERT_ENCODING.X509_SIGNATURE, authorities: concatBytes(...hashes) }];
}

/** The authorities that the peer asks for, in hex; null when it asks for no X.509 certificate in particular. */
export function requestedAuthorities(payloads: readonly Payload[]): ReadonlySet<string> | null {
  const hashes = new Set<string>();
  for (const payload of payloads) {
    if (payload.kind !== "certreq" || payload.encoding !== CERT_ENCODING.X509_SIGNATURE) continue;
    for (let at = 0; at + AUTHORITY_BYTES <= payload.authorities.length; at += AUTHORITY_BYTES) {
      if (hashes.size === WIRE_LIMITS.certificateAuthorities) return hashes;
      hashes.add(toHex(payload.authorities.subarray(at, at + AUTHORITY_BYTES)));
    }
  }
  return hashes.size === 0 ? null : hashes;
}
