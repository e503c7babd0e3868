import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseEsp } from "../../../src/sa/packet.ts";
import { createPeeker, type PeekResult } from "../../../src/sa/peek.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { ESP_SUITES, suiteName } from "../../../src/sa/suite.ts";
import { espPacket, espPayload, ipv4Packet, sampleSa, tcpSegment } from "./esp-builder.ts";

function peek(sa: SharedSa, packet: Uint8Array): PeekResult {
  const esp = parseEsp(packet);
  if (typeof esp === "string") throw new Error(esp);
  return createPeeker(sa).peek(esp.payload, esp.outer.source, esp.outer.destination);
}

const cases = ESP_SUITES.flatMap((suite) =>
  (["transport", "tunnel"] as const).map((mode) => ({ name: `${suiteName(suite)} ${mode}`, suite, mode })),
);

describe.each(cases)("peek: $name", ({ suite, mode }) => {
  const sa = sampleSa(suite, mode);

  it("reads addresses, ports and flags whatever the payload length", () => {
    const peeker = createPeeker(sa);
    for (let dataBytes = 0; dataBytes < 70; dataBytes++) {
      const packet = espPacket(sa, tcpSegment(40_000 + dataBytes, 80, { syn: true }, new Uint8Array(dataBytes)), 6);
      const esp = parseEsp(packet);
      if (typeof esp === "string") throw new Error(esp);
      expect(peeker.peek(esp.payload, esp.outer.source, esp.outer.destination)).toEqual({
        kind: "tcp",
        source: sa.peer,
        destination: sa.dvipa,
        tcp: { sourcePort: 40_000 + dataBytes, destinationPort: 80, syn: true, ack: false, fin: false, rst: false },
      });
    }
  });

  it.each([1, 5, 10])("walks %i words of IP options", (optionWords) => {
    const packet = espPacket(sa, tcpSegment(1234, 443, { ack: true, fin: true }), 6, { optionWords });
    expect(peek(sa, packet)).toMatchObject({ kind: "tcp", tcp: { sourcePort: 1234, destinationPort: 443, fin: true } });
  });

  it("tells UDP with the ports of a TCP connection from TCP", () => {
    expect(peek(sa, espPacket(sa, tcpSegment(40_000, 80, { syn: true }), 17))).toEqual({ kind: "other", protocol: 17 });
  });

  it("never throws and never invents TCP out of noise that is too short", () => {
    const peeker = createPeeker(sa);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (payload) => {
        const result = peeker.peek(payload, sa.peer, sa.dvipa);
        if (payload.length < 40) expect(result.kind).not.toBe("tcp");
      }),
    );
  });
});

describe("peek: what cannot be told", () => {
  const sa = sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "tunnel");
  const inTunnel = (inner: Uint8Array): Uint8Array => ipv4Packet(sa.peer, sa.dvipa, 50, espPayload(sa, inner, 4));

  it("an inner fragment", () => {
    const inner = ipv4Packet(sa.peer, sa.dvipa, 6, tcpSegment(1, 2, {}), { fragmentField: 0x2000 });
    expect(peek(sa, inTunnel(inner))).toEqual({ kind: "unreadable", reason: "innerFragment" });
  });

  it("an inner packet that is not IP", () => {
    expect(peek(sa, inTunnel(new Uint8Array(40).fill(0x50)))).toEqual({ kind: "unreadable", reason: "innerHeader" });
  });

  it("a TCP header that is cut short", () => {
    const inner = ipv4Packet(sa.peer, sa.dvipa, 6, tcpSegment(1, 2, {}).subarray(0, 13));
    expect(peek(sa, inTunnel(inner))).toEqual({ kind: "unreadable", reason: "tooShort" });
  });

  it("ciphertext that is no whole number of blocks", () => {
    const cbc = sampleSa({ kind: "aes-cbc", keyBits: 128, integrity: "hmac-sha2-256" }, "transport");
    const result = createPeeker(cbc).peek(new Uint8Array(16 + 33 + 16), cbc.peer, cbc.dvipa);
    expect(result).toEqual({ kind: "unreadable", reason: "badLength" });
  });
});

describe("parseEsp", () => {
  const sa = sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport");
  const packet = espPacket(sa, tcpSegment(1, 2, {}), 6);

  it("ignores what the link has padded after Total Length", () => {
    const padded = new Uint8Array(packet.length + 10);
    padded.set(packet);
    expect(parseEsp(padded)).toMatchObject({ spi: sa.inbound.spi, sequence: 1 });
  });

  it.each([
    ["notIp", new Uint8Array(0)],
    ["notIp", packet.subarray(0, 19)],
    ["notIp", packet.subarray(0, packet.length - 1)],
    ["notEsp", ipv4Packet(sa.peer, sa.dvipa, 6, tcpSegment(1, 2, {}))],
    ["fragment", ipv4Packet(sa.peer, sa.dvipa, 50, new Uint8Array(64), { fragmentField: 0x2000 })],
    ["fragment", ipv4Packet(sa.peer, sa.dvipa, 50, new Uint8Array(64), { fragmentField: 1 })],
    ["tooShort", ipv4Packet(sa.peer, sa.dvipa, 50, new Uint8Array(7))],
  ])("says %s", (reason, bytes) => {
    expect(parseEsp(bytes)).toBe(reason);
  });
});
