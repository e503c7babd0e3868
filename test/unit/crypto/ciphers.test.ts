import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { fromHex, toHex } from "../../../src/core/bytes.ts";
import { isError } from "../../../src/core/errors.ts";
import { Secret } from "../../../src/core/secret.ts";
import { aeadOpen, aeadSeal, cbcDecrypt, cbcEncrypt } from "../../../src/crypto/ciphers.ts";

test("AES-128-GCM: test case 4 of the GCM specification (NIST, McGrew and Viega)", () => {
  const key = new Secret(fromHex("feffe9928665731c6d6a8f9467308308"));
  const nonce = fromHex("cafebabefacedbaddecaf888");
  const aad = fromHex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
  const plaintext = fromHex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
  );
  const sealed = aeadSeal("aes-gcm-16", key, nonce, aad, plaintext);
  expect(toHex(sealed.subarray(-16))).toBe("5bc94fbc3221a5db94fae95ae7121a47");
  expect(toHex(sealed.subarray(0, 8))).toBe("42831ec221777424");
  expect(aeadOpen("aes-gcm-16", key, nonce, aad, sealed)).toEqual(plaintext);
});

test("ChaCha20-Poly1305: RFC 7634 appendix A and B", () => {
  interface Part {
    readonly plaintext: string;
    readonly ciphertext: string;
    readonly tag: string;
  }
  const url = new URL("../../vectors/rfc7634.json", import.meta.url);
  const vector = JSON.parse(readFileSync(url, "utf8")) as {
    keymat: string;
    esp: Part;
    ike: Part & { message: string };
  };
  const key = new Secret(fromHex(vector.keymat.slice(0, 64)));
  const nonce = fromHex(`${vector.keymat.slice(64)}1011121314151617`);
  const parts = [
    { ...vector.esp, aad: "0102030400000005" },
    { ...vector.ike, aad: vector.ike.message.slice(0, 64) },
  ];
  for (const { plaintext, ciphertext, tag, aad } of parts) {
    const sealed = aeadSeal("chacha20-poly1305", key, nonce, fromHex(aad), fromHex(plaintext));
    expect(toHex(sealed)).toBe(ciphertext + tag);
    expect(toHex(aeadOpen("chacha20-poly1305", key, nonce, fromHex(aad), sealed))).toBe(plaintext);
  }
});

test.each(["aes-gcm-16", "chacha20-poly1305"] as const)(
  "%s: a changed tag, text, header or nonce, and a missing tag, are refused",
  (name) => {
    const key = new Secret(new Uint8Array(32).fill(3));
    const [nonce, aad] = [new Uint8Array(12), new Uint8Array(32)];
    const sealed = aeadSeal(name, key, nonce, aad, new Uint8Array(40));
    const codeOf = (run: () => unknown) => {
      try {
        return run();
      } catch (error) {
        return isError(error, "wire.") ? error.code : error;
      }
    };
    for (const at of [0, 39, 40, 55]) {
      const changed = Uint8Array.from(sealed);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(codeOf(() => aeadOpen(name, key, nonce, aad, changed))).toBe("wire.integrity");
    }
    expect(codeOf(() => aeadOpen(name, key, nonce, aad.subarray(1), sealed))).toBe("wire.integrity");
    expect(codeOf(() => aeadOpen(name, key, new Uint8Array(12).fill(1), aad, sealed))).toBe("wire.integrity");
    expect(codeOf(() => aeadOpen(name, key, nonce, aad, sealed.subarray(0, 15)))).toBe("wire.short");
  },
);

test("AES-CBC: RFC 3602 §4 case 1 (one block); broken blocks are refused", () => {
  const key = new Secret(fromHex("06a9214036b8a15b512e03d534120006"));
  const iv = fromHex("3dafba429d9eb430b422da802c9fac41");
  const ciphertext = cbcEncrypt(key, iv, new TextEncoder().encode("Single block msg"));
  expect(toHex(ciphertext)).toBe("e353779c1079aeb82708942dbe77181a");
  expect(new TextDecoder().decode(cbcDecrypt(key, iv, ciphertext))).toBe("Single block msg");
  expect(() => cbcDecrypt(key, iv, ciphertext.subarray(1))).toThrow("not whole blocks");
});
