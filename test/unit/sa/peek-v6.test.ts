import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { concatBytes } from "../../../src/core/bytes.ts";
import { parseEsp } from "../../../src/sa/packet.ts";
import { createPeeker, type PeekResult } from "../../../src/sa/peek.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { ESP_SUITES, suiteName } from "../../../src/sa/suite.ts";
import { espPayload, ipv4Packet, sampleSa, tcpSegment } from "./esp-builder.ts";
import { chain, fragment, ipv6Packet, options, routing, type Extension } from "./ipv6-builder.ts";

const PEER = "2001:db8::10";
const DVIPA = "2001:db8::100";
const TCP = 6;
const IN_IPV4 = 4;
const IN_IPV6 = 41;

function sampleV6(suite: SharedSa["suite"], mode: SharedSa["mode"]): SharedSa {
  return { ...sampleSa(suite, mode), dvipa: DVIPA, peer: PEER };
}

function peek(sa: SharedSa, packet: Uint8Array): PeekResult {
  const esp = parseEsp(packet);
  if (typeof esp === "string") throw new Error(esp);
  expect(esp.outer).toMatchObject({ source: sa.peer, destination: sa.dvipa });
  return createPeeker(sa).peek(esp.payload, esp.outer.source, esp.outer.destination);
}

/** Transport mode: `inside` stands behind the ESP header, `outside` before it. */
function transport(
  sa: SharedSa,
  segment: Uint8Array,
  { outside = [], inside = [] }: { outside?: readonly Extension[]; inside?: readonly Extension[] } = {},
): Uint8Array {
  const { first, bytes } = chain(inside, TCP);
  return ipv6Packet(sa.peer, sa.dvipa, 50, espPayload(sa, concatBytes(bytes, segment), first), outside);
}

const segment = tcpSegment(40_000, 80, { syn: true });
const SYN = { sourcePort: 40_000, destinationPort: 80, syn: true, ack: false, fin: false, rst: false };

describe.each(ESP_SUITES.map((suite) => ({ name: suiteName(suite), suite })))("peek over IPv6: $name", ({ suite }) => {
  it("reads TCP in transport mode, behind extension headers on either side of ESP", () => {
    const sa = sampleV6(suite, "transport");
    const expected = { kind: "tcp", source: PEER, destination: DVIPA, tcp: SYN };
    expect(peek(sa, transport(sa, segment))).toEqual(expected);
    expect(peek(sa, transport(sa, segment, { outside: [options(0), routing(0)] }))).toEqual(expected);
    expect(peek(sa, transport(sa, segment, { inside: [options(60, 2), options(60)] }))).toEqual(expected);
  });

  it("reads TCP in tunnels of every pair of IP versions", () => {
    const v6 = sampleV6(suite, "tunnel");
    const v4 = sampleSa(suite, "tunnel");
    const inner6 = ipv6Packet("2001:db8:1::7", DVIPA, TCP, segment, [options(0), options(60, 5)]);
    const inner4 = ipv4Packet("10.0.0.7", "192.0.2.100", TCP, segment, { optionWords: 2 });
    const seen6 = { kind: "tcp", source: "2001:db8:1::7", destination: DVIPA, tcp: SYN };
    const seen4 = { kind: "tcp", source: "10.0.0.7", destination: "192.0.2.100", tcp: SYN };
    expect(peek(v6, ipv6Packet(PEER, DVIPA, 50, espPayload(v6, inner6, IN_IPV6)))).toEqual(seen6);
    expect(peek(v6, ipv6Packet(PEER, DVIPA, 50, espPayload(v6, inner4, IN_IPV4), [options(60)]))).toEqual(seen4);
    expect(peek(v4, ipv4Packet(v4.peer, v4.dvipa, 50, espPayload(v4, inner6, IN_IPV6)))).toEqual(seen6);
    expect(peek(v4, ipv4Packet(v4.peer, v4.dvipa, 50, espPayload(v4, inner4, IN_IPV4)))).toEqual(seen4);
  });

  it("never throws on noise, nor on forged chains", () => {
    for (const mode of ["transport", "tunnel"] as const) {
      const sa = sampleV6(suite, mode);
      const peeker = createPeeker(sa);
      const plain = fc.tuple(fc.uint8Array({ maxLength: 120 }), fc.constantFrom(0, 6, 41, 43, 44, 60));
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 200 }), plain, (noise, [inner, nextHeader]) => {
          peeker.peek(noise, PEER, DVIPA);
          const esp = parseEsp(ipv6Packet(PEER, DVIPA, 50, espPayload(sa, inner, nextHeader)));
          if (typeof esp === "string") throw new Error(esp);
          peeker.peek(esp.payload, PEER, DVIPA);
        }),
      );
    }
  });
});

describe("peek over IPv6: what cannot be told, or is no TCP", () => {
  const transportSa = sampleV6({ kind: "aes-gcm-16", keyBits: 128 }, "transport");
  const tunnelSa = sampleV6({ kind: "aes-gcm-16", keyBits: 128 }, "tunnel");
  const inTunnel = (inner: Uint8Array): PeekResult =>
    peek(tunnelSa, ipv6Packet(PEER, DVIPA, 50, espPayload(tunnelSa, inner, IN_IPV6)));

  it("an inner fragment", () => {
    for (const header of [fragment(0, true), fragment(9, false)]) {
      const expected = { kind: "unreadable", reason: "innerFragment" };
      expect(inTunnel(ipv6Packet(PEER, DVIPA, TCP, segment, [header]))).toEqual(expected);
      expect(peek(transportSa, transport(transportSa, segment, { inside: [header] }))).toEqual(expected);
    }
  });

  it("an inner chain that a sender should not make", () => {
    const expected = { kind: "unreadable", reason: "innerHeader" };
    const endless = Array.from({ length: 20 }, () => options(60));
    expect(inTunnel(ipv6Packet(PEER, DVIPA, TCP, segment, endless))).toEqual(expected);
    expect(inTunnel(ipv6Packet(PEER, DVIPA, TCP, segment, [routing(1)]))).toEqual(expected);
    expect(peek(transportSa, transport(transportSa, segment, { inside: endless }))).toEqual(expected);
  });

  it("a TCP header that is cut short, and ICMPv6 behind options", () => {
    const short = { kind: "unreadable", reason: "tooShort" };
    expect(inTunnel(ipv6Packet(PEER, DVIPA, TCP, segment.subarray(0, 13), [options(60)]))).toEqual(short);
    expect(peek(transportSa, transport(transportSa, segment.subarray(0, 13)))).toEqual(short);
    expect(inTunnel(ipv6Packet(PEER, DVIPA, 58, segment, [options(60)]))).toEqual({ kind: "other", protocol: 58 });
  });

  it("IPv4 in transport mode has no extension headers to walk", () => {
    const sa = sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport");
    const { first, bytes } = chain([options(60)], TCP);
    const packet = ipv4Packet(sa.peer, sa.dvipa, 50, espPayload(sa, concatBytes(bytes, segment), first));
    expect(peek(sa, packet)).toEqual({ kind: "other", protocol: 60 });
  });
});
