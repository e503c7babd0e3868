import { Secret } from "../core/secret.ts";
import type { EspCbcSuite, EspSuite } from "../sa/suite.ts";
import { suiteLengths } from "../sa/suite.ts";
import type { Attributes, MessageBuilder } from "../net/netlink-message.ts";
import { XFRMA_ALG_AEAD, XFRMA_ALG_AUTH_TRUNC, XFRMA_ALG_CRYPT } from "./constants.ts";
import { xfrmAlgo, xfrmAlgoAead, xfrmAlgoAuth } from "./structs.ts";

const GCM = "rfc4106(gcm(aes))";
const CBC = "cbc(aes)";
/** The kernel's name of each integrity algorithm and the bits of its ICV (RFC 4868). */
const HMACS: Readonly<Record<EspCbcSuite["integrity"], { readonly name: string; readonly truncBits: number }>> = {
  "hmac-sha2-256": { name: "hmac(sha256)", truncBits: 128 },
  "hmac-sha2-384": { name: "hmac(sha384)", truncBits: 192 },
  "hmac-sha2-512": { name: "hmac(sha512)", truncBits: 256 },
};
const GCM_ICV_BITS = 128;
const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder();

/** A suite with the keys of one direction. */
export interface KeyedSuite {
  readonly suite: EspSuite;
  /** For AES-GCM followed by its salt. */
  readonly encryptionKey: Secret;
  readonly integrityKey: Secret | null;
}

/** Appends the algorithm attributes. The builder's buffer holds key bytes from here on: it has to be wiped. */
export function appendAlgorithms(builder: MessageBuilder, { suite, encryptionKey, integrityKey }: KeyedSuite): void {
  checkKeyLengths(suite, encryptionKey, integrityKey);
  const keyBits = encryptionKey.lengthBytes * 8;
  if (suite.kind === "aes-gcm-16") {
    const head = { name: nameBytes(GCM), keyBits, icvBits: GCM_ICV_BITS };
    builder.attributeOf(XFRMA_ALG_AEAD, xfrmAlgoAead, head, encryptionKey.expose());
    return;
  }
  const { name, truncBits } = HMACS[suite.integrity];
  const authKey = integrityKey?.expose() ?? new Uint8Array();
  const authHead = { name: nameBytes(name), keyBits: authKey.length * 8, truncBits };
  builder.attributeOf(XFRMA_ALG_AUTH_TRUNC, xfrmAlgoAuth, authHead, authKey);
  builder.attributeOf(XFRMA_ALG_CRYPT, xfrmAlgo, { name: nameBytes(CBC), keyBits }, encryptionKey.expose());
}

/** Reads the algorithm attributes of a dumped state; null when they are not a suite of ours. */
export function decodeAlgorithms(attributes: Attributes): KeyedSuite | null {
  const aead = attributes.bytes(XFRMA_ALG_AEAD);
  if (aead !== null) return decodeAead(aead);
  const crypt = attributes.bytes(XFRMA_ALG_CRYPT);
  const auth = attributes.bytes(XFRMA_ALG_AUTH_TRUNC);
  return crypt === null || auth === null ? null : decodeCryptAndAuth(crypt, auth);
}

/** True when algorithms and keys are the same; keys are compared in constant time. */
export function sameKeys(a: KeyedSuite, b: KeyedSuite): boolean {
  const sameEncryption = a.encryptionKey.equals(b.encryptionKey);
  const sameIntegrity =
    a.integrityKey === null || b.integrityKey === null
      ? a.integrityKey === b.integrityKey
      : a.integrityKey.equals(b.integrityKey);
  return sameSuite(a.suite, b.suite) && sameEncryption && sameIntegrity;
}

function sameSuite(a: EspSuite, b: EspSuite): boolean {
  if (a.kind !== b.kind || a.keyBits !== b.keyBits) return false;
  return a.kind !== "aes-cbc" || b.kind !== "aes-cbc" || a.integrity === b.integrity;
}

function decodeAead(bytes: Uint8Array): KeyedSuite | null {
  const { name, keyBits, icvBits } = xfrmAlgoAead.decode(bytes);
  if (nameOf(name) !== GCM || icvBits !== GCM_ICV_BITS) return null;
  const aesBits = keyBits - 32;
  if (aesBits !== 128 && aesBits !== 256) return null;
  const encryptionKey = keyAfter(bytes, xfrmAlgoAead.size, keyBits);
  return { suite: { kind: "aes-gcm-16", keyBits: aesBits }, encryptionKey, integrityKey: null };
}

function decodeCryptAndAuth(crypt: Uint8Array, auth: Uint8Array): KeyedSuite | null {
  const { name: cryptName, keyBits } = xfrmAlgo.decode(crypt);
  const { name: authName, keyBits: authBits, truncBits } = xfrmAlgoAuth.decode(auth);
  if (nameOf(cryptName) !== CBC || (keyBits !== 128 && keyBits !== 256)) return null;
  for (const integrity of ["hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512"] as const) {
    const hmac = HMACS[integrity];
    if (hmac.name !== nameOf(authName) || hmac.truncBits !== truncBits) continue;
    return {
      suite: { kind: "aes-cbc", keyBits, integrity },
      encryptionKey: keyAfter(crypt, xfrmAlgo.size, keyBits),
      integrityKey: keyAfter(auth, xfrmAlgoAuth.size, authBits),
    };
  }
  return null;
}

function keyAfter(bytes: Uint8Array, offset: number, keyBits: number): Secret {
  return new Secret(new Uint8Array(bytes.subarray(offset, offset + keyBits / 8)));
}

function checkKeyLengths(suite: EspSuite, encryptionKey: Secret, integrityKey: Secret | null): void {
  const { encryptionKeyBytes, integrityKeyBytes } = suiteLengths(suite);
  const integrityBytes = integrityKey?.lengthBytes ?? 0;
  if (encryptionKey.lengthBytes !== encryptionKeyBytes || integrityBytes !== integrityKeyBytes) {
    throw new RangeError(`key lengths ${encryptionKey.lengthBytes}/${integrityBytes} do not fit ${suite.kind}`);
  }
}

function nameBytes(name: string): Uint8Array {
  return utf8Encoder.encode(name);
}

function nameOf(bytes: Uint8Array): string {
  return utf8Decoder.decode(bytes.subarray(0, bytes.indexOf(0)));
}
