import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { concatBytes, fromHex, toHex } from "../../../src/core/bytes.ts";
import { parseEsp } from "../../../src/sa/packet.ts";
import { createPeeker, type PeekResult } from "../../../src/sa/peek.ts";
import { createPlaintextReader } from "../../../src/sa/plaintext-reader.ts";
import { ESP_SUITES, sameSuite, suiteLengths, suiteName } from "../../../src/sa/suite.ts";
import { espPacket, espPayload, sampleSa, tcpSegment } from "./esp-builder.ts";

const ESP_HEADER_BYTES = 8;

interface Rfc7634 {
  readonly keymat: string;
  readonly esp: Readonly<Record<"source" | "plaintext" | "packet", string>>;
}
interface Rfc3686 {
  readonly cases: readonly Readonly<Record<"key" | "nonce" | "iv" | "plaintext" | "ciphertext", string>>[];
}

function vectors(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`../../vectors/${name}.json`, import.meta.url), "utf8"));
}

/** Checks every range that ends or begins at a block's edge, and around it. */
function expectEveryRange(
  read: (from: number, to: number) => Uint8Array,
  plaintext: Uint8Array,
  edges = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65],
): void {
  const places = [...edges.filter((at) => at < plaintext.length), plaintext.length];
  for (const from of places) {
    for (const to of places.filter((at) => at >= from)) {
      expect([from, to, toHex(read(from, to))]).toEqual([from, to, toHex(plaintext.subarray(from, to))]);
    }
  }
}

describe("published vectors", () => {
  it("ChaCha20-Poly1305: RFC 7634 appendix A", () => {
    const { keymat, esp } = vectors("rfc7634") as Rfc7634;
    const packet = parseEsp(fromHex(esp.packet));
    if (typeof packet === "string") throw new Error(packet);
    const read = createPlaintextReader({ kind: "chacha20-poly1305" }, fromHex(keymat));
    expectEveryRange((from, to) => read(packet.payload, from, to), fromHex(esp.plaintext));
  });

  it("ChaCha20-Poly1305: what carries ICMP is not taken for TCP", () => {
    const { keymat, esp } = vectors("rfc7634") as Rfc7634;
    const packet = parseEsp(fromHex(esp.packet));
    if (typeof packet === "string") throw new Error(packet);
    const sample = sampleSa({ kind: "chacha20-poly1305" }, "tunnel");
    sample.inbound.encryptionKey.expose().set(fromHex(keymat));
    expect(createPeeker(sample).peek(packet.payload, packet.outer.source, packet.outer.destination)).toEqual({
      kind: "other",
      protocol: 1,
    });
  });

  it.each((vectors("esp/rfc3686") as Rfc3686).cases)("AES-CTR: RFC 3686 §6 case $case", (vector) => {
    const key = fromHex(vector.key + vector.nonce);
    const keyBits = vector.key.length === 32 ? 128 : 256;
    const read = createPlaintextReader({ kind: "aes-ctr", keyBits, integrity: "hmac-sha2-256" }, key);
    const payload = fromHex(vector.iv + vector.ciphertext);
    expectEveryRange((from, to) => read(payload, from, to), fromHex(vector.plaintext));
  });

  it("AES-GCM: test case 4 of the GCM specification (RFC 4106 §9 refers to it)", () => {
    const key = fromHex("feffe9928665731c6d6a8f9467308308" + "cafebabe");
    const plaintext = fromHex(
      "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    const ciphertext = fromHex(
      "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
    );
    const read = createPlaintextReader({ kind: "aes-gcm-16", keyBits: 128 }, key);
    const payload = concatBytes(fromHex("facedbaddecaf888"), ciphertext);
    expectEveryRange((from, to) => read(payload, from, to), plaintext);
  });
});

const cases = ESP_SUITES.flatMap((suite) =>
  (["transport", "tunnel"] as const).map((mode) => ({ name: `${suiteName(suite)} ${mode}`, suite, mode })),
);

describe.each(cases)("beside full encryption by OpenSSL: $name", ({ suite, mode }) => {
  const sa = sampleSa(suite, mode);
  const { blockBytes } = suiteLengths(suite);
  const key = sa.inbound.encryptionKey.expose();
  /** By the length of the head that they expect: none, transport mode, tunnel mode, more than some packets have. */
  const readers = [0, 14, 34, 70].map((headBytes) => createPlaintextReader(suite, key, headBytes));

  it("reads any range of any packet, whatever was read before", () => {
    const packet = fc.uint8Array({ maxLength: 400 }).chain((inner) => {
      const place = fc.integer({ min: 0, max: inner.length });
      return fc.record({ inner: fc.constant(inner), a: place, b: place, read: fc.constantFrom(...readers) });
    });
    fc.assert(
      fc.property(packet, ({ inner, a, b, read }) => {
        const payload = espPayload(sa, inner, 6).subarray(ESP_HEADER_BYTES);
        const [from, to] = [Math.min(a, b), Math.max(a, b)];
        expect(toHex(read(payload, from, to))).toBe(toHex(inner.subarray(from, to)));
        const padBytes = (blockBytes - ((inner.length + 2) % blockBytes)) % blockBytes;
        const end = inner.length + padBytes + 2;
        expect(toHex(read(payload, end - 2, end))).toBe(toHex(Uint8Array.of(padBytes, 6)));
        expect(toHex(read(payload, 0, from))).toBe(toHex(inner.subarray(0, from)));
      }),
    );
  });

  const port = fc.integer({ min: 0, max: 65_535 });
  const packets = fc.record({
    protocol: fc.constantFrom(6, 6, 17, 1),
    ports: fc.tuple(port, port),
    flags: fc.record({ syn: fc.boolean(), ack: fc.boolean(), fin: fc.boolean(), rst: fc.boolean() }),
    data: fc.uint8Array({ maxLength: 300 }),
    optionWords: fc.integer({ min: 0, max: 10 }),
  });

  it("peek says of any packet what was put into it", () => {
    const peeker = createPeeker(sa);
    fc.assert(
      fc.property(packets, ({ protocol, ports: [sourcePort, destinationPort], flags, data, optionWords }) => {
        const segment = tcpSegment(sourcePort, destinationPort, flags, data);
        const esp = parseEsp(espPacket(sa, segment, protocol, { optionWords }));
        if (typeof esp === "string") throw new Error(esp);
        const wanted: PeekResult =
          protocol === 6
            ? {
                kind: "tcp",
                source: sa.peer,
                destination: sa.dvipa,
                tcp: { sourcePort, destinationPort, ...flags },
              }
            : { kind: "other", protocol };
        expect(peeker.peek(esp.payload, sa.peer, sa.dvipa)).toEqual(wanted);
      }),
    );
  });

  it("peek says of a changed packet what all of its plaintext says", () => {
    const peeker = createPeeker(sa);
    const read = createPlaintextReader(suite, key);
    const { ivBytes, icvBytes } = suiteLengths(suite);
    const open = createPeeker(sampleSa({ kind: "null", integrity: "hmac-sha2-256" }, mode));
    const flip = fc.record({ at: fc.nat(), mask: fc.integer({ min: 1, max: 255 }) });
    fc.assert(
      fc.property(packets, fc.array(flip, { minLength: 1, maxLength: 4 }), (packet, flips) => {
        const segment = tcpSegment(...packet.ports, packet.flags, packet.data);
        const esp = parseEsp(espPacket(sa, segment, packet.protocol, packet));
        if (typeof esp === "string") throw new Error(esp);
        const payload = Uint8Array.from(esp.payload);
        for (const { at, mask } of flips) payload[at % payload.length] = (payload[at % payload.length] ?? 0) ^ mask;
        const plaintext = read(payload, 0, payload.length - ivBytes - icvBytes);
        const said = peeker.peek(payload, sa.peer, sa.dvipa);
        expect(said).toEqual(open.peek(concatBytes(plaintext, new Uint8Array(16)), sa.peer, sa.dvipa));
      }),
    );
  });
});

describe("suites", () => {
  it("have names of their own, and are the same only as themselves", () => {
    expect(new Set(ESP_SUITES.map(suiteName)).size).toBe(ESP_SUITES.length);
    for (const a of ESP_SUITES) {
      expect(ESP_SUITES.filter((b) => sameSuite(a, structuredClone(b)))).toEqual([a]);
    }
  });

  it("are named as strongSwan prints them", () => {
    expect(ESP_SUITES.map(suiteName)).toEqual(
      expect.arrayContaining([
        "AES_GCM_16_256",
        "AES_CCM_16_128",
        "CHACHA20_POLY1305",
        "AES_CBC_128/HMAC_SHA2_256_128",
        "AES_CTR_256/HMAC_SHA2_512_256",
        "NULL/HMAC_SHA2_384_192",
      ]),
    );
  });
});
