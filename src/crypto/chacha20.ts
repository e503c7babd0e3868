import { invariant } from "../core/errors.ts";

/** RFC 8439 §2.3. */
export const CHACHA20_BLOCK_BYTES = 64;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const DOUBLE_ROUNDS = 10;
/** "expand 32-byte k", RFC 8439 §2.3. */
const CONSTANTS = [0x61707865, 0x3320646e, 0x79622d32, 0x6b206574] as const;

/** Gives block `counter` of the key stream for a nonce of 12 bytes. The result is overwritten by the next call. */
export type ChaCha20Blocks = (nonce: Uint8Array, counter: number) => Uint8Array;

/**
 * The ChaCha20 block function (RFC 8439 §2.3) with one key, for who needs single blocks of many messages: a context of OpenSSL
 * is bound to its nonce, and making one costs many times a block. Whole messages are OpenSSL's (`ciphers.ts`). Adds, rotates and xors
 * only, so its time tells nothing of the key. Keeps a copy of the key.
 */
export function chacha20Blocks(key: Uint8Array): ChaCha20Blocks {
  invariant(key.length === KEY_BYTES, "a ChaCha20 key has 32 bytes");
  const initial = new Uint32Array(16);
  initial.set(CONSTANTS);
  copyWords(initial, 4, key);
  const state = new Uint32Array(16);
  const block = new Uint8Array(CHACHA20_BLOCK_BYTES);
  return (nonce, counter) => {
    invariant(nonce.length === NONCE_BYTES, "a ChaCha20 nonce has 12 bytes");
    initial[12] = counter;
    copyWords(initial, 13, nonce);
    state.set(initial);
    for (let i = 0; i < DOUBLE_ROUNDS; i++) doubleRound(state);
    for (let i = 0; i < state.length; i++) {
      const word = (state[i] ?? 0) + (initial[i] ?? 0);
      block[4 * i] = word;
      block[4 * i + 1] = word >>> 8;
      block[4 * i + 2] = word >>> 16;
      block[4 * i + 3] = word >>> 24;
    }
    return block;
  };
}

/** Little-endian, RFC 8439 §2.3. */
function copyWords(state: Uint32Array, at: number, bytes: Uint8Array): void {
  for (let i = 0; i < bytes.length; i += 4) {
    const [a = 0, b = 0, c = 0, d = 0] = [bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]];
    state[at + i / 4] = a | (b << 8) | (c << 16) | (d << 24);
  }
}

/** Columns, then diagonals: RFC 8439 §2.3. */
function doubleRound(state: Uint32Array): void {
  quarterRound(state, 0, 4, 8, 12);
  quarterRound(state, 1, 5, 9, 13);
  quarterRound(state, 2, 6, 10, 14);
  quarterRound(state, 3, 7, 11, 15);
  quarterRound(state, 0, 5, 10, 15);
  quarterRound(state, 1, 6, 11, 12);
  quarterRound(state, 2, 7, 8, 13);
  quarterRound(state, 3, 4, 9, 14);
}

/** RFC 8439 §2.1, on four words of the state. */
function quarterRound(state: Uint32Array, ai: number, bi: number, ci: number, di: number): void {
  let a = state[ai] ?? 0;
  let b = state[bi] ?? 0;
  let c = state[ci] ?? 0;
  let d = state[di] ?? 0;
  a = (a + b) | 0;
  d = rotateLeft(d ^ a, 16);
  c = (c + d) | 0;
  b = rotateLeft(b ^ c, 12);
  a = (a + b) | 0;
  d = rotateLeft(d ^ a, 8);
  c = (c + d) | 0;
  b = rotateLeft(b ^ c, 7);
  state[ai] = a;
  state[bi] = b;
  state[ci] = c;
  state[di] = d;
}

function rotateLeft(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits));
}
