import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fromHex } from "../../../src/core/bytes.ts";
import { ahHeaderBytes, parseAhHeader } from "../../../src/sa/ah.ts";
import { parseEsp } from "../../../src/sa/packet.ts";
import { createPeeker, type PeekResult } from "../../../src/sa/peek.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { AH_SUITES, suiteLengths, suiteName } from "../../../src/sa/suite.ts";
import { ahPacket, ahPayload } from "./ah-builder.ts";
import { espPayload, ipv4Packet, sampleSa, tcpSegment } from "./esp-builder.ts";
import { ipv6Packet, options } from "./ipv6-builder.ts";

const V6 = { dvipa: "2001:db8::100", peer: "2001:db8::10" };
const CASES = AH_SUITES.flatMap((suite) =>
  (["transport", "tunnel"] as const).flatMap((mode) =>
    ([4, 6] as const).map((version) => ({ suite, mode, version, name: `${suiteName(suite)} ${mode} IPv${version}` })),
  ),
);

function peek(sa: SharedSa, packet: Uint8Array): PeekResult {
  const found = parseEsp(packet);
  if (typeof found === "string") throw new Error(found);
  expect(found).toMatchObject({ protocol: "ah", spi: sa.inbound.spi });
  return createPeeker(sa).peek(found.payload, found.outer.source, found.outer.destination);
}

/** The same header with another length field. */
function withLengthField(payload: Uint8Array, units: number): Uint8Array {
  const changed = payload.slice();
  changed[1] = units;
  return changed;
}

describe.each(CASES)("peek into AH: $name", ({ suite, mode, version }) => {
  const sa: SharedSa = { ...sampleSa(suite, mode), ...(version === 6 ? V6 : {}) };

  it("reads addresses, ports and flags, whatever follows", () => {
    for (let dataBytes = 0; dataBytes < 70; dataBytes++) {
      const segment = tcpSegment(40_000 + dataBytes, 80, { syn: true }, new Uint8Array(dataBytes));
      expect(peek(sa, ahPacket(sa, segment, 6))).toEqual({
        kind: "tcp",
        source: sa.peer,
        destination: sa.dvipa,
        tcp: { sourcePort: 40_000 + dataBytes, destinationPort: 80, syn: true, ack: false, fin: false, rst: false },
      });
    }
  });

  it("walks options and extension headers on both sides of the header", () => {
    const segment = tcpSegment(1234, 443, { ack: true, fin: true });
    const outside = ahPacket(sa, segment, 6, { optionWords: 5, extensions: [options(60)] });
    expect(peek(sa, outside)).toMatchObject({ kind: "tcp", tcp: { sourcePort: 1234, fin: true } });
  });

  it("tells UDP with the ports of a TCP connection from TCP", () => {
    expect(peek(sa, ahPacket(sa, tcpSegment(40_000, 80, { syn: true }), 17))).toEqual({ kind: "other", protocol: 17 });
  });

  it("has one header length, and takes no other, also where TCP would begin", () => {
    const segment = tcpSegment(40_000, 80, { syn: true }, new Uint8Array(1100));
    const good = ahPayload(sa, mode === "transport" ? segment : new Uint8Array(1200), mode === "transport" ? 6 : 4);
    const right = ahHeaderBytes(suite, version) / 4 - 2;
    expect(good[1]).toBe(right);
    for (let units = 0; units < 256; units++) {
      const result = createPeeker(sa).peek(withLengthField(good, units), sa.peer, sa.dvipa);
      if (units !== right) expect(result).toEqual({ kind: "unreadable", reason: "badLength" });
      else expect(result).not.toEqual({ kind: "unreadable", reason: "badLength" });
    }
  });

  it("never throws, and never invents TCP out of noise or cut packets", () => {
    const peeker = createPeeker(sa);
    const least = ahHeaderBytes(suite, version) + 14;
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (payload) => {
        const result = peeker.peek(payload, sa.peer, sa.dvipa);
        if (payload.length < least) expect(result.kind).not.toBe("tcp");
      }),
    );
    const whole = ahPacket(sa, tcpSegment(1, 80, { syn: true }), 6);
    const found = parseEsp(whole);
    if (typeof found === "string") throw new Error(found);
    // A TCP header of which less than the flags is there.
    for (let length = 0; length < found.payload.length - 6; length++) {
      expect(peeker.peek(found.payload.subarray(0, length), sa.peer, sa.dvipa).kind).not.toBe("tcp");
    }
  });
});

describe("peek into AH: what it protects", () => {
  const suite = { kind: "ah", integrity: "hmac-sha2-256" } as const;

  it("in tunnel mode a packet of either version, and nothing else", () => {
    const sa = sampleSa(suite, "tunnel");
    const outer = (inner: Uint8Array, next: number): Uint8Array =>
      ipv4Packet(sa.peer, sa.dvipa, 51, ahPayload(sa, inner, next));
    const inner = ipv6Packet(V6.peer, V6.dvipa, 6, tcpSegment(1, 80, { syn: true }), [options(60)]);
    expect(peek(sa, outer(inner, 41))).toMatchObject({ kind: "tcp", source: V6.peer, destination: V6.dvipa });
    // TCP at once is transport mode: the SA has another.
    expect(peek(sa, outer(tcpSegment(1, 80, { syn: true }), 6))).toEqual({ kind: "other", protocol: 6 });
    const piece = ipv4Packet(sa.peer, sa.dvipa, 6, tcpSegment(1, 80, {}), { fragmentField: 0x2000 });
    expect(peek(sa, outer(piece, 4))).toEqual({ kind: "unreadable", reason: "innerFragment" });
  });

  it("in transport mode destination options too, in IPv6 only", () => {
    const v6 = { ...sampleSa(suite, "transport"), ...V6 };
    const optionHeader = Uint8Array.of(6, 0, 1, 4, 0, 0, 0, 0);
    const inside = Uint8Array.of(...optionHeader, ...tcpSegment(7, 80, { syn: true }));
    expect(peek(v6, ahPacket(v6, inside, 60))).toMatchObject({ kind: "tcp", tcp: { sourcePort: 7 } });
    const v4 = sampleSa(suite, "transport");
    expect(peek(v4, ahPacket(v4, inside, 60))).toEqual({ kind: "other", protocol: 60 });
  });

  it("ESP, which is told", () => {
    const sa = sampleSa(suite, "transport");
    const esp = espPayload(sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport"), tcpSegment(1, 80, {}), 6);
    expect(peek(sa, ahPacket(sa, esp, 50))).toEqual({ kind: "other", protocol: 50 });
  });
});

describe("the Authentication Header", () => {
  it("is read as RFC 4302 §2 draws it", () => {
    const bytes = fromHex("06040000 c0ffee01 00000007".replaceAll(" ", "") + "11".repeat(16) + "aabb");
    expect(parseAhHeader(bytes)).toEqual({ nextHeader: 6, headerBytes: 24, spi: 0xc0ffee01, sequence: 7 });
  });

  it("never reaches beyond the packet, whatever its length field says", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 1100 }), (bytes) => {
        const header = parseAhHeader(bytes);
        if (header === null) return;
        expect(header.headerBytes).toBeGreaterThanOrEqual(12);
        expect(header.headerBytes).toBeLessThanOrEqual(bytes.length);
        expect(header.headerBytes).toBe(((bytes[1] ?? 0) + 2) * 4);
      }),
    );
  });

  it.each([
    ["tooShort", new Uint8Array(11)],
    ["tooShort", Uint8Array.of(6, 0, ...new Uint8Array(10))],
    ["tooShort", Uint8Array.of(6, 2, ...new Uint8Array(10))],
  ])("in a packet of its own: %s", (reason, body) => {
    expect(parseEsp(ipv4Packet("192.0.2.10", "192.0.2.100", 51, body))).toBe(reason);
  });

  it("is padded to 4 bytes in IPv4 and to 8 in IPv6 (RFC 4302 §2.6)", () => {
    expect(AH_SUITES.map((suite) => [4, 6].map((version) => ahHeaderBytes(suite, version as 4 | 6)))).toEqual([
      [28, 32],
      [36, 40],
      [44, 48],
    ]);
    expect(AH_SUITES.map((suite) => suiteLengths(suite).icvBytes)).toEqual([16, 24, 32]);
  });
});
