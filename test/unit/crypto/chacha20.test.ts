import { createCipheriv } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { fromHex, toHex } from "../../../src/core/bytes.ts";
import { CHACHA20_BLOCK_BYTES, chacha20Blocks } from "../../../src/crypto/chacha20.ts";

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });

test("RFC 7634 appendix A: block 0 is the one-time key of Poly1305", () => {
  const key = Uint8Array.from({ length: 32 }, (_, i) => 0x80 + i);
  const block = chacha20Blocks(key)(fromHex("a0a1a2a31011121314151617"), 0);
  expect(toHex(block.subarray(0, 32))).toBe("af1f412cc115adce5e4d0e29d5c130bf4631210e0fef7431c0454fe70fd7c2d1");
});

test("any block of any key and nonce is OpenSSL's, whatever came before", () => {
  fc.assert(
    fc.property(bytes(32), fc.array(fc.tuple(bytes(12), fc.integer({ min: 0, max: 2 ** 32 - 1 }))), (key, calls) => {
      const blocks = chacha20Blocks(key);
      for (const [nonce, counter] of calls) {
        const iv = Buffer.alloc(16);
        iv.writeUInt32LE(counter);
        iv.set(nonce, 4);
        const theirs = createCipheriv("chacha20", key, iv).update(new Uint8Array(CHACHA20_BLOCK_BYTES));
        expect(toHex(blocks(nonce, counter))).toBe(toHex(theirs));
      }
    }),
  );
});

test("a key or nonce of another length is refused", () => {
  expect(() => chacha20Blocks(new Uint8Array(16))).toThrow("32 bytes");
  expect(() => chacha20Blocks(new Uint8Array(32))(new Uint8Array(8), 0)).toThrow("12 bytes");
});
