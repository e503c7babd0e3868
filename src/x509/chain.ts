import { allowsUsage, type Certificate } from "./certificate.ts";
import type { CertificateCache } from "./certificate-cache.ts";
import { constraintBroken } from "./name-constraints.ts";
import { refusedCertificate, type CertificateProblem } from "./problem.ts";
import type { RevocationList } from "./revocation-list.ts";

/** Whom we believe, and whom no more. */
export interface TrustStore {
  /** Certification authorities that are believed as they are. */
  readonly anchors: readonly Certificate[];
  readonly revocationLists: readonly RevocationList[];
  /** `relaxed`: refused when a list names it. `strict`: refused also without a list of its issuer that is in date. */
  readonly revocation: "relaxed" | "strict";
  /** OIDs that extendedKeyUsage may name instead of ipsecIKE: for certificates that were made for TLS. */
  readonly otherUsages: readonly string[];
  /** What of peers was read before. */
  readonly known: CertificateCache;
}

/** Certificates of one path, the anchor included; strongSwan takes 7. Our choice. */
const MAX_PATH = 8;
/** Signatures that one validation checks at most: what a peer sends must not become our work. Our choice. */
const MAX_SIGNATURES = 16;

/** RFC 4945 §5.1.3.12. */
const USAGE_IPSEC_IKE = "1.3.6.1.5.5.7.3.17";
const USAGE_ANY = "2.5.29.37.0";

type Refusal = Error & { readonly details: Readonly<Record<string, unknown>> };

/**
 * Validates an end-entity certificate for IKE (RFC 5280 §6, RFC 4945 §5): a path over `others` to an anchor where every
 * signature, date, usage, constraint and revocation list allows it. Returns the path, the anchor last. Throws
 * `peer.authenticationFailed` with a {@link CertificateProblem} in `details.reason`: the problem of the best path found.
 */
export function validateChain(
  leaf: Certificate,
  others: readonly Certificate[],
  trust: TrustStore,
  nowMs: number,
): readonly Certificate[] {
  let problem: Refusal | null = null;
  for (const path of pathsFrom(leaf, others, trust.anchors)) {
    const refusal = problemOf(path, trust, nowMs);
    if (refusal === null) return path;
    problem ??= refusal;
  }
  throw (
    problem ??
    refusedCertificate(
      "certificateUntrusted",
      `no path from ${nameOf(leaf)} (issued by ${leaf.issuer.toString()}) to a configured authority`,
    )
  );
}

/** Every path to an anchor whose signatures are good. The work is bounded, whatever the peer sends. */
function* pathsFrom(
  leaf: Certificate,
  others: readonly Certificate[],
  anchors: readonly Certificate[],
): Generator<readonly Certificate[]> {
  let left = MAX_SIGNATURES;
  const issuersOf = function* (subject: Certificate, from: readonly Certificate[]): Generator<Certificate> {
    for (const issuer of from) {
      if (issuer.subject.key !== subject.issuer.key || issuer.keyKind === null || left === 0) continue;
      left -= 1;
      if (subject.isSignedBy(issuer)) yield issuer;
    }
  };
  const extend = function* (path: readonly Certificate[], last: Certificate): Generator<readonly Certificate[]> {
    for (const anchor of issuersOf(last, anchors)) yield [...path, anchor];
    if (path.length + 1 >= MAX_PATH) return;
    const fresh = others.filter(({ fingerprint }) => path.every((other) => other.fingerprint !== fingerprint));
    for (const issuer of issuersOf(last, fresh)) yield* extend([...path, issuer], issuer);
  };
  yield* extend([leaf], leaf);
}

function problemOf(path: readonly Certificate[], trust: TrustStore, nowMs: number): Refusal | null {
  const [leaf, ...authorities] = path;
  if (leaf === undefined) return null;
  return (
    first(path, (certificate, i) => ownProblem(certificate, nowMs, i === path.length - 1)) ??
    leafUsage(leaf, trust.otherUsages) ??
    first(authorities, (authority, i) => authorityProblem(authority, path.slice(1, i + 1))) ??
    first(authorities, (authority, i) => constraintProblem(authority, path.slice(0, i + 1))) ??
    first(path.slice(0, -1), (certificate, i) => revocationProblem(certificate, path[i + 1], trust, nowMs))
  );
}

function first<T>(items: readonly T[], check: (item: T, i: number) => Refusal | null): Refusal | null {
  for (const [i, item] of items.entries()) {
    const problem = check(item, i);
    if (problem !== null) return problem;
  }
  return null;
}

function refuse(reason: CertificateProblem, certificate: Certificate, why: string): Refusal {
  return refusedCertificate(reason, `certificate of ${nameOf(certificate)}: ${why}`);
}

/** What of a certificate does not depend on its place. An anchor is believed whatever signed it. */
function ownProblem(certificate: Certificate, nowMs: number, isAnchor: boolean): Refusal | null {
  const { notBeforeMs, notAfterMs, unknownCritical } = certificate;
  if (nowMs > notAfterMs) return refuse("certificateExpired", certificate, `expired ${dateText(notAfterMs)}`);
  // Also when a date cannot be read.
  if (!(nowMs >= notBeforeMs)) {
    return refuse("certificateNotYetValid", certificate, `not valid before ${dateText(notBeforeMs)}`);
  }
  if (unknownCritical.length > 0) {
    return refuse("certificateUnsupported", certificate, `critical extensions ${unknownCritical.join(", ")}`);
  }
  if (certificate.keyKind === null) return refuse("certificateWeak", certificate, "a key that is not taken");
  if (!isAnchor && certificate.signedWith === undefined) {
    return refuse("certificateWeak", certificate, "signed with an algorithm that is not taken (SHA-1?)");
  }
  return null;
}

/** RFC 4945 §5.1.3.2 and §5.1.3.12. */
function leafUsage(leaf: Certificate, otherUsages: readonly string[]): Refusal | null {
  if (!allowsUsage(leaf, "digitalSignature", "nonRepudiation")) {
    return refuse("certificateWrongUsage", leaf, "keyUsage allows no signatures");
  }
  const usages = leaf.extendedKeyUsage;
  const allowed = [USAGE_IPSEC_IKE, USAGE_ANY, ...otherUsages];
  if (usages === null || usages.some((usage) => allowed.includes(usage))) return null;
  return refuse("certificateWrongUsage", leaf, `extendedKeyUsage (${usages.join(", ")}) is not for IKE`);
}

/** `between`: the intermediates below this authority. */
function authorityProblem(authority: Certificate, between: readonly Certificate[]): Refusal | null {
  if (authority.authority?.isAuthority !== true) {
    return refuse("certificateWrongUsage", authority, "not that of a certification authority");
  }
  if (!allowsUsage(authority, "keyCertSign")) {
    return refuse("certificateWrongUsage", authority, "keyUsage allows no signing of certificates");
  }
  const { maxIntermediates } = authority.authority;
  const counted = between.filter(({ subject, issuer }) => subject.key !== issuer.key).length;
  if (maxIntermediates === null || counted <= maxIntermediates) return null;
  return refuse("certificateWrongUsage", authority, `pathlen ${maxIntermediates}, but ${counted} intermediates follow`);
}

function constraintProblem(authority: Certificate, below: readonly Certificate[]): Refusal | null {
  return first(below, (certificate, i) => {
    if (i > 0 && certificate.subject.key === certificate.issuer.key) return null;
    const broken = constraintBroken(authority, certificate);
    if (broken === null) return null;
    return refuse("certificateNameConstraint", certificate, `${nameOf(authority)} may not issue it: ${broken}`);
  });
}

function revocationProblem(
  certificate: Certificate,
  issuer: Certificate | undefined,
  trust: TrustStore,
  nowMs: number,
): Refusal | null {
  if (issuer === undefined) return null;
  const lists = trust.revocationLists.filter(
    (list) => list.issuer.key === issuer.subject.key && allowsUsage(issuer, "cRLSign") && list.isSignedBy(issuer),
  );
  if (lists.some(({ revoked }) => revoked.has(certificate.serialHex))) {
    return refuse("certificateRevoked", certificate, `revoked by ${nameOf(issuer)}`);
  }
  if (trust.revocation === "relaxed") return null;
  const inDate = lists.some((list) => nowMs >= list.thisUpdateMs && nowMs <= (list.nextUpdateMs ?? Infinity));
  return inDate ? null : refuse("revocationUnknown", certificate, `no CRL of ${nameOf(issuer)} is in date`);
}

/** The subject, or the first name of one without. */
function nameOf({ subject, names, serialHex }: Certificate): string {
  if (!subject.isEmpty) return subject.toString();
  return names.dns[0] ?? names.emails[0] ?? names.ips[0] ?? `serial ${serialHex}`;
}

function dateText(ms: number): string {
  return Number.isNaN(ms) ? "an unreadable date" : new Date(ms).toISOString();
}
