import { expect, test } from "vitest";
import { espOfFrame } from "../../../src/sa/captured-esp.ts";
import { fragment, ipv6Packet, options } from "./ipv6-builder.ts";

const ESP = Buffer.from("00001234000000070102030405060708ffff", "hex");
const SEEN = { protocol: "esp", spi: 0x1234, sequence: 7, iv: 0x0102030405060708n, bytes: ESP };

function ethernet(type: number, packet: Buffer): Buffer {
  return Buffer.concat([Buffer.alloc(12), Buffer.from([type >> 8, type & 0xff]), packet]);
}

function ipv4(protocol: number, body: Buffer, fragment = 0): Buffer {
  const header = Buffer.from([0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 100, 192, 0, 2, 10]);
  header.writeUInt16BE(header.length + body.length, 2);
  header.writeUInt16BE(fragment, 6);
  return ethernet(0x0800, Buffer.concat([header, body]));
}

function udp(source: number, body: Buffer): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(source, 0);
  header.writeUInt16BE(30_000, 2);
  return Buffer.concat([header, body]);
}

test("ESP is found over IPv4, in UDP and over IPv6; padding of the link is no part of it", () => {
  const v4 = { ...SEEN, source: "192.0.2.100", destination: "192.0.2.10" };
  expect(espOfFrame(Buffer.concat([ipv4(50, ESP), Buffer.alloc(6)]))).toEqual(v4);
  expect(espOfFrame(ipv4(17, udp(4500, ESP)))).toEqual(v4);
  const header = Buffer.from(`6000000000123240${"20010db8".padEnd(31, "0")}1${"20010db8".padEnd(31, "0")}2`, "hex");
  const v6 = { ...SEEN, source: "2001:db8::1", destination: "2001:db8::2" };
  expect(espOfFrame(ethernet(0x86dd, Buffer.concat([header, ESP])))).toEqual(v6);
  const behind = ipv6Packet("2001:db8::1", "2001:db8::2", 50, ESP, [options(0), fragment(0, true)]);
  expect(espOfFrame(ethernet(0x86dd, Buffer.from(behind)))).toEqual(v6);
  const later = ipv6Packet("2001:db8::1", "2001:db8::2", 50, ESP, [fragment(100, true)]);
  expect(espOfFrame(ethernet(0x86dd, Buffer.from(later)))).toBeNull();
});

test("AH is found over IPv4 and IPv6, also in front of ESP; there is none in UDP", () => {
  const named = Buffer.from("000012340000000700112233445566778899aabbccddeeff", "hex");
  const ah = Buffer.concat([Buffer.from([50, 5, 0, 0]), named, ESP]);
  const seen = { protocol: "ah", spi: 0x1234, sequence: 7, iv: null, bytes: ah.subarray(4) };
  expect(espOfFrame(ipv4(51, ah))).toEqual({ ...seen, source: "192.0.2.100", destination: "192.0.2.10" });
  const v6 = Buffer.from(ipv6Packet("2001:db8::1", "2001:db8::2", 51, ah, [options(60)]));
  expect(espOfFrame(ethernet(0x86dd, v6))).toEqual({ ...seen, source: "2001:db8::1", destination: "2001:db8::2" });
  expect(espOfFrame(ipv4(51, ah, 100))).toBeNull();
  const frame = ipv4(51, ah);
  for (let length = 34; length < frame.length; length++) {
    const found = espOfFrame(frame.subarray(0, length));
    if (length < 34 + 12) expect(found).toBe("cut");
    else expect(found).toMatchObject({ spi: 0x1234, sequence: 7 });
  }
});

test("IKE, other traffic and later fragments are not ESP", () => {
  expect(espOfFrame(ipv4(17, udp(4500, Buffer.alloc(32))))).toBeNull();
  expect(espOfFrame(ipv4(17, udp(500, ESP)))).toBeNull();
  expect(espOfFrame(ipv4(6, ESP))).toBeNull();
  expect(espOfFrame(ipv4(50, ESP, 100))).toBeNull();
  expect(espOfFrame(ethernet(0x0806, Buffer.alloc(28)))).toBeNull();
});

test("a packet of which too little was captured says so, wherever it was cut", () => {
  const frame = ipv4(50, ESP);
  for (let length = 0; length < frame.length; length++) {
    const found = espOfFrame(frame.subarray(0, length));
    if (length < 34) expect(found).toBeNull();
    else if (length < 42) expect(found).toBe("cut");
    else expect(found).toMatchObject({ sequence: 7, iv: length < 50 ? null : SEEN.iv });
  }
});
