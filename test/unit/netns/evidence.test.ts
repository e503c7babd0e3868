import { describe, expect, it } from "vitest";
import { WireExaminer } from "../../../netns/evidence.ts";
import { fragment, ipv6Packet, options, routing } from "../sa/ipv6-builder.ts";

const DVIPA = [192, 0, 2, 100];
const CLIENT = [192, 0, 2, 10];
const MAC = "02:e5:00:00:01:0b";

describe("what a capture of the client's link shows", () => {
  it("counts ESP from the DVIPA by sender, and sees a sequence number that comes twice", () => {
    const examiner = examined(esp(0x1000, 7), esp(0x1000, 8), esp(0x2000, 7), esp(0x1000, 7));
    expect(examiner.espFromDvipa).toBe(4);
    expect(examiner.espFromDvipaByMac).toEqual(new Map([[MAC, 4]]));
    expect(examiner.duplicateCount).toBe(1);
    expect(examiner.duplicates).toEqual([{ spi: 0x1000, sequence: 7, mac: MAC }]);
  });

  it("keeps numbers apart that differ in the upper bits only", () => {
    expect(examined(esp(1, 5), esp(1, 65_541), esp(1, 0x8000_0005)).duplicateCount).toBe(0);
  });

  it("tells SAs with the same SPI apart by their destination", () => {
    const other = ipv4(50, DVIPA, [192, 0, 2, 11], espBody(1, 5));
    expect(examined(esp(1, 5), other).duplicateCount).toBe(0);
  });

  it("does not take the packets that the client repeats for numbers of ours", () => {
    const inbound = ipv4(50, CLIENT, DVIPA, espBody(1, 5));
    const examiner = examined(inbound, inbound);
    expect(examiner).toMatchObject({ espToDvipa: 2, espFromDvipa: 0, duplicateCount: 0 });
  });

  it("counts AH as protected, its numbers apart from those of ESP with the same SPI", () => {
    const ah = (sequence: number): Frame =>
      ipv4(51, DVIPA, CLIENT, Buffer.concat([Buffer.from([6, 4, 0, 0]), espBody(1, sequence)]));
    const examiner = examined(esp(1, 5), ah(5), ah(6), ipv4(51, CLIENT, DVIPA, Buffer.alloc(40)));
    expect(examiner).toMatchObject({ espFromDvipa: 3, ahFromDvipa: 2, espToDvipa: 1, duplicateCount: 0 });
    expect(examiner.cleartextPackets).toBe(0);
    expect(examined(ah(5), ah(5)).duplicates).toEqual([{ spi: 1, sequence: 5, mac: MAC }]);
  });

  it("counts everything else to or from the DVIPA as cleartext, except IKE and ARP", () => {
    const udp = (source: number, destination: number): Buffer => {
      const body = Buffer.alloc(8);
      body.writeUInt16BE(source, 0);
      body.writeUInt16BE(destination, 2);
      return body;
    };
    const examiner = examined(
      ipv4(17, CLIENT, DVIPA, udp(500, 500)),
      ipv4(17, CLIENT, DVIPA, udp(30_000, 4500)),
      ipv4(17, DVIPA, CLIENT, udp(4500, 30_000)),
      frame(0x0806, Buffer.alloc(28)),
      ipv4(6, DVIPA, CLIENT, Buffer.alloc(20)),
      ipv4(1, CLIENT, DVIPA, Buffer.alloc(8)),
      ipv4(17, DVIPA, CLIENT, udp(53, 500)),
      ipv4(6, CLIENT, [192, 0, 2, 1], Buffer.alloc(20)),
    );
    expect(examiner).toMatchObject({ frames: 8, ike: 3, cleartextPackets: 3, cleartextFromDvipa: 2 });
    expect(examiner.cleartextSamples).toHaveLength(3);
  });

  it("tells ESP in UDP, whose numbers count, from IKE behind its marker and keepalives", () => {
    const udp = (source: number, destination: number, body: Uint8Array): Buffer => {
      const head = Buffer.alloc(8);
      head.writeUInt16BE(source, 0);
      head.writeUInt16BE(destination, 2);
      return Buffer.concat([head, body]);
    };
    const examiner = examined(
      ipv4(17, DVIPA, CLIENT, udp(4500, 30_000, espBody(0x1000, 7))),
      ipv4(17, DVIPA, CLIENT, udp(4500, 30_000, espBody(0x1000, 7))),
      ipv4(17, CLIENT, DVIPA, udp(30_000, 4500, espBody(0x2000, 7))),
      ipv4(17, CLIENT, DVIPA, udp(30_000, 4500, espBody(0, 7))),
      ipv4(17, CLIENT, DVIPA, udp(30_000, 4500, Buffer.of(0xff))),
    );
    expect(examiner).toMatchObject({ espInUdp: 3, espFromDvipa: 2, espToDvipa: 1, ike: 2, cleartextPackets: 0 });
    expect(examiner.duplicates).toEqual([{ spi: 0x1000, sequence: 7, mac: MAC }]);
  });

  it("reads IPv6: ESP behind extension headers, and no neighbour discovery as cleartext", () => {
    const dvipa = "2001:db8:1::100";
    const client = "2001:db8:1::10";
    const v6 = (...packet: Parameters<typeof ipv6Packet>): Frame => frame(0x86dd, ipv6Packet(...packet));
    const icmp = (type: number): Uint8Array => Uint8Array.of(type, 0, 0, 0, 0, 0, 0, 0);
    const examiner = new WireExaminer(dvipa);
    const frames = [
      v6(dvipa, client, 50, espBody(1, 5)),
      v6(dvipa, client, 50, espBody(1, 5), [options(0)]),
      v6(dvipa, client, 50, espBody(1, 6), [fragment(0, true)]),
      v6(dvipa, client, 50, espBody(1, 6), [fragment(180, false)]),
      v6(client, dvipa, 50, espBody(1, 5)),
      v6(dvipa, client, 17, Uint8Array.of(1, 244, 1, 244, 0, 8, 0, 0)),
      v6(dvipa, client, 58, icmp(136)),
      v6(client, dvipa, 58, icmp(135)),
      v6(dvipa, client, 58, icmp(129)),
      v6(client, dvipa, 6, new Uint8Array(20), [options(60)]),
      v6(client, dvipa, 58, icmp(135), [routing(0), routing(0)]),
      v6("2001:db8:1::1", client, 6, new Uint8Array(20)),
    ];
    for (const one of frames) examiner.take(one);
    const found = examiner.result();
    expect(found).toMatchObject({ frames: 12, espFromDvipa: 3, espToDvipa: 1, ike: 1, duplicateCount: 1 });
    expect(found).toMatchObject({ espFragments: 2, cleartextPackets: 3, cleartextFromDvipa: 1 });
  });

  it("survives frames that are cut short", () => {
    const whole = esp(1, 1).bytes;
    const cut = Array.from({ length: whole.length }, (_, length) => ({
      ...esp(1, 1),
      bytes: whole.subarray(0, length),
    }));
    expect(() => examined(...cut)).not.toThrow();
  });
});

type Frame = Parameters<WireExaminer["take"]>[0];

function examined(...frames: Frame[]): ReturnType<WireExaminer["result"]> {
  const examiner = new WireExaminer(DVIPA.join("."));
  for (const one of frames) examiner.take(one);
  return examiner.result();
}

function esp(spi: number, sequence: number): Frame {
  return ipv4(50, DVIPA, CLIENT, espBody(spi, sequence));
}

function espBody(spi: number, sequence: number): Buffer {
  const body = Buffer.alloc(40);
  body.writeUInt32BE(spi, 0);
  body.writeUInt32BE(sequence, 4);
  return body;
}

function ipv4(protocol: number, source: readonly number[], destination: readonly number[], body: Buffer): Frame {
  const header = Buffer.from([0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, ...source, ...destination]);
  header.writeUInt16BE(header.length + body.length, 2);
  return frame(0x0800, Buffer.concat([header, body]));
}

function frame(type: number, payload: Uint8Array): Frame {
  const mac = Buffer.from(MAC.replaceAll(":", ""), "hex");
  const header = Buffer.concat([Buffer.alloc(6), mac, Buffer.from([type >> 8, type & 0xff])]);
  const bytes = Buffer.concat([header, payload]);
  return { timestampMicros: 0n, bytes, lengthBytes: bytes.length };
}
