import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { fromHex, toHex } from "../../../src/core/bytes.ts";
import { Secret } from "../../../src/core/secret.ts";
import {
  integrityTag,
  integrityTagBytes,
  prf,
  prfBytes,
  prfPlus,
  verifyIntegrityTag,
} from "../../../src/crypto/prf.ts";

interface Rfc4231 {
  readonly cases: readonly {
    case: number;
    key: string;
    data: string;
    sha256: string;
    sha384: string;
    sha512: string;
  }[];
}
const vectors = JSON.parse(readFileSync(new URL("../../vectors/ike/rfc4231.json", import.meta.url), "utf8")) as Rfc4231;

for (const vector of vectors.cases) {
  test(`RFC 4231 test case ${vector.case}`, () => {
    const [key, data] = [fromHex(vector.key), fromHex(vector.data)];
    expect(toHex(prf("hmac-sha2-256", key, data))).toBe(vector.sha256);
    expect(toHex(prf("hmac-sha2-384", key, data))).toBe(vector.sha384);
    expect(toHex(prf("hmac-sha2-512", key, data.subarray(0, 3), data.subarray(3)))).toBe(vector.sha512);
    const tag = integrityTag("hmac-sha2-512", new Secret(key), data);
    expect(toHex(tag)).toBe(vector.sha512.slice(0, 64));
  });
}

test("lengths of RFC 4868 §2.3 and §2.1.2", () => {
  expect(integrityTagBytes("hmac-sha2-256")).toBe(16);
  expect(integrityTagBytes("hmac-sha2-384")).toBe(24);
  expect(integrityTagBytes("hmac-sha2-512")).toBe(32);
  expect(prfBytes("hmac-sha2-384")).toBe(48);
});

test("prf+ chains its blocks as RFC 7296 §2.13 says, and stops at 255", () => {
  const key = new Secret(new Uint8Array(32).fill(7));
  const seed = new Uint8Array([1, 2, 3]);
  const t1 = prf("hmac-sha2-256", key.expose(), seed, new Uint8Array([1]));
  const t2 = prf("hmac-sha2-256", key.expose(), t1, seed, new Uint8Array([2]));
  const t3 = prf("hmac-sha2-256", key.expose(), t2, seed, new Uint8Array([3]));
  expect(toHex(prfPlus("hmac-sha2-256", key, seed, 70))).toBe((toHex(t1) + toHex(t2) + toHex(t3)).slice(0, 140));
  expect(prfPlus("hmac-sha2-256", key, seed, 255 * 32)).toHaveLength(255 * 32);
  expect(() => prfPlus("hmac-sha2-256", key, seed, 255 * 32 + 1)).toThrow("prf+ cannot give");
});

test("a tag that differs in one bit, or in length, is refused", () => {
  const key = new Secret(new Uint8Array(32).fill(1));
  const data = new Uint8Array(100);
  const tag = integrityTag("hmac-sha2-256", key, data);
  expect(verifyIntegrityTag("hmac-sha2-256", key, data, tag)).toBe(true);
  expect(verifyIntegrityTag("hmac-sha2-256", key, data, tag.subarray(1))).toBe(false);
  tag[15] = (tag[15] ?? 0) ^ 1;
  expect(verifyIntegrityTag("hmac-sha2-256", key, data, tag)).toBe(false);
});
