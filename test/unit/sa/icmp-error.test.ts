import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { concatBytes, u16be, u32be } from "../../../src/core/bytes.ts";
import { parseIcmpError, parseTcpError } from "../../../src/sa/icmp-error.ts";
import { ipv4Packet } from "./esp-builder.ts";
import { fragment, ipv6Packet } from "./ipv6-builder.ts";
import { udpDatagram } from "./udp-builder.ts";

const ROUTER = "192.0.2.9";
const DVIPA = "192.0.2.100";
const PEER = "10.0.0.10";
const [DVIPA6, PEER6, ROUTER6] = ["2001:db8:1::100", "2001:db8:3::10", "2001:db8:1::9"] as const;
const SPI = 0xc1234567;
const SEQUENCE = 4_000_000_001;

const esp = concatBytes(u32be(SPI), u32be(SEQUENCE), new Uint8Array(64));
const ah = concatBytes(Uint8Array.of(6, 4, 0, 0), u32be(SPI), u32be(SEQUENCE), new Uint8Array(32));
const inUdp = udpDatagram(esp, { sourcePort: 4500, destinationPort: 23_456 });

const tcp = concatBytes(u16be(80), u16be(40_000), u32be(7));

function icmp(type: number, quote: Uint8Array, code = 4): Uint8Array {
  return concatBytes(Uint8Array.of(type, code, 0, 0), u32be(1300), quote);
}
/** An error about a packet from the DVIPA, of which the router quotes so much. */
function about(protocol: number, body: Uint8Array, quotedBytes = 1000, type = 3): Uint8Array {
  return ipv4Packet(ROUTER, DVIPA, 1, icmp(type, ipv4Packet(DVIPA, PEER, protocol, body).subarray(0, quotedBytes)));
}
const expected = { dvipa: DVIPA, peer: PEER, protocol: "esp", isInUdp: false, spi: SPI, sequence: SEQUENCE };

describe("an ICMP error about TCP in clear", () => {
  it("names the connection as the distributor does", () => {
    const connection = { dvipa: DVIPA, port: 80, client: PEER, clientPort: 40_000 };
    expect(parseTcpError(about(6, tcp))).toEqual(connection);
    expect(parseTcpError(about(6, tcp, 24))).toEqual(connection);
    const packet = ipv6Packet(DVIPA6, DVIPA6, 58, icmp(2, ipv6Packet(DVIPA6, PEER6, 6, tcp), 0));
    expect(parseTcpError(packet)).toEqual({ ...connection, dvipa: DVIPA6, client: PEER6 });
  });

  it.each([
    ["ESP", about(50, esp)],
    ["half a port", about(6, tcp, 23)],
    ["another address's segment", ipv4Packet(ROUTER, DVIPA, 1, icmp(3, ipv4Packet("192.0.2.101", PEER, 6, tcp)))],
    ["no error", about(6, tcp, 1000, 8)],
  ])("is none about %s", (_what, packet) => {
    expect(parseTcpError(packet)).toBeNull();
  });
});

describe("an ICMP error about our IPsec", () => {
  it("names the packet of ESP, AH and ESP in UDP, as far as the router quotes it", () => {
    expect(parseIcmpError(about(50, esp))).toEqual(expected);
    expect(parseIcmpError(about(50, esp, 28))).toEqual(expected);
    expect(parseIcmpError(about(50, esp, 28, 11))).toEqual(expected);
    expect(parseIcmpError(about(51, ah, 32))).toEqual({ ...expected, protocol: "ah" });
    expect(parseIcmpError(about(17, inUdp, 36))).toEqual({ ...expected, isInUdp: true });
  });

  it("reads ICMPv6, and the quote of a first fragment", () => {
    const quote = ipv6Packet(DVIPA6, PEER6, 50, esp, [fragment(0, true)]);
    const packet = ipv6Packet(ROUTER6, DVIPA6, 58, icmp(2, quote, 0));
    expect(parseIcmpError(packet)).toEqual({ ...expected, dvipa: DVIPA6, peer: PEER6 });
    const later = ipv6Packet(DVIPA6, PEER6, 50, esp, [fragment(9, true)]);
    expect(parseIcmpError(ipv6Packet(ROUTER6, DVIPA6, 58, icmp(2, later, 0)))).toBe("other");
  });

  it("does not guess where the quote ends before the number", () => {
    for (const [protocol, body, bytes] of [
      [50, esp, 27],
      [51, ah, 28],
      [17, inUdp, 28],
      [17, inUdp, 21],
    ] as const) {
      expect(parseIcmpError(about(protocol, body, bytes))).toBe("shortQuote");
    }
  });

  it("has nothing to do with what is not ESP or AH: TCP, other UDP, IKE on 4500", () => {
    const ike = udpDatagram(concatBytes(u32be(0), new Uint8Array(28)), { sourcePort: 4500 });
    expect(parseIcmpError(about(6, new Uint8Array(20)))).toBe("other");
    expect(parseIcmpError(about(17, udpDatagram(esp, { sourcePort: 500 })))).toBe("other");
    expect(parseIcmpError(about(17, ike))).toBe("other");
  });

  it.each([
    ["no error", about(50, esp, 1000, 8)],
    ["a redirect", about(50, esp, 1000, 5)],
    ["an informational ICMPv6", ipv6Packet(ROUTER6, DVIPA6, 58, icmp(128, ipv6Packet(DVIPA6, PEER6, 50, esp)))],
    ["ICMPv6 in IPv4", ipv4Packet(ROUTER, DVIPA, 58, icmp(2, ipv4Packet(DVIPA, PEER, 50, esp)))],
    ["another address's packet", ipv4Packet(ROUTER, DVIPA, 1, icmp(3, ipv4Packet("192.0.2.101", PEER, 50, esp)))],
    ["an IPv6 packet in ICMPv4", ipv4Packet(ROUTER, DVIPA, 1, icmp(3, ipv6Packet(DVIPA6, PEER6, 50, esp)))],
    ["no quote", ipv4Packet(ROUTER, DVIPA, 1, icmp(3, new Uint8Array()))],
    ["half a header", ipv4Packet(ROUTER, DVIPA, 1, Uint8Array.of(3, 4, 0, 0))],
    ["a fragment", ipv4Packet(ROUTER, DVIPA, 1, icmp(3, ipv4Packet(DVIPA, PEER, 50, esp)), { fragmentField: 0x2000 })],
    ["no packet", concatBytes(u16be(0x4500), new Uint8Array(3))],
  ])("refuses %s", (_what, packet) => {
    expect(parseIcmpError(packet)).toBe("malformed");
  });

  it("survives any bytes, and any change of a byte", () => {
    const known = ["malformed", "other", "shortQuote"];
    const check = (packet: Uint8Array): void => {
      const result = parseIcmpError(packet);
      expect(typeof result === "string" ? known.includes(result) : result.spi >= 0).toBe(true);
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), check));
    const changes = fc.array(fc.tuple(fc.nat(140), fc.nat(255)), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(fc.constantFrom(about(50, esp), about(51, ah), about(17, inUdp)), changes, (packet, changed) => {
        const copy = packet.slice();
        for (const [at, value] of changed) copy[at % copy.length] = value;
        check(copy);
      }),
    );
  });
});
