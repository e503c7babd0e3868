import { generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import { AsnConvert, OctetString } from "@peculiar/asn1-schema";
import {
  AlgorithmIdentifier,
  BasicConstraints,
  Certificate as AsnCertificate,
  CertificateList,
  ExtendedKeyUsage,
  Extension,
  Extensions,
  GeneralName,
  GeneralSubtree,
  GeneralSubtrees,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_nameConstraints,
  id_ce_subjectAltName,
  KeyUsage,
  KeyUsageFlags,
  Name,
  NameConstraints,
  RevokedCertificate,
  SubjectAlternativeName,
  SubjectPublicKeyInfo,
  TBSCertificate,
  TBSCertList,
  Time,
  Validity,
  Version,
} from "@peculiar/asn1-x509";
import { algorithmOfScheme } from "../../src/crypto/signature-algorithm.ts";
import { SigningKey, type SignatureScheme } from "../../src/crypto/signature.ts";
import { CertificateCache } from "../../src/x509/certificate-cache.ts";
import { parseCertificate, type Certificate } from "../../src/x509/certificate.ts";
import type { TrustStore } from "../../src/x509/chain.ts";
import { DistinguishedName } from "../../src/x509/name.ts";
import { parseRevocationList, type RevocationList } from "../../src/x509/revocation-list.ts";

/** The moment in which the certificates of tests are in date. */
export const NOW_MS = Date.UTC(2026, 5, 1);
const DAY_MS = 86_400_000;

export type TestKeyKind = "ec256" | "ec384" | "ec521" | "rsa" | "ed25519";

/** What stands in a certificate; the defaults make a good end-entity certificate without names. */
export interface CertificateWish {
  readonly subject: string;
  readonly key: TestKeyKind;
  readonly dns: readonly string[];
  readonly emails: readonly string[];
  readonly ips: readonly string[];
  /** URIs, which are of no use to us. */
  readonly uris: readonly string[];
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** Null: no basicConstraints. */
  readonly authority: { readonly pathLength?: number } | null;
  readonly keyUsage: readonly (keyof typeof KeyUsageFlags)[] | null;
  readonly extendedKeyUsage: readonly string[] | null;
  readonly permitted: readonly GeneralName[];
  readonly excluded: readonly GeneralName[];
  readonly extra: readonly Extension[];
  /** The AlgorithmIdentifier to claim and to sign with. */
  readonly signedWith: { readonly algorithm: Uint8Array; readonly digest: string | null } | null;
}

const LEAF: Omit<CertificateWish, "subject"> = {
  key: "ec256",
  dns: [],
  emails: [],
  ips: [],
  uris: [],
  notBeforeMs: NOW_MS - DAY_MS,
  notAfterMs: NOW_MS + 30 * DAY_MS,
  authority: null,
  keyUsage: ["digitalSignature"],
  extendedKeyUsage: null,
  permitted: [],
  excluded: [],
  extra: [],
  signedWith: null,
};
const AUTHORITY: Partial<CertificateWish> = { authority: {}, keyUsage: ["keyCertSign", "cRLSign"] };

const rsaPool: { publicKey: KeyObject; privateKey: KeyObject }[] = [];

function keyPair(kind: TestKeyKind): { publicKey: KeyObject; privateKey: KeyObject } {
  switch (kind) {
    case "ec256":
      return generateKeyPairSync("ec", { namedCurve: "P-256" });
    case "ec384":
      return generateKeyPairSync("ec", { namedCurve: "P-384" });
    case "ec521":
      return generateKeyPairSync("ec", { namedCurve: "P-521" });
    case "ed25519":
      return generateKeyPairSync("ed25519");
    case "rsa": {
      // Making one takes a tenth of a second: each test file makes one.
      const pair = rsaPool[0] ?? generateKeyPairSync("rsa", { modulusLength: 2048 });
      rsaPool[0] = pair;
      return pair;
    }
  }
}

function schemeOf(key: KeyObject): SignatureScheme {
  if (key.asymmetricKeyType === "ed25519") return { kind: "ed25519" };
  const kind = key.asymmetricKeyType === "rsa" ? "rsa-pkcs1" : "ecdsa";
  return kind === "ecdsa" ? { kind, hash: "sha256", encoding: "der" } : { kind, hash: "sha256" };
}

const bytesOf = (value: unknown): Uint8Array => new Uint8Array(AsnConvert.serialize(value));
const bufferOf = (bytes: Uint8Array): ArrayBuffer => Uint8Array.from(bytes).buffer;
const nameOf = (text: string): Name => AsnConvert.parse(DistinguishedName.fromText(text).der, Name);

export function extension(oid: string, value: unknown, critical = true): Extension {
  return new Extension({ extnID: oid, critical, extnValue: new OctetString(bufferOf(bytesOf(value))) });
}

/** A certificate with its private key, and what it can issue when it is an authority. */
export class TestCertificate {
  readonly certificate: Certificate;
  readonly issuer: TestCertificate | null;
  readonly subject: string;
  readonly #key: KeyObject;

  private constructor(wish: CertificateWish, issuer: TestCertificate | null) {
    const { publicKey, privateKey } = keyPair(wish.key);
    this.#key = privateKey;
    this.subject = wish.subject;
    this.issuer = issuer;
    const der = encode(wish, publicKey, issuer?.subject ?? wish.subject, issuer === null ? privateKey : issuer.#key);
    this.certificate = parseCertificate(der);
  }

  static root(subject: string, changes: Partial<CertificateWish> = {}): TestCertificate {
    return new TestCertificate({ ...LEAF, ...AUTHORITY, subject, ...changes }, null);
  }

  intermediate(subject: string, changes: Partial<CertificateWish> = {}): TestCertificate {
    return new TestCertificate({ ...LEAF, ...AUTHORITY, subject, ...changes }, this);
  }

  leaf(subject: string, changes: Partial<CertificateWish> = {}): TestCertificate {
    return new TestCertificate({ ...LEAF, subject, ...changes }, this);
  }

  get privatePem(): string {
    return this.#key.export({ type: "pkcs8", format: "pem" }) as string;
  }

  get pem(): string {
    const base64 = Buffer.from(this.certificate.der).toString("base64");
    return `-----BEGIN CERTIFICATE-----\n${base64.replaceAll(/.{64}/g, "$&\n")}\n-----END CERTIFICATE-----\n`;
  }

  get signingKey(): SigningKey {
    return SigningKey.fromPem(Buffer.from(this.privatePem));
  }

  /** With the intermediates above it, without the root. */
  get credential(): { readonly chain: readonly [Certificate, ...Certificate[]]; readonly key: SigningKey } {
    const above: Certificate[] = [];
    for (let at = this.issuer; at?.issuer != null; at = at.issuer) above.push(at.certificate);
    return { chain: [this.certificate, ...above], key: this.signingKey };
  }

  /** A revocation list of this authority, as DER. */
  revocationListDer(
    revoked: readonly TestCertificate[],
    dates: { thisUpdateMs?: number; nextUpdateMs?: number; extensions?: Extension[]; signer?: TestCertificate } = {},
  ): Uint8Array {
    const signer = (dates.signer ?? this).#key;
    const scheme = schemeOf(signer);
    const algorithm = AsnConvert.parse(algorithmOfScheme(scheme), AlgorithmIdentifier);
    const tbs = new TBSCertList({
      version: Version.v2,
      signature: algorithm,
      issuer: nameOf(this.subject),
      thisUpdate: new Time(new Date(dates.thisUpdateMs ?? NOW_MS - DAY_MS)),
      nextUpdate: new Time(new Date(dates.nextUpdateMs ?? NOW_MS + DAY_MS)),
      ...(revoked.length === 0
        ? {}
        : {
            revokedCertificates: revoked.map(
              ({ certificate }) =>
                new RevokedCertificate({
                  userCertificate: bufferOf(Buffer.from(certificate.serialHex, "hex")),
                  revocationDate: new Time(new Date(NOW_MS - DAY_MS)),
                }),
            ),
          }),
      ...(dates.extensions === undefined ? {} : { crlExtensions: dates.extensions }),
    });
    const signature = sign(scheme.kind === "ed25519" ? null : "sha256", bytesOf(tbs), signer);
    const list = new CertificateList({
      tbsCertList: tbs,
      signatureAlgorithm: algorithm,
      signature: bufferOf(signature),
    });
    return bytesOf(list);
  }

  revocationList(...parameters: Parameters<TestCertificate["revocationListDer"]>): RevocationList {
    return parseRevocationList(this.revocationListDer(...parameters));
  }
}

function encode(wish: CertificateWish, publicKey: KeyObject, issuer: string, signer: KeyObject): Uint8Array {
  const scheme = schemeOf(signer);
  const { algorithm: algorithmDer, digest } = wish.signedWith ?? {
    algorithm: algorithmOfScheme(scheme),
    digest: scheme.kind === "ed25519" ? null : "sha256",
  };
  const algorithm = AsnConvert.parse(algorithmDer, AlgorithmIdentifier);
  const serial = randomBytes(8);
  serial[0] = 0x40 | ((serial[0] ?? 0) & 0x3f);
  const spki = publicKey.export({ type: "spki", format: "der" });
  const tbs = new TBSCertificate({
    version: Version.v3,
    serialNumber: bufferOf(serial),
    signature: algorithm,
    issuer: nameOf(issuer),
    validity: new Validity({ notBefore: new Date(wish.notBeforeMs), notAfter: new Date(wish.notAfterMs) }),
    subject: wish.subject === "" ? new Name() : nameOf(wish.subject),
    subjectPublicKeyInfo: AsnConvert.parse(spki, SubjectPublicKeyInfo),
    extensions: new Extensions(extensionsOf(wish)),
  });
  const signatureValue = bufferOf(sign(digest, bytesOf(tbs), signer));
  return bytesOf(new AsnCertificate({ tbsCertificate: tbs, signatureAlgorithm: algorithm, signatureValue }));
}

function extensionsOf(wish: CertificateWish): Extension[] {
  const names = [
    ...wish.dns.map((dNSName) => new GeneralName({ dNSName })),
    ...wish.emails.map((rfc822Name) => new GeneralName({ rfc822Name })),
    ...wish.ips.map((iPAddress) => new GeneralName({ iPAddress })),
    ...wish.uris.map((uniformResourceIdentifier) => new GeneralName({ uniformResourceIdentifier })),
  ];
  const { authority, keyUsage, extendedKeyUsage, permitted, excluded } = wish;
  const subtrees = (bases: readonly GeneralName[]) =>
    new GeneralSubtrees(bases.map((base) => new GeneralSubtree({ base })));
  const basic = new BasicConstraints({
    cA: true,
    ...(authority?.pathLength === undefined ? {} : { pathLenConstraint: authority.pathLength }),
  });
  const constraints = new NameConstraints({
    ...(permitted.length === 0 ? {} : { permittedSubtrees: subtrees(permitted) }),
    ...(excluded.length === 0 ? {} : { excludedSubtrees: subtrees(excluded) }),
  });
  const bits = (keyUsage ?? []).reduce((sum, flag) => sum | KeyUsageFlags[flag], 0);
  return [
    ...(authority === null ? [] : [extension(id_ce_basicConstraints, basic)]),
    ...(keyUsage === null ? [] : [extension(id_ce_keyUsage, new KeyUsage(bits))]),
    ...(extendedKeyUsage === null
      ? []
      : [extension(id_ce_extKeyUsage, new ExtendedKeyUsage([...extendedKeyUsage]), false)]),
    ...(names.length === 0 ? [] : [extension(id_ce_subjectAltName, new SubjectAlternativeName(names), false)]),
    ...(permitted.length + excluded.length === 0 ? [] : [extension(id_ce_nameConstraints, constraints)]),
    ...wish.extra,
  ];
}

/** Trust in these authorities alone. */
export function trustIn(anchors: readonly TestCertificate[], changes: Partial<TrustStore> = {}): TrustStore {
  return {
    anchors: anchors.map(({ certificate }) => certificate),
    revocationLists: [],
    revocation: "relaxed",
    otherUsages: [],
    known: new CertificateCache(),
    ...changes,
  };
}
