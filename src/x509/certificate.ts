import { X509Certificate, type KeyObject } from "node:crypto";
import {
  BasicConstraints,
  Certificate as AsnCertificate,
  ExtendedKeyUsage,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_nameConstraints,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  KeyUsage,
  KeyUsageFlags,
  NameConstraints,
  SubjectAlternativeName,
  type Extension,
  type GeneralName,
} from "@peculiar/asn1-x509";
import { sha1, sha256Hex } from "../crypto/hash.ts";
import { schemeOfAlgorithm } from "../crypto/signature-algorithm.ts";
import { keyKind, type KeyKind, type SignatureScheme } from "../crypto/signature.ts";
import { toHex } from "../core/bytes.ts";
import { EsplexError } from "../core/errors.ts";
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { readAsn, writeAsn } from "./asn.ts";
import { DistinguishedName } from "./name.ts";

/** The largest certificate that we read; real ones have 0.5 to 3 kB. Our choice. */
const MAX_CERTIFICATE_BYTES = 16_384;

/** Names of a certificate's subject besides the distinguished one (RFC 5280 §4.2.1.6); all in lower case. */
export interface AlternativeNames {
  readonly dns: readonly string[];
  readonly emails: readonly string[];
  /** In canonical text. */
  readonly ips: readonly string[];
  readonly directories: readonly DistinguishedName[];
  /** How many there are of other kinds. */
  readonly others: number;
}

/** A certificate as we use it: read, not yet believed. */
export interface Certificate {
  readonly der: Uint8Array;
  /** SHA-256 of `der` in hex. */
  readonly fingerprint: string;
  readonly subject: DistinguishedName;
  readonly issuer: DistinguishedName;
  readonly serialHex: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly publicKey: KeyObject;
  /** Null: a key that we do not take. */
  readonly keyKind: KeyKind | null;
  /** How it is signed; undefined for a signature that we do not take (SHA-1). */
  readonly signedWith: SignatureScheme | undefined;
  readonly names: AlternativeNames;
  /** Null without basicConstraints. */
  readonly authority: { readonly isAuthority: boolean; readonly maxIntermediates: number | null } | null;
  /** Bits of {@link KeyUsageFlags}; null without the extension. */
  readonly keyUsage: number | null;
  /** OIDs; null without the extension. */
  readonly extendedKeyUsage: readonly string[] | null;
  readonly nameConstraints: NameConstraints | null;
  /** OIDs of critical extensions that nobody here understands (RFC 5280 §4.2: refuse). */
  readonly unknownCritical: readonly string[];
  /** True when `issuer` has signed it. Says nothing about the issuer. */
  isSignedBy(issuer: Certificate): boolean;
}

/** Reads one certificate in DER. Throws `wire.malformed`. */
export function parseCertificate(der: Uint8Array): Certificate {
  if (der.length > MAX_CERTIFICATE_BYTES) throw new EsplexError("wire.malformed", `certificate of ${der.length} bytes`);
  const { x509, publicKey } = readWithOpenssl(der);
  // What OpenSSL left over would not be part of what is signed.
  if (x509.raw.length !== der.length) throw new EsplexError("wire.malformed", "certificate: bytes left over");
  const { tbsCertificate: tbs, signatureAlgorithm } = readAsn(der, AsnCertificate, "certificate");
  const extensions = indexExtensions(tbs.extensions ?? []);
  const read = <T>(oid: string, schema: new () => T): T | null => {
    const found = extensions.get(oid);
    return found === undefined ? null : readAsn(new Uint8Array(found.extnValue.buffer), schema, `extension ${oid}`);
  };
  const basic = read(id_ce_basicConstraints, BasicConstraints);
  const altNames = read(id_ce_subjectAltName, SubjectAlternativeName);
  const usages = read(id_ce_extKeyUsage, ExtendedKeyUsage);
  return {
    der,
    fingerprint: sha256Hex(der),
    subject: DistinguishedName.of(tbs.subject),
    issuer: DistinguishedName.of(tbs.issuer),
    serialHex: toHex(new Uint8Array(tbs.serialNumber)),
    notBeforeMs: tbs.validity.notBefore.getTime().getTime(),
    notAfterMs: tbs.validity.notAfter.getTime().getTime(),
    publicKey,
    keyKind: keyKind(publicKey),
    signedWith: schemeOfAlgorithm(writeAsn(signatureAlgorithm)),
    names: alternativeNames(altNames === null ? [] : [...altNames]),
    authority: basic === null ? null : { isAuthority: basic.cA, maxIntermediates: basic.pathLenConstraint ?? null },
    keyUsage: read(id_ce_keyUsage, KeyUsage)?.toNumber() ?? null,
    extendedKeyUsage: usages === null ? null : [...usages],
    nameConstraints: read(id_ce_nameConstraints, NameConstraints),
    unknownCritical: [...extensions.values()]
      .filter(({ critical, extnID }) => critical && !UNDERSTOOD.has(extnID))
      .map(({ extnID }) => extnID),
    isSignedBy: (issuer) => x509.verify(issuer.publicKey),
  };
}

/** Both key identifiers are hints for finding an issuer; names and signatures find it here. */
const UNDERSTOOD: ReadonlySet<string> = new Set([
  id_ce_basicConstraints,
  id_ce_keyUsage,
  id_ce_extKeyUsage,
  id_ce_subjectAltName,
  id_ce_nameConstraints,
  id_ce_subjectKeyIdentifier,
  id_ce_authorityKeyIdentifier,
]);

/** By key: the same few authorities are asked for in each IKE_SA_INIT. */
const keyHashes = new WeakMap<KeyObject, Uint8Array>();

/** SHA-1 of the SubjectPublicKeyInfo: names a certification authority in CERTREQ (RFC 7296 §3.7). */
export function keyHash({ publicKey }: Certificate): Uint8Array {
  let hash = keyHashes.get(publicKey);
  if (hash === undefined) {
    hash = sha1(new Uint8Array(publicKey.export({ type: "spki", format: "der" })));
    keyHashes.set(publicKey, hash);
  }
  return hash;
}

/** OpenSSL reads it first: its limits on depth stand before the library's. */
function readWithOpenssl(der: Uint8Array): { x509: X509Certificate; publicKey: KeyObject } {
  try {
    const x509 = new X509Certificate(der);
    return { x509, publicKey: x509.publicKey };
  } catch {
    throw new EsplexError("wire.malformed", "certificate: OpenSSL cannot read it");
  }
}

/** Throws when one stands there twice (RFC 5280 §4.2). */
export function indexExtensions(extensions: Iterable<Extension>): Map<string, Extension> {
  const found = new Map<string, Extension>();
  for (const extension of extensions) {
    if (found.has(extension.extnID)) throw new EsplexError("wire.malformed", `extension ${extension.extnID} twice`);
    found.set(extension.extnID, extension);
  }
  return found;
}

function alternativeNames(names: readonly GeneralName[]): AlternativeNames {
  const dns = names.flatMap(({ dNSName }) => (dNSName === undefined ? [] : [dNSName.toLowerCase()]));
  const emails = names.flatMap(({ rfc822Name }) => (rfc822Name === undefined ? [] : [rfc822Name.toLowerCase()]));
  const ips = names.flatMap(({ iPAddress }) => (iPAddress === undefined ? [] : [canonicalIp(iPAddress)]));
  const directories = names.flatMap(({ directoryName }) =>
    directoryName === undefined ? [] : [DistinguishedName.of(directoryName)],
  );
  return {
    dns,
    emails,
    ips,
    directories,
    others: names.length - dns.length - emails.length - ips.length - directories.length,
  };
}

/** An address of a wrong length matches nothing. */
function canonicalIp(text: string): string {
  try {
    return ipFromBytes(ipToBytes(text));
  } catch {
    return "";
  }
}

/** True when the certificate has the extension and it lacks the bit, or has no such extension at all: see RFC 5280 §4.2.1.3. */
export function allowsUsage(certificate: Certificate, ...flags: readonly KeyUsageFlag[]): boolean {
  const { keyUsage } = certificate;
  return keyUsage === null || flags.some((flag) => (keyUsage & KeyUsageFlags[flag]) !== 0);
}

type KeyUsageFlag = "digitalSignature" | "nonRepudiation" | "keyCertSign" | "cRLSign";
