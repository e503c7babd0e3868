/**
 * How many numbers an SA may use before two of its packets might share an IV under one key (RFC 6054, RFC 4106 §3.1).
 *
 * Linux makes the 64-bit IV of a counter-mode cipher (GCM, CCM, CTR, ChaCha20-Poly1305; `crypto/seqiv.c`) as sequence number
 * XOR salt: all 64 bits of the number, the upper half is 0 without ESN (`net/ipv4/esp4.c`), and a salt that each kernel
 * state draws at random when it is made (`crypto/geniv.c`). One state never repeats an IV, for its numbers never repeat. Two
 * states i and j of one key do when `a XOR b = salt_i XOR salt_j` for numbers a of i and b of j: a given XOR of two
 * salts comes with probability 2^-64. With K states that may send, and all numbers below E:
 *
 * - Per pair of states, the XORs of numbers below E lie below P, the power of two at or above E: at most P of them, so
 *   `p <= K(K-1)/2 * P * 2^-64`. As P may be almost 2E, the design's rule `K^2/2 * E * 2^-64 <= 2^-32` alone bounds p only to
 *   twice that (K(K-1) < K^2 gives most of it back): both are kept, and p <= 2^-32 is proved.
 * - Per pair of packets: at most E^2/2 of them, so `p <= E^2/2 * 2^-64` whatever K is: 2^-32 up to E = 2^16.5. This is what
 *   is left to an SA whose states died often.
 *
 * The arithmetic is the same with ESN: there the budget always ends the SA, at E = 2^33 for one state. CBC is free:
 * `echainiv` encrypts the number with the block cipher, and 128-bit IVs may be as random as they like (RFC 3602 §3).
 * Ciphers whose IV is the bare number (RFC 8750) would collide across hosts with the first packet of a spoilt lease, and have
 * no salt to differ in: never negotiated.
 */
import type { ChildSuite } from "../sa/suite.ts";

/** `K^2 * E`, `K(K-1) * P` and `E^2` may reach this: twice 2^64 pairs or XORs, times the accepted risk of 2^-32 per key. */
const BUDGET = 1n << 33n;
/** The largest E with `E^2 <= BUDGET`. */
const FREE_END = 92_681n;

/** Every cipher must be here: one that is forgotten does not compile. */
const COUNTER_NONCE: Readonly<Record<ChildSuite["kind"], boolean>> = {
  "aes-gcm-16": true,
  "aes-ccm-16": true,
  "aes-ctr": true,
  "chacha20-poly1305": true,
  "aes-cbc": false,
  null: false,
  ah: false,
};

/** True for ciphers under the budget: their IV is made from the number. */
export function hasCounterNonce({ kind }: ChildSuite): boolean {
  return COUNTER_NONCE[kind];
}

/** The first number that K kernel instances of one key must not use any more. */
export function nonceBudgetEnd(kernelInstances: number): bigint {
  const k = BigInt(Math.max(1, kernelInstances));
  const design = BUDGET / (k * k);
  const proved = k === 1n ? design : powerOfTwoBelow(BUDGET / (k * (k - 1n)));
  const byStates = design < proved ? design : proved;
  return byStates > FREE_END ? byStates : FREE_END;
}

/** The largest power of two at or below `value`; 0 for 0. */
function powerOfTwoBelow(value: bigint): bigint {
  return value === 0n ? 0n : 1n << BigInt(value.toString(2).length - 1);
}
