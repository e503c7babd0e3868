import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { concatBytes, fromHex, toHex } from "../../../src/core/bytes.ts";
import { isError } from "../../../src/core/errors.ts";
import { DH_GROUPS, dhGroup, type DhGroup } from "../../../src/crypto/dh.ts";

function group(id: number): DhGroup {
  const found = dhGroup(id);
  if (found === undefined) throw new Error(`no group ${id}`);
  return found;
}

function expectMalformed(run: () => unknown): void {
  let thrown: unknown;
  try {
    run();
  } catch (error) {
    thrown = error;
  }
  expect(isError(thrown, "wire.malformed")).toBe(true);
}

for (const each of DH_GROUPS) {
  test(`${each.name}: both sides agree; a value of the wrong length is refused`, () => {
    const [a, b] = [each.generate(), each.generate()];
    expect(a.publicValue).toHaveLength(each.publicBytes);
    expect(toHex(a.publicValue)).not.toBe(toHex(b.publicValue));
    expect(a.agree(b.publicValue).equals(b.agree(a.publicValue))).toBe(true);
    expectMalformed(() => a.agree(b.publicValue.subarray(1)));
    expectMalformed(() => a.agree(concatBytes(b.publicValue, new Uint8Array(1))));
    expectMalformed(() => a.agree(new Uint8Array(0)));
  });
}

test("X25519: RFC 8031 appendix A", () => {
  const initiator = group(31).fromPrivate(fromHex("701fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d54"));
  const responder = group(31).fromPrivate(fromHex("0854645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05648"));
  expect(toHex(initiator.publicValue)).toBe("48d5ddd4061257ba166fa3f9bbdb74f1a4e81c089384fa77f790709f0dfbc766");
  expect(toHex(responder.publicValue)).toBe("0be7c1f5aad87d7e448662673298a443478b859745179eaf564c79c0ef6eee25");
  const shared = "c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950";
  expect(toHex(initiator.agree(responder.publicValue).expose())).toBe(shared);
  expect(toHex(responder.agree(initiator.publicValue).expose())).toBe(shared);
});

test("X25519: points of small order give all zeros and are refused (RFC 8031 §2)", () => {
  const pair = group(31).generate();
  const smallOrder = [
    "00".repeat(32),
    `01${"00".repeat(31)}`,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    `ecff${"ff".repeat(29)}7f`,
  ];
  for (const value of smallOrder) expectMalformed(() => pair.agree(fromHex(value)));
});

interface Rfc5903 {
  readonly groups: readonly (Readonly<Record<"i" | "gi" | "r" | "gr" | "girx", string>> & { readonly group: number })[];
}
interface Rfc3526 {
  readonly groups: readonly (Readonly<Record<"prime" | "a" | "publicA" | "b" | "publicB" | "shared", string>> & {
    readonly group: number;
  })[];
}

function vectors(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`../../vectors/dh/${name}.json`, import.meta.url), "utf8"));
}

describe.each((vectors("rfc5903") as Rfc5903).groups)("ECP group $group", ({ group: id, i, gi, r, gr, girx }) => {
  test("RFC 5903 §8", () => {
    const [initiator, responder] = [group(id).fromPrivate(fromHex(i)), group(id).fromPrivate(fromHex(r))];
    expect(toHex(initiator.publicValue)).toBe(gi);
    expect(toHex(responder.publicValue)).toBe(gr);
    expect(toHex(initiator.agree(responder.publicValue).expose())).toBe(girx);
    expect(toHex(responder.agree(initiator.publicValue).expose())).toBe(girx);
  });

  test("a point off the curve, and the point at infinity, are refused (RFC 6989 §2.3)", () => {
    const pair = group(id).generate();
    const off = fromHex(gi);
    const last = off.length - 1;
    off[last] = (off[last] ?? 0) ^ 1;
    expectMalformed(() => pair.agree(off));
    expectMalformed(() => pair.agree(new Uint8Array(off.length)));
    expectMalformed(() => pair.agree(new Uint8Array(off.length).fill(0xff)));
  });
});

describe.each((vectors("rfc3526") as Rfc3526).groups)("MODP group $group", (vector) => {
  test("known answer over the prime of RFC 3526", () => {
    const [a, b] = [
      group(vector.group).fromPrivate(fromHex(vector.a)),
      group(vector.group).fromPrivate(fromHex(vector.b)),
    ];
    expect(toHex(a.publicValue)).toBe(vector.publicA);
    expect(toHex(b.publicValue)).toBe(vector.publicB);
    expect(toHex(a.agree(b.publicValue).expose())).toBe(vector.shared);
    expect(toHex(b.agree(a.publicValue).expose())).toBe(vector.shared);
  });

  test("0, 1, p-1, p and above are refused (RFC 6989 §2.1)", () => {
    const pair = group(vector.group).generate();
    const p = BigInt(`0x${vector.prime}`);
    const padded = (value: bigint) => fromHex(value.toString(16).padStart(vector.prime.length, "0"));
    for (const value of [0n, 1n, p - 1n, p, p + 1n]) expectMalformed(() => pair.agree(padded(value)));
    expectMalformed(() => pair.agree(new Uint8Array(vector.prime.length / 2).fill(0xff)));
    expect(pair.agree(padded(2n)).lengthBytes).toBe(vector.prime.length / 2);
  });
});

test("the groups are those of the IANA registry that peers know, by number", () => {
  expect(DH_GROUPS.map(({ id, name }) => `${id} ${name}`).sort()).toEqual([
    "14 MODP_2048",
    "15 MODP_3072",
    "16 MODP_4096",
    "19 ECP_256",
    "20 ECP_384",
    "21 ECP_521",
    "31 CURVE_25519",
  ]);
});

describe("MODP-2048", () => {
  const bytesFrom = (first: number) => Uint8Array.from({ length: 32 }, (_, n) => first + n);
  /** Computed with another big-number library from the prime of RFC 3526 §3, generator 2. */
  const PUBLIC_A = [
    "ce8736a3ad7c8260e0c5e5a457931ad19966d693e5c32414496b73d7f4e8bdaf51763d49d07a56b0a188048d61d52bd2a06e",
    "706a7a46664113e794057474d04c96b5bb151a50b27818a513cd8d6ecf037fc638b3b2f1084c58d4419735ba12c9a4391e2b",
    "3133bd660785e468569be85c7ad4f904d98a13f5e8695ff8cc5e22834228a8ea2c082ff49a07607e8e5c1278ce8091725678",
    "fde112491091bf4cf3b1759ccb32c1de0b90a074b1e3ffe179d71a292ff29ce9580c3a978793598c0e008289e7ab7783b2b7",
    "5caf9152267e8c981dbb28fde07f2e11ffe1e3984097d1602c61ffd0714d9523455377c177df3be6b3c81e69f762c04be910",
    "a225f323882d",
  ].join("");
  const PUBLIC_B = [
    "385cc5eaa0fbc919b5b46a68a7834f7823db7b4ac0eee267169db59eacb147add19c2251160a0feb5f569e0fd23d6b9588d9",
    "0c8ecc8642dacd98bded84175e855958f328b502d315124a49c172d0ea03eae9fe6854779d619e848b2d7031c2ba63a69478",
    "34a3e47767121a392886fe0eeb24920fb8db55f8b494119eaf141097b5e15f8bbf18e6da29dd0400f004a060d9a9a608ecfc",
    "08970d68263ce734b8d4d4fccf7ded2e21a2cfe9401a0f1f0ad534430633ba1eb24d77b64cd3256e19d5e0d558cc54aea998",
    "11bf6b4671e812c40ffcdc7657e11a759a24d1a5ef31fb18b5e55d6c744f6878de497929b608b4734df3f292aacf8e8ed263",
    "40ffebc8c958",
  ].join("");
  const SHARED = [
    "cc8f59fca5de8be5c530d8bae12ae08d3ca92f3f9c1b3ba3a79a1a7ffdec53154ade449451e0b9e860ce02e1b676233f4dc7",
    "4ae837b27f988bfa0af696da86e10476ac1ab2dca18a50d2fc5c4c7f4af454601b0610fccf3a15945acd2fc0f36c1f9509ad",
    "d27c191e17a33bce7cc40fc631521d83aa49ea0294919c177f7a36a319dc82a43d55c3ea44ada33655acab0a317febe1b0d8",
    "8fc6bbeb220234545fdc42e89776b4fe227f1c16f3a271ebd7cd0ab0b8657852a21b66ff4377b36486dc6e25ba6c48d05590",
    "07380e7b6e6089e118fd7c16d4bbc0d8ab28c02069301aee4657fe12fbf3dc5454c848d35f425744f90dd3f4b6be9de00248",
    "fabd632d00a3",
  ].join("");

  const P = BigInt(
    `0x${["ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef95", "19b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb", "5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3", "ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e8603", "9b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa051015728e5a8aacaa68ffff", "ffffffffffff"].join("")}`,
  );

  test("known answer over the prime of RFC 3526 §3", () => {
    const [a, b] = [group(14).fromPrivate(bytesFrom(1)), group(14).fromPrivate(bytesFrom(101))];
    expect(toHex(a.publicValue)).toBe(PUBLIC_A);
    expect(toHex(b.publicValue)).toBe(PUBLIC_B);
    expect(toHex(a.agree(b.publicValue).expose())).toBe(SHARED);
    expect(toHex(b.agree(a.publicValue).expose())).toBe(SHARED);
  });

  test("0, 1, p-1, p and above are refused (RFC 6989 §2.1)", () => {
    const pair = group(14).generate();
    const short = (value: number) => {
      const bytes = new Uint8Array(256);
      bytes[255] = value;
      return bytes;
    };
    expectMalformed(() => pair.agree(short(0)));
    expectMalformed(() => pair.agree(short(1)));
    for (const value of [P - 1n, P, P + 1n]) expectMalformed(() => pair.agree(fromHex(value.toString(16))));
    expectMalformed(() => pair.agree(new Uint8Array(256).fill(0xff)));
    expect(pair.agree(short(2)).lengthBytes).toBe(256);
  });
});
