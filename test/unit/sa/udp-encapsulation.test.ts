import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { concatBytes, u32be } from "../../../src/core/bytes.ts";
import { packetBytes, parseIp } from "../../../src/sa/ip-header.ts";
import { parseEsp } from "../../../src/sa/packet.ts";
import { stripUdp } from "../../../src/sa/udp-encapsulation.ts";
import { ipv4Packet } from "./esp-builder.ts";
import { ipv6Packet, options } from "./ipv6-builder.ts";
import { inUdp, udpDatagram } from "./udp-builder.ts";

const CLIENT = "192.0.2.10";
const DVIPA = "192.0.2.100";
const SPI = 0xc0ffee01;
const esp = (bytes = 60): Uint8Array => concatBytes(u32be(SPI), u32be(7), new Uint8Array(bytes - 8).fill(0xab));
const bare = (body = esp()): Uint8Array => ipv4Packet(CLIENT, DVIPA, 50, body);

/** RFC 1071: over a header with the right checksum the sum is all ones. */
function sumOfHeader(packet: Uint8Array): number {
  const words = Array.from({ length: ((packet[0] ?? 0) & 0x0f) * 2 }, (_, i) => i * 2);
  const sum = words.reduce((total, at) => total + (((packet[at] ?? 0) << 8) | (packet[at + 1] ?? 0)), 0);
  return (sum & 0xffff) + (sum >>> 16);
}

function stripped(packet: Uint8Array): Uint8Array {
  const result = stripUdp(packet);
  if (!(result instanceof Uint8Array)) throw new Error(`not stripped: ${String(result)}`);
  return result;
}

describe("stripUdp", () => {
  it("leaves plain ESP with a true header, whatever the UDP checksum, the source port and the IP options", () => {
    const arbitrary = fc.record({
      length: fc.integer({ min: 8, max: 2000 }),
      checksum: fc.nat(0xffff),
      sourcePort: fc.integer({ min: 1, max: 0xffff }),
      optionWords: fc.nat(10),
      linkPadding: fc.nat(20),
      ipChecksum: fc.nat(0xffff),
    });
    fc.assert(
      fc.property(arbitrary, ({ length, linkPadding, ipChecksum, ...changes }) => {
        const body = esp(length);
        const packet = concatBytes(inUdp(bare(body), changes), new Uint8Array(linkPadding));
        new DataView(packet.buffer).setUint16(10, ipChecksum);
        const result = stripped(packet);
        expect(parseEsp(result)).toMatchObject({
          outer: { source: CLIENT, destination: DVIPA, totalBytes: result.length },
          spi: SPI,
          sequence: 7,
        });
        expect(Buffer.from(result.subarray(20 + 4 * changes.optionWords)).equals(body)).toBe(true);
        expect(sumOfHeader(result)).toBe(0xffff);
      }),
    );
  });

  it("leaves out what lies behind the UDP length", () => {
    const body = esp(60);
    const padded = ipv4Packet(CLIENT, DVIPA, 17, udpDatagram(concatBytes(body, new Uint8Array(5)), { udpBytes: 68 }));
    expect(stripped(padded).subarray(20)).toEqual(body);
  });

  it.each([
    ["a length of zero", 0],
    ["less than a UDP header", 7],
    ["one byte more than there is", 69],
    ["the most there can be", 0xffff],
  ])("refuses %s in the UDP header", (_, udpBytes) => {
    expect(stripUdp(inUdp(bare(), { udpBytes }))).toBe("udpLength");
  });

  it.each([
    ["nothing", new Uint8Array(0)],
    ["a keepalive", new Uint8Array([0xff])],
    ["three bytes", new Uint8Array(3).fill(1)],
    ["IKE behind its marker", concatBytes(u32be(0), esp())],
  ])("is not for %s", (_, body) => {
    expect(stripUdp(ipv4Packet(CLIENT, DVIPA, 17, udpDatagram(body)))).toBe("notEsp");
  });

  it("is for port 4500 alone, for whole packets, and for UDP", () => {
    expect(stripUdp(inUdp(bare(), { destinationPort: 4501 }))).toBe("notEsp");
    expect(stripUdp(inUdp(bare(), { fragmentField: 0x2000 }))).toBe("fragment");
    expect(stripUdp(inUdp(bare()).subarray(0, 60))).toBe("notIp");
    expect(stripUdp(ipv4Packet(CLIENT, DVIPA, 17, new Uint8Array(7)))).toBe("udpLength");
    expect(stripUdp(bare())).toBeNull();
  });

  it("does the same for IPv6, but not behind extension headers", () => {
    const packet = ipv6Packet("2001:db8::10", "2001:db8::100", 17, udpDatagram(esp()));
    const result = stripped(packet);
    expect(parseIp(packetBytes(result), { whole: true })).toMatchObject({ protocol: 50, totalBytes: 100 });
    expect(result.subarray(40)).toEqual(esp());
    const chained = ipv6Packet("2001:db8::10", "2001:db8::100", 17, udpDatagram(esp()), [options(60)]);
    expect(stripUdp(chained)).toBe("extensionHeaders");
  });

  it("never throws, and what it strips parses", () => {
    const noise = fc.oneof(
      fc.uint8Array({ maxLength: 120 }),
      fc
        .tuple(fc.uint8Array({ maxLength: 40 }), fc.nat(0xffff))
        .map(([body, udpBytes]) => ipv4Packet(CLIENT, DVIPA, 17, udpDatagram(body, { udpBytes }))),
    );
    fc.assert(
      fc.property(noise, (bytes) => {
        const result = stripUdp(bytes);
        if (result instanceof Uint8Array) expect(parseIp(packetBytes(result), { whole: true })).not.toBe("notIp");
      }),
    );
  });
});
