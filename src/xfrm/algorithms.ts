import { Secret } from "../core/secret.ts";
import {
  AH_SUITES,
  ESP_SUITES,
  sameSuite,
  suiteLengths,
  type ChildSuite,
  type EspAeadSuite,
  type EspIntegrity,
  type EspMacSuite,
} from "../sa/suite.ts";
import type { Attributes, MessageBuilder } from "../net/netlink-message.ts";
import { XFRMA_ALG_AEAD, XFRMA_ALG_AUTH_TRUNC, XFRMA_ALG_CRYPT } from "./constants.ts";
import { xfrmAlgo, xfrmAlgoAead, xfrmAlgoAuth } from "./structs.ts";

/** The kernel's names of the ciphers (`net/xfrm/xfrm_algo.c`). */
const AEADS: Readonly<Record<EspAeadSuite["kind"], string>> = {
  "aes-gcm-16": "rfc4106(gcm(aes))",
  "aes-ccm-16": "rfc4309(ccm(aes))",
  "chacha20-poly1305": "rfc7539esp(chacha20,poly1305)",
};
const CIPHERS: Readonly<Record<EspMacSuite["kind"], string>> = {
  "aes-cbc": "cbc(aes)",
  "aes-ctr": "rfc3686(ctr(aes))",
  null: "ecb(cipher_null)",
};
const HMACS: Readonly<Record<EspIntegrity, string>> = {
  "hmac-sha2-256": "hmac(sha256)",
  "hmac-sha2-384": "hmac(sha384)",
  "hmac-sha2-512": "hmac(sha512)",
};
const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder();

/** A suite with the keys of one direction. */
export interface KeyedSuite {
  readonly suite: ChildSuite;
  /** With its salt, if there is one, at the end; empty for null encryption and AH. */
  readonly encryptionKey: Secret;
  readonly integrityKey: Secret | null;
}

/** Appends the algorithm attributes. The builder's buffer holds key bytes from here on: it has to be wiped. */
export function appendAlgorithms(builder: MessageBuilder, { suite, encryptionKey, integrityKey }: KeyedSuite): void {
  checkKeyLengths(suite, encryptionKey, integrityKey);
  const keyBits = encryptionKey.lengthBytes * 8;
  const icvBits = suiteLengths(suite).icvBytes * 8;
  if (!("integrity" in suite)) {
    const head = { name: nameBytes(AEADS[suite.kind]), keyBits, icvBits };
    builder.attributeOf(XFRMA_ALG_AEAD, xfrmAlgoAead, head, encryptionKey.expose());
    return;
  }
  const authKey = integrityKey?.expose() ?? new Uint8Array();
  const authHead = { name: nameBytes(HMACS[suite.integrity]), keyBits: authKey.length * 8, truncBits: icvBits };
  builder.attributeOf(XFRMA_ALG_AUTH_TRUNC, xfrmAlgoAuth, authHead, authKey);
  if (suite.kind === "ah") return;
  const cryptHead = { name: nameBytes(CIPHERS[suite.kind]), keyBits };
  builder.attributeOf(XFRMA_ALG_CRYPT, xfrmAlgo, cryptHead, encryptionKey.expose());
}

/** Reads the algorithm attributes of a dumped state; null when they are not a suite of ours. */
export function decodeAlgorithms(attributes: Attributes): KeyedSuite | null {
  const aead = attributes.bytes(XFRMA_ALG_AEAD);
  if (aead !== null) return decodeAead(aead);
  const crypt = attributes.bytes(XFRMA_ALG_CRYPT);
  const auth = attributes.bytes(XFRMA_ALG_AUTH_TRUNC);
  if (auth === null) return null;
  // Encryption by nothing has an algorithm, too: only AH has none.
  return crypt === null ? decodeAuth(auth) : decodeCryptAndAuth(crypt, auth);
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

/** In place of a cipher's name; the kernel has no such cipher. */
const NO_CIPHER = "";

/** Every suite by what the kernel says of it: names, and lengths of keys and ICV in bits. */
const SUITES: ReadonlyMap<string, ChildSuite> = new Map(
  [...ESP_SUITES, ...AH_SUITES].map((suite): [string, ChildSuite] => {
    const { encryptionKeyBytes, integrityKeyBytes, icvBytes } = suiteLengths(suite);
    const [keyBits, authBits, icvBits] = [encryptionKeyBytes * 8, integrityKeyBytes * 8, icvBytes * 8];
    if (!("integrity" in suite)) return [aeadKey(AEADS[suite.kind], keyBits, icvBits), suite];
    const cipher = suite.kind === "ah" ? NO_CIPHER : CIPHERS[suite.kind];
    return [macKey(cipher, keyBits, HMACS[suite.integrity], authBits, icvBits), suite];
  }),
);

function aeadKey(name: string, keyBits: number, icvBits: number): string {
  return `${name} ${keyBits} ${icvBits}`;
}

function macKey(cipher: string, keyBits: number, hmac: string, authBits: number, icvBits: number): string {
  return `${cipher} ${keyBits} ${hmac} ${authBits} ${icvBits}`;
}

function decodeAead(bytes: Uint8Array): KeyedSuite | null {
  const { name, keyBits, icvBits } = xfrmAlgoAead.decode(bytes);
  const suite = SUITES.get(aeadKey(nameOf(name), keyBits, icvBits));
  if (suite === undefined) return null;
  return { suite, encryptionKey: keyAfter(bytes, xfrmAlgoAead.size, keyBits), integrityKey: null };
}

function decodeCryptAndAuth(crypt: Uint8Array, auth: Uint8Array): KeyedSuite | null {
  const { name: cryptName, keyBits } = xfrmAlgo.decode(crypt);
  const { name: authName, keyBits: authBits, truncBits } = xfrmAlgoAuth.decode(auth);
  const suite = SUITES.get(macKey(nameOf(cryptName), keyBits, nameOf(authName), authBits, truncBits));
  if (suite === undefined) return null;
  return {
    suite,
    encryptionKey: keyAfter(crypt, xfrmAlgo.size, keyBits),
    integrityKey: keyAfter(auth, xfrmAlgoAuth.size, authBits),
  };
}

function decodeAuth(auth: Uint8Array): KeyedSuite | null {
  const { name, keyBits, truncBits } = xfrmAlgoAuth.decode(auth);
  const suite = SUITES.get(macKey(NO_CIPHER, 0, nameOf(name), keyBits, truncBits));
  if (suite === undefined) return null;
  const integrityKey = keyAfter(auth, xfrmAlgoAuth.size, keyBits);
  return { suite, encryptionKey: new Secret(new Uint8Array(0)), integrityKey };
}

function keyAfter(bytes: Uint8Array, offset: number, keyBits: number): Secret {
  return new Secret(new Uint8Array(bytes.subarray(offset, offset + keyBits / 8)));
}

function checkKeyLengths(suite: ChildSuite, encryptionKey: Secret, integrityKey: Secret | null): void {
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
