import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { packetBytes, parseIp, type IpHeader, type IpParseFailure } from "../../../src/sa/ip-header.ts";
import { parseEsp } from "../../../src/sa/packet.ts";
import { ipv4Packet } from "./esp-builder.ts";
import { chain, EXTENSION, fragment, ipv6Packet, options, routing, type Extension } from "./ipv6-builder.ts";

const SOURCE = "2001:db8::10";
const DESTINATION = "2001:db8::100";
const ESP = 50;
const BODY = new Uint8Array(40).fill(0xab);
/** ESP's payload begins behind SPI and number; AH's header is authenticated with the rest, so it belongs to it. */
const BEFORE_PAYLOAD_BYTES = { esp: 8, ah: 0 };
/** RFC 8200 §4.1: hop-by-hop, routing and fragment once, destination options twice. */
const MOST_HEADERS = 5;

const parse = (bytes: Uint8Array, whole = true): IpHeader | IpParseFailure => parseIp(packetBytes(bytes), { whole });
const packet = (extensions: readonly Extension[], protocol: number = ESP): Uint8Array =>
  ipv6Packet(SOURCE, DESTINATION, protocol, BODY, extensions);

describe("IPv6 header", () => {
  const addresses = { version: 6, source: SOURCE, destination: DESTINATION };

  it.each<[string, readonly Extension[]]>([
    ["no extension header", []],
    ["hop-by-hop options", [options(0)]],
    ["long options", [options(0, 3), options(60, 255)]],
    ["a routing header at its last stop", [routing(0)]],
    ["a fragment header of a whole packet (RFC 6946)", [fragment(0, false)]],
    ["all of them in the order of RFC 8200", [options(0), options(60), routing(0), fragment(0, false), options(60, 1)]],
    ["all of them in another order", [options(0), fragment(0, false), options(60), options(60), routing(0)]],
  ])("walks over %s", (_what, extensions) => {
    const headerBytes = 40 + chain(extensions, ESP).bytes.length;
    const totalBytes = headerBytes + BODY.length;
    const expected = { ...addresses, protocol: ESP, headerBytes, totalBytes, fragment: null };
    expect(parse(packet(extensions))).toEqual(expected);
  });

  it.each<[string, readonly Extension[]]>([
    ["the same header twice", [routing(0), routing(0)]],
    ["destination options three times", [options(60), options(60), options(60)]],
    ["hop-by-hop options that are not first", [options(60), options(0)]],
    ["a routing header that asks for a detour", [routing(1)]],
    [
      "options that are longer than the packet",
      [options(60, 255), { protocol: 60, rest: Uint8Array.of(255, 0, 0, 0, 0, 0, 0) }],
    ],
  ])("refuses %s", (_what, extensions) => {
    expect(parse(packet(extensions))).toBe("extensionHeaders");
    expect(parseEsp(packet(extensions))).toBe("extensionHeaders");
  });

  it("refuses a chain that goes on to the end of the packet", () => {
    const endless = ipv6Packet(SOURCE, DESTINATION, EXTENSION.destination, new Uint8Array(0));
    expect(parse(endless)).toBe("extensionHeaders");
    const pointsBeyond = ipv6Packet(SOURCE, DESTINATION, 60, Uint8Array.of(ESP, 1, 0, 0, 0, 0, 0, 0));
    expect(parse(pointsBeyond)).toBe("extensionHeaders");
  });

  it("reads no more headers than may be there, however many there are", () => {
    const bytes = packet(Array.from({ length: 5000 }, () => options(60)));
    let reads = 0;
    const counted = {
      lengthBytes: bytes.length,
      read: (from: number, to: number) => {
        reads += 1;
        return bytes.subarray(from, to);
      },
    };
    expect(parseIp(counted, { whole: true })).toBe("extensionHeaders");
    expect(reads).toBeLessThanOrEqual(2 + MOST_HEADERS);
  });

  it.each([
    ["first", fragment(0, true)],
    ["later", fragment(185, true)],
    ["later", fragment(185, false)],
  ] as const)("tells a %s fragment", (kind, header) => {
    expect(parse(packet([options(0), header]))).toMatchObject({ protocol: ESP, fragment: kind });
    expect(parseEsp(packet([header]))).toBe("fragment");
  });

  it.each([
    ["AH, which is cut short here", EXTENSION.ah, "tooShort"],
    ["no next header", EXTENSION.noNext, "notEsp"],
    ["mobility", 135, "notEsp"],
  ])("stops at %s", (_what, protocol, reason) => {
    expect(parse(packet([options(60)], protocol))).toMatchObject({ protocol, headerBytes: 48 });
    expect(parseEsp(packet([], protocol))).toBe(reason);
  });

  it("ignores what the link has padded, and needs what the length says", () => {
    const bytes = packet([]);
    expect(parse(new Uint8Array([...bytes, 0, 0, 0]))).toMatchObject({ totalBytes: bytes.length });
    expect(parse(bytes.subarray(0, -1))).toBe("notIp");
    expect(parse(bytes.subarray(0, -1), false)).toMatchObject({ totalBytes: bytes.length });
    expect(parse(bytes.subarray(0, 39), false)).toBe("notIp");
  });
});

describe("IPv4 header", () => {
  it.each([
    [0, null],
    [0x4000, null],
    [0x2000, "first"],
    [0x2001, "later"],
    [1, "later"],
  ])("flags and offset %i: fragment %s", (fragmentField, expected) => {
    const bytes = ipv4Packet("192.0.2.10", "192.0.2.100", ESP, BODY, { fragmentField, optionWords: 3 });
    expect(parse(bytes)).toMatchObject({ version: 4, protocol: ESP, headerBytes: 32, fragment: expected });
  });

  it("knows no extension headers", () => {
    const bytes = ipv4Packet("192.0.2.10", "192.0.2.100", EXTENSION.destination, BODY);
    expect(parse(bytes)).toMatchObject({ protocol: EXTENSION.destination, headerBytes: 20 });
  });
});

const extension = fc.oneof(
  fc.tuple(fc.constantFrom<0 | 60>(0, 60), fc.nat(4)).map(([protocol, units]) => options(protocol, units)),
  fc.nat(2).map(routing),
  fc.tuple(fc.nat(3), fc.boolean()).map(([offset, more]) => fragment(offset, more)),
);
const anyPacket = fc
  .tuple(fc.array(extension, { maxLength: 7 }), fc.constantFrom<number>(ESP, 6, 17, 51, 59), fc.uint8Array())
  .map(([extensions, protocol, body]) => ipv6Packet(SOURCE, DESTINATION, protocol, body, extensions));

describe("any packet", () => {
  /** What holds of every answer: the offset lies in the packet and leaves room for what was asked for. */
  const check = (bytes: Uint8Array): void => {
    const header = parse(bytes);
    if (typeof header !== "string") {
      expect(header.headerBytes).toBeLessThanOrEqual(header.totalBytes);
      expect(header.totalBytes).toBeLessThanOrEqual(bytes.length);
    }
    const parsed = parseEsp(bytes);
    if (typeof parsed !== "string") {
      const { protocol, outer, payload } = parsed;
      expect(payload.length).toBe(outer.totalBytes - outer.headerBytes - BEFORE_PAYLOAD_BYTES[protocol]);
    }
  };

  it("noise is parsed or refused", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 120 }), check));
  });

  it("noise behind an IPv6 version is parsed or refused", () => {
    const noise = fc.uint8Array({ minLength: 40, maxLength: 160 }).map((bytes) => {
      const copy = Uint8Array.from(bytes);
      copy.set([0x60], 0);
      copy.set([0, bytes.length - 40], 4);
      return copy;
    });
    fc.assert(fc.property(noise, check), { numRuns: 1000 });
  });

  it("chains with changed, missing and doubled bytes are parsed or refused", () => {
    const change = fc.record({ at: fc.nat(), value: fc.nat(255), kind: fc.constantFrom("set", "cut", "insert") });
    const mutated = fc.tuple(anyPacket, fc.array(change, { maxLength: 4 })).map(([bytes, changes]) => {
      const copy = [...bytes];
      for (const { at, value, kind } of changes) {
        const place = at % (copy.length || 1);
        if (kind === "set") copy[place] = value;
        else if (kind === "cut") copy.splice(place);
        else copy.splice(place, 0, value);
      }
      return Uint8Array.from(copy);
    });
    fc.assert(fc.property(mutated, check), { numRuns: 2000 });
  });

  it("never walks a chain that a sender should not make, and always one that it may", () => {
    fc.assert(
      fc.property(fc.array(extension, { maxLength: 6 }), (extensions) => {
        const end = extensions.findIndex(
          ({ protocol, rest }) => protocol === 44 && ((rest[1] ?? 0) | (rest[2] ?? 0)) !== 0,
        );
        const walked = end < 0 ? extensions : extensions.slice(0, end + 1);
        const count = (protocol: number): number => walked.filter((entry) => entry.protocol === protocol).length;
        const isPlain =
          [0, 43, 44].every((protocol) => count(protocol) <= 1) &&
          count(60) <= 2 &&
          walked.findIndex(({ protocol }) => protocol === 0) <= 0 &&
          walked.every(({ protocol, rest }) => protocol !== 43 || rest[2] === 0);
        expect(typeof parse(packet(extensions))).toBe(isPlain ? "object" : "string");
      }),
      { numRuns: 2000 },
    );
  });
});
