import { inspect } from "node:util";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ByteReader, concatBytes, fromHex, toHex, u16be, u32be, u64be } from "../../../src/core/bytes.ts";
import { EsplexError, isError } from "../../../src/core/errors.ts";
import { ipFromBytes, ipToBytes } from "../../../src/core/ip.ts";
import { Secret } from "../../../src/core/secret.ts";
import { be16, be32, raw, struct, u16, u32, u64, u8 } from "../../../src/core/struct.ts";

describe("Secret", () => {
  const secret = new Secret(new TextEncoder().encode("top-secret-key"));

  it("prints as [secret] in every way there is", () => {
    const printed = [
      String(secret),
      JSON.stringify({ secret }),
      inspect({ secret }, { depth: 5, showHidden: true }),
      inspect(secret),
    ];
    for (const text of printed) {
      expect(text).toContain("[secret]");
      expect(text).not.toContain("top-secret");
    }
  });

  it("compares by content", () => {
    expect(secret.equals(new Secret(new TextEncoder().encode("top-secret-key")))).toBe(true);
    expect(secret.equals(new Secret(new TextEncoder().encode("top-secret-kez")))).toBe(false);
    expect(secret.equals(new Secret(new Uint8Array()))).toBe(false);
  });

  it("is zeros after wipe", () => {
    const bytes = new Uint8Array([1, 2, 3]);
    new Secret(bytes).wipe();
    expect([...bytes]).toEqual([0, 0, 0]);
  });
});

describe("ByteReader", () => {
  it("reads what the writers wrote", () => {
    const reader = new ByteReader(concatBytes(u16be(0xbeef), u32be(0xdeadbeef), u64be(2n ** 64n - 1n)), "test");
    expect(reader.u16()).toBe(0xbeef);
    expect(reader.u32()).toBe(0xdeadbeef);
    expect(reader.u64()).toBe(2n ** 64n - 1n);
    reader.end();
  });

  it("throws wire.short before it reads past the end, whatever is asked", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 20 }), fc.integer({ min: -5, max: 40 }), (bytes, wanted) => {
        const reader = new ByteReader(bytes, "test");
        if (wanted >= 0 && wanted <= bytes.length) expect(reader.bytes(wanted)).toHaveLength(wanted);
        else {
          let thrown: unknown;
          try {
            reader.bytes(wanted);
          } catch (error) {
            thrown = error;
          }
          expect(isError(thrown, "wire.short")).toBe(true);
          expect(isError(thrown, "wire.")).toBe(true);
          expect(isError(thrown, "bus.")).toBe(false);
        }
      }),
    );
  });

  it("refuses left-over bytes and bad hex", () => {
    expect(() => new ByteReader(new Uint8Array(1), "test").end()).toThrow(EsplexError);
    expect(() => fromHex("abc")).toThrow(EsplexError);
    expect(() => fromHex("zz")).toThrow(EsplexError);
    expect(toHex(fromHex("00ff"))).toBe("00ff");
  });
});

describe("IP addresses", () => {
  it.each([
    ["192.0.2.1", "c0000201"],
    ["::", "00000000000000000000000000000000"],
    ["2001:db8::1", "20010db8000000000000000000000001"],
    ["2001:db8:0:1:1:1:1:1", "20010db8000000010001000100010001"],
    ["1::", "00010000000000000000000000000000"],
  ])("%s", (text, hex) => {
    expect(toHex(ipToBytes(text))).toBe(hex);
    expect(ipFromBytes(fromHex(hex))).toBe(text);
  });

  it("reads the forms that are not canonical", () => {
    expect(toHex(ipToBytes("::ffff:192.0.2.1"))).toBe("00000000000000000000ffffc0000201");
    expect(toHex(ipToBytes("2001:DB8:0:0:0:0:0:1"))).toBe("20010db8000000000000000000000001");
  });

  it("text and bytes agree both ways", () => {
    fc.assert(
      fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (text) => {
        const bytes = ipToBytes(text);
        expect(ipToBytes(ipFromBytes(bytes))).toEqual(bytes);
      }),
    );
  });
});

describe("struct", () => {
  const sample = struct("sample", 32, { a: u8, b: u32, c: be16, d: u16, e: be32, f: u64, g: raw(3) });

  it("lays members out as the compiler does", () => {
    const values = { a: 1, b: 2, c: 3, d: 4, e: 5, f: 6n, g: new Uint8Array([7, 8, 9]) };
    const bytes = sample.encode(values);
    expect(bytes).toHaveLength(32);
    expect(sample.decode(bytes)).toEqual(values);
    expect([...bytes.subarray(8, 10)]).toEqual([0, 3]);
    expect([...bytes.subarray(24, 27)]).toEqual([7, 8, 9]);
  });

  it("refuses a table of the wrong size, and short input", () => {
    expect(() => struct("wrong", 5, { a: u32 })).toThrow(/4 bytes, the kernel's has 5/);
    expect(() => sample.decode(new Uint8Array(31))).toThrow(EsplexError);
  });
});
