import { createCipheriv, createDecipheriv } from "node:crypto";
import { invariant } from "../core/errors.ts";
import { CHACHA20_BLOCK_BYTES, chacha20Blocks } from "../crypto/chacha20.ts";
import { suiteLengths, type EspSuite, type SuiteLengths } from "./suite.ts";

/**
 * Reads plaintext bytes `[from, to)` out of IV + ciphertext + ICV, decrypting the blocks that hold them (and the head's) only. The
 * caller has checked that `to` is not behind the plaintext's end. The result may be a view of `payload`.
 */
export type PlaintextReader = (payload: Uint8Array, from: number, to: number) => Uint8Array;

/** AES works on 16 bytes whatever its key length (FIPS 197). */
const AES_BLOCK_BYTES = 16;
/** The counter stands in the last 4 bytes of the counter block, big-endian, in all three modes. */
const COUNTER_BYTES = 4;
/** RFC 4106 §3 and SP 800-38D: counter 1 makes the ICV, the plaintext starts at 2. */
const GCM_FIRST_COUNTER = 2;
/** RFC 4309 §5.2 (SP 800-38C A.3): counter 0 makes the ICV. RFC 3686 §4: counts from 1. */
const CCM_FIRST_COUNTER = 1;
const CTR_FIRST_COUNTER = 1;
/** First byte of a counter block of CCM: the counter's length less one (SP 800-38C A.3, RFC 4309 §5.2). */
const CCM_FLAGS = COUNTER_BYTES - 1;

/** Counter blocks beyond the head for which there is room from the start: a trailer lies in one or two. */
const SPARE_BLOCKS = 2;

/** RFC 8439 §2.8: block 0 makes the key of Poly1305, the plaintext starts at 1. */
const CHACHA_FIRST_COUNTER = 1;

/**
 * A reader for packets of one SA. It holds a keyed context where the cipher allows: make one per SA and keep it. `headBytes`: what will
 * be read of nearly every packet's beginning, when its end is read first or in several pieces.
 */
export function createPlaintextReader(suite: EspSuite, keyAndSalt: Uint8Array, headBytes = 0): PlaintextReader {
  const lengths = suiteLengths(suite);
  const keyBytes = lengths.encryptionKeyBytes - lengths.saltBytes;
  const key = keyAndSalt.subarray(0, keyBytes);
  const salt = keyAndSalt.subarray(keyBytes);
  switch (suite.kind) {
    case "aes-gcm-16":
      return counterReader(key, salt, GCM_FIRST_COUNTER, lengths, headBytes);
    case "aes-ctr":
      return counterReader(key, salt, CTR_FIRST_COUNTER, lengths, headBytes);
    case "aes-ccm-16":
      return counterReader(key, Uint8Array.of(CCM_FLAGS, ...salt), CCM_FIRST_COUNTER, lengths, headBytes);
    case "chacha20-poly1305":
      return chachaReader(key, salt, lengths);
    case "aes-cbc":
      return cbcReader(key, lengths);
    case "null":
      return (payload, from, to) => payload.subarray(from, to);
  }
}

/** The blocks `[first, first + count)` that cover plaintext bytes `[from, to)`. */
function coveringBlocks(from: number, to: number): { first: number; count: number } {
  const first = Math.floor(from / AES_BLOCK_BYTES);
  return { first, count: Math.ceil(to / AES_BLOCK_BYTES) - first };
}

/**
 * CTR, and what is CTR inside: the keystream of a block is AES(prefix ‖ IV ‖ counter), from ECB with one cached context. A call of
 * OpenSSL costs many times a block, so the first one for an IV makes the blocks of the head too, and they are kept until the IV is
 * another one: keystream depends on nothing but key, IV and counter.
 */
function counterReader(
  key: Uint8Array,
  prefix: Uint8Array,
  firstCounter: number,
  { ivBytes }: SuiteLengths,
  headBytes: number,
): PlaintextReader {
  invariant(prefix.length + ivBytes + COUNTER_BYTES === AES_BLOCK_BYTES, "a counter block is one block");
  const ecb = createCipheriv(`aes-${key.length * 8}-ecb`, key, null).setAutoPadding(false);
  const headBlocks = Math.ceil(headBytes / AES_BLOCK_BYTES);
  const iv = new Uint8Array(ivBytes);
  let head: Uint8Array = new Uint8Array();
  let counters = counterBlocks(prefix, headBlocks + SPARE_BLOCKS);

  /** Keystream for `iv` of blocks `[first, first + count)`, behind that of the first `ahead` ones. */
  const keystreamOf = (ahead: number, first: number, count: number): Uint8Array => {
    const lengthBytes = (ahead + count) * AES_BLOCK_BYTES;
    if (lengthBytes > counters.length) counters = counterBlocks(prefix, ahead + count);
    for (let i = 0; i < ahead + count; i++) {
      const ivAt = i * AES_BLOCK_BYTES + prefix.length;
      for (let j = 0; j < ivBytes; j++) counters[ivAt + j] = iv[j] ?? 0;
      const counter = firstCounter + (i < ahead ? i : first + i - ahead);
      const counterAt = ivAt + ivBytes;
      counters[counterAt] = counter >>> 24;
      counters[counterAt + 1] = counter >>> 16;
      counters[counterAt + 2] = counter >>> 8;
      counters[counterAt + 3] = counter;
    }
    return ecb.update(counters.subarray(0, lengthBytes));
  };

  return (payload, from, to) => {
    const { first, count } = coveringBlocks(from, to);
    const inHead = first + count <= headBlocks;
    const isNew = head.length === 0 || !startsWith(payload, iv);
    let keystream = head;
    let offset = 0;
    if (isNew || !inHead) {
      const ahead = isNew ? headBlocks : 0;
      if (isNew) iv.set(payload.subarray(0, ivBytes));
      keystream = keystreamOf(ahead, first, inHead ? 0 : count);
      if (!inHead) offset = (first - ahead) * AES_BLOCK_BYTES;
      if (isNew) head = keystream;
    }
    const plain = new Uint8Array(to - from);
    for (let i = 0; i < plain.length; i++) {
      plain[i] = (payload[ivBytes + from + i] ?? 0) ^ (keystream[from + i - offset] ?? 0);
    }
    return plain;
  };
}

/** Room for so many counter blocks, the prefix in each. */
function counterBlocks(prefix: Uint8Array, count: number): Uint8Array {
  const blocks = new Uint8Array(count * AES_BLOCK_BYTES);
  for (let at = 0; at < blocks.length; at += AES_BLOCK_BYTES) blocks.set(prefix, at);
  return blocks;
}

function startsWith(bytes: Uint8Array, start: Uint8Array): boolean {
  for (let i = 0; i < start.length; i++) if (bytes[i] !== start[i]) return false;
  return true;
}

/** The nonce is salt ‖ IV (RFC 7634 §2). */
function chachaReader(key: Uint8Array, salt: Uint8Array, { ivBytes }: SuiteLengths): PlaintextReader {
  const keystream = chacha20Blocks(key);
  const nonce = new Uint8Array(salt.length + ivBytes);
  nonce.set(salt);
  return (payload, from, to) => {
    nonce.set(payload.subarray(0, ivBytes), salt.length);
    const plain = new Uint8Array(to - from);
    for (let at = from; at < to;) {
      const first = Math.floor(at / CHACHA20_BLOCK_BYTES);
      const offset = first * CHACHA20_BLOCK_BYTES;
      const block = keystream(nonce, CHACHA_FIRST_COUNTER + first);
      const end = Math.min(to, offset + CHACHA20_BLOCK_BYTES);
      for (; at < end; at++) plain[at - from] = (payload[ivBytes + at] ?? 0) ^ (block[at - offset] ?? 0);
    }
    return plain;
  };
}

/** CBC: plaintext block = AES⁻¹(ciphertext block) ⊕ the block before it, the IV before the first. */
function cbcReader(key: Uint8Array, { ivBytes }: SuiteLengths): PlaintextReader {
  invariant(ivBytes === AES_BLOCK_BYTES, "the IV of CBC is one block");
  const ecb = createDecipheriv(`aes-${key.length * 8}-ecb`, key, null).setAutoPadding(false);
  return (payload, from, to) => {
    const { first, count } = coveringBlocks(from, to);
    const offset = first * AES_BLOCK_BYTES;
    // `payload` starts with the IV: the block before ciphertext block i lies at i, block i itself one further.
    const before = payload.subarray(offset, offset + count * AES_BLOCK_BYTES);
    const blocks = payload.subarray(offset + AES_BLOCK_BYTES, offset + (count + 1) * AES_BLOCK_BYTES);
    const decrypted = ecb.update(blocks);
    const plain = new Uint8Array(to - from);
    for (let i = 0; i < plain.length; i++)
      plain[i] = (decrypted[from + i - offset] ?? 0) ^ (before[from + i - offset] ?? 0);
    return plain;
  };
}
