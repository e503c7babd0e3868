import { createHmac } from "node:crypto";
import { describe, expect, it } from "vitest";
import { Secret } from "../../../src/core/secret.ts";
import { icvMark, isAuthentic } from "../../../src/sa/authenticity.ts";
import { IP_PROTOCOL, parseEsp } from "../../../src/sa/packet.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { AH_SUITES, ESP_SUITES, suiteLengths, suiteName } from "../../../src/sa/suite.ts";
import { ahPacket } from "./ah-builder.ts";
import { espPacket, sampleSa, tcpSegment } from "./esp-builder.ts";

const SEGMENT = tcpSegment(40_000, 80, { syn: true }, new Uint8Array(100).fill(7));

function check(sa: SharedSa, packet: Uint8Array): boolean {
  const esp = parseEsp(packet);
  if (typeof esp === "string") throw new Error(esp);
  return isAuthentic(sa, packet, esp);
}

/** With one bit of this byte turned. */
function flipped(packet: Uint8Array, at: number): Uint8Array {
  const other = packet.slice();
  other[at] = (other[at] ?? 0) ^ 0x10;
  return other;
}

describe.each(ESP_SUITES.map((suite) => [suiteName(suite), suite] as const))("ESP with %s", (_, suite) => {
  it.each(["transport", "tunnel"] as const)(
    "in %s mode: the sender's packet is authentic, any other is not",
    (mode) => {
      const sa = sampleSa(suite, mode);
      const packet = espPacket(sa, SEGMENT, IP_PROTOCOL.tcp);
      expect(check(sa, packet)).toBe(true);
      // Everything from the SPI on, of which the SPI is what found the SA.
      for (let at = 20; at < packet.length; at++) expect(check(sa, flipped(packet, at)), `byte ${at}`).toBe(false);
      expect(check(sampleSa(suite, mode), packet)).toBe(false);
      expect(check({ ...sa, esn: true }, packet)).toBe(false);
    },
  );

  it("cut short: not authentic", () => {
    const sa = sampleSa(suite, "transport");
    const { ivBytes, icvBytes } = suiteLengths(suite);
    const packet = espPacket(sa, SEGMENT, IP_PROTOCOL.tcp);
    for (const bytes of [0, 1, icvBytes, ivBytes + icvBytes - 1, ivBytes + icvBytes]) {
      const cut = packet.slice(0, 28 + bytes);
      cut[2] = cut.length >>> 8;
      cut[3] = cut.length & 0xff;
      expect(check(sa, cut), `${bytes} bytes`).toBe(false);
    }
  });
});

/** The packet with the ICV that RFC 4302 §3.3.3 wants: over everything, with what changes on the way and the ICV being zero. */
function signAh(sa: SharedSa, packet: Uint8Array): Uint8Array {
  const { icvBytes } = suiteLengths(sa.suite);
  const isV6 = sa.dvipa.includes(":");
  const icvAt = (isV6 ? 40 : 20) + 12;
  const input = packet.slice();
  for (const at of isV6 ? [1, 2, 3, 7] : [1, 6, 7, 8, 10, 11]) input[at] = 0;
  if (isV6) input[0] = 0x60;
  input.fill(0, icvAt, icvAt + icvBytes);
  const mac = createHmac(`sha${icvBytes * 16}`, sa.inbound.integrityKey?.expose() ?? new Uint8Array());
  if (sa.esn) mac.update(input).update(new Uint8Array(4));
  else mac.update(input);
  const signed = packet.slice();
  signed.set(mac.digest().subarray(0, icvBytes), icvAt);
  return signed;
}

describe.each(AH_SUITES.map((suite) => [suiteName(suite), suite] as const))("%s", (_, suite) => {
  const v6 = { dvipa: "2001:db8:1::100", peer: "2001:db8:1::10" };
  const cases = (["transport", "tunnel"] as const).flatMap((mode) =>
    [{}, v6].flatMap((ends) => [false, true].map((esn): SharedSa => ({ ...sampleSa(suite, mode), ...ends, esn }))),
  );

  it.each(cases.map((sa) => [sa.mode, sa.dvipa, sa.esn, sa] as const))("%s, %s, ESN %s", (_mode, dvipa, _esn, sa) => {
    const packet = signAh(sa, ahPacket(sa, SEGMENT, IP_PROTOCOL.tcp));
    expect(check(sa, packet)).toBe(true);
    const isV6 = dvipa.includes(":");
    const mutable = isV6 ? [7] : [1, 8, 10, 11];
    for (const at of mutable) expect(check(sa, flipped(packet, at)), `byte ${at}`).toBe(true);
    const headerBytes = isV6 ? 40 : 20;
    // Addresses, and all of AH and what is behind it, but for its own length, on which the parser insists.
    for (let at = headerBytes - (isV6 ? 32 : 8); at < packet.length; at++) {
      if (at === headerBytes + 1) continue;
      expect(check(sa, flipped(packet, at)), `byte ${at}`).toBe(false);
    }
    const other = { ...sa, inbound: { ...sa.inbound, integrityKey: new Secret(new Uint8Array(64)) } };
    expect(check(other, packet)).toBe(false);
  });

  it("behind IP options: cannot be told, so not authentic", () => {
    const sa = sampleSa(suite, "transport");
    expect(check(sa, signAh(sa, ahPacket(sa, SEGMENT, IP_PROTOCOL.tcp, { optionWords: 1 })))).toBe(false);
  });
});

describe("the mark of an ICV", () => {
  it.each([...ESP_SUITES, ...AH_SUITES].map((suite) => [suiteName(suite), suite] as const))(
    "%s: is that of the ICV's bits alone, and small",
    (_, suite) => {
      const sa = sampleSa(suite, "transport");
      const isAh = suite.kind === "ah";
      const packet = isAh
        ? signAh(sa, ahPacket(sa, SEGMENT, IP_PROTOCOL.tcp))
        : espPacket(sa, SEGMENT, IP_PROTOCOL.tcp);
      const mark = (bytes: Uint8Array): number => {
        const esp = parseEsp(bytes);
        if (typeof esp === "string") throw new Error(esp);
        return icvMark(esp);
      };
      expect(mark(packet)).toBeGreaterThanOrEqual(0);
      expect(mark(packet)).toBeLessThan(2 ** 30);
      const icvAt = isAh ? 32 : packet.length - 4;
      for (let at = icvAt; at < icvAt + 4; at++) expect(mark(flipped(packet, at)), `byte ${at}`).not.toBe(mark(packet));
      expect(mark(flipped(packet, icvAt - 9))).toBe(mark(packet));
    },
  );
});
