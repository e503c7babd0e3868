import { concatBytes, fromHex, toHex } from "../core/bytes.ts";
import type { SignatureHash, SignatureScheme } from "./signature.ts";

/*
 * AlgorithmIdentifier (RFC 5280 §4.1.1.2) of the signatures that we know, whole and in DER: RFC 7427 appendix A says that
 * they may be compared as they are, so hostile ASN.1 is never parsed here.
 */

const HASHES: readonly SignatureHash[] = ["sha256", "sha384", "sha512"];

/** The last byte of the OIDs that differ by hash only. */
const PKCS1_ARC = { sha256: 0x0b, sha384: 0x0c, sha512: 0x0d } as const;
const ECDSA_ARC = { sha256: 0x02, sha384: 0x03, sha512: 0x04 } as const;
const HASH_ARC = { sha256: 0x01, sha384: 0x02, sha512: 0x03 } as const;
const HASH_BYTES = { sha256: 32, sha384: 48, sha512: 64 } as const;

const NULL = fromHex("0500");

function tlv(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const value = concatBytes(...parts);
  return concatBytes(new Uint8Array([tag, value.length]), value);
}

const SEQUENCE = 0x30;
const INTEGER = 0x02;
const OID = 0x06;
const context = (number: number): number => 0xa0 | number;

/** 1.2.840.113549.1.1.n */
const pkcs1 = (arc: number): Uint8Array => tlv(OID, fromHex("2a864886f70d0101"), new Uint8Array([arc]));
const MGF1 = pkcs1(8);
const RSASSA_PSS = pkcs1(10);

/**
 * RFC 7427 appendix A.4.3: hash, MGF1 with the same hash, salt as long as the hash. The RFC prints the trailer field of 1 as
 * well; that is its default, which DER leaves out, and libreswan knows it without alone (measured, 4.10).
 */
function pssAlgorithm(hash: SignatureHash, parameters: Uint8Array, withTrailer: boolean): Uint8Array {
  const oid = tlv(OID, fromHex("6086480165030402"), new Uint8Array([HASH_ARC[hash]]));
  const digest = tlv(SEQUENCE, oid, parameters);
  return tlv(
    SEQUENCE,
    RSASSA_PSS,
    tlv(
      SEQUENCE,
      tlv(context(0), digest),
      tlv(context(1), tlv(SEQUENCE, MGF1, digest)),
      tlv(context(2), tlv(INTEGER, new Uint8Array([HASH_BYTES[hash]]))),
      ...(withTrailer ? [tlv(context(3), tlv(INTEGER, new Uint8Array([1])))] : []),
    ),
  );
}

interface Known {
  readonly scheme: SignatureScheme;
  /** The first is the one that we send. */
  readonly encodings: readonly Uint8Array[];
}

const EMPTY = new Uint8Array(0);

const KNOWN: readonly Known[] = [
  ...HASHES.map((hash): Known => ({
    scheme: { kind: "rsa-pkcs1", hash },
    encodings: [NULL, EMPTY].map((parameters) => tlv(SEQUENCE, pkcs1(PKCS1_ARC[hash]), parameters)),
  })),
  ...HASHES.map((hash): Known => ({
    scheme: { kind: "rsa-pss", hash },
    encodings: [NULL, EMPTY].flatMap((parameters) =>
      [false, true].map((trailer) => pssAlgorithm(hash, parameters, trailer)),
    ),
  })),
  ...HASHES.map((hash): Known => ({
    scheme: { kind: "ecdsa", hash, encoding: "der" },
    encodings: [EMPTY, NULL].map((parameters) =>
      // 1.2.840.10045.4.3.n
      tlv(SEQUENCE, tlv(OID, fromHex("2a8648ce3d0403"), new Uint8Array([ECDSA_ARC[hash]])), parameters),
    ),
  })),
  // 1.3.101.112, RFC 8410 §3.
  { scheme: { kind: "ed25519" }, encodings: [tlv(SEQUENCE, tlv(OID, fromHex("2b6570")))] },
];

const BY_ENCODING = new Map(KNOWN.flatMap(({ scheme, encodings }) => encodings.map((der) => [toHex(der), scheme])));

/** The scheme that an AlgorithmIdentifier in DER names; undefined for one that we do not know or do not take (SHA-1). */
export function schemeOfAlgorithm(der: Uint8Array): SignatureScheme | undefined {
  return BY_ENCODING.get(toHex(der));
}

/** The AlgorithmIdentifier of a scheme in DER. */
export function algorithmOfScheme(scheme: SignatureScheme): Uint8Array {
  const known = KNOWN.find(
    ({ scheme: other }) =>
      other.kind === scheme.kind && ("hash" in other ? other.hash : null) === ("hash" in scheme ? scheme.hash : null),
  );
  return known?.encodings[0] ?? EMPTY;
}

const SHA1_ALGORITHMS: ReadonlySet<string> = new Set([
  "300d06092a864886f70d0101050500",
  "300906072a8648ce3d0401",
  "303e06092a864886f70d01010a3031a00b300906052b0e03021a0500a118301606092a864886f70d010108300906052b0e03021a0500a203020114a303020101",
]);

/** True for the SHA-1 algorithms of RFC 7427 appendix A, which we refuse: so that the log can say why. */
export function isSha1Algorithm(der: Uint8Array): boolean {
  return SHA1_ALGORITHMS.has(toHex(der));
}
