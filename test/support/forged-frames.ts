/** Frames that nobody with the SA's keys has made, from a recorded frame with an ESP packet of the SA (IPv4 without options). */
import { randomBytes, randomInt } from "node:crypto";

const IP_AT = 14;
const ESP_AT = 34;
const IPV4_HEADER_BYTES = 20;
/** Of AES-GCM: behind SPI and number (RFC 4106 §3). */
const IV_BYTES = 8;
const ICV_BYTES = 16;
const PAYLOAD_AT = ESP_AT + 8 + IV_BYTES;
const MORE_FRAGMENTS = 0x2000;
/** Numbers ahead of the real ones that an attacker tries. */
const NEAR = 512;

export const FORGERIES = [
  "unknownSpi",
  "nearAhead",
  "farAhead",
  "flippedPorts",
  "flippedFlags",
  "flippedPadding",
  "truncated",
  "overlappingFragments",
] as const;
export type Forgery = (typeof FORGERIES)[number];

/** One forged packet, in as many frames as it needs; `recorded` is the newest real one. */
export function forge(kind: Forgery, recorded: Buffer): Buffer[] {
  const frame = Buffer.from(recorded);
  const newest = recorded.readUInt32BE(ESP_AT + 4);
  frame.writeUInt32BE((newest + randomInt(1, NEAR)) >>> 0, ESP_AT + 4);
  switch (kind) {
    case "unknownSpi":
      frame.writeUInt32BE(randomInt(256, 2 ** 32), ESP_AT);
      return [frame];
    case "nearAhead":
      randomBytes(frame.length - ESP_AT - 8).copy(frame, ESP_AT + 8);
      return [frame];
    case "farAhead":
      frame.writeUInt32BE((newest + randomInt(1_000_000, 2 ** 31)) >>> 0, ESP_AT + 4);
      return [frame];
    case "flippedPorts":
      frame.writeUInt16BE(frame.readUInt16BE(PAYLOAD_AT) ^ randomInt(1, 0x10000), PAYLOAD_AT);
      return [frame];
    case "flippedFlags":
      // SYN, FIN and RST of a segment that has ACK only.
      frame[PAYLOAD_AT + 13] = (frame[PAYLOAD_AT + 13] ?? 0) ^ randomInt(1, 8);
      return [frame];
    case "flippedPadding":
      for (let at = frame.length - ICV_BYTES - 2; at < frame.length - ICV_BYTES; at++) frame[at] = randomInt(256);
      return [frame];
    case "truncated":
      return [withLength(frame, randomInt(ESP_AT + 8, frame.length))];
    case "overlappingFragments":
      return overlapping(frame);
  }
}

/** Three fragments, the second of which lies over the end of the first (RFC 5722 says of IPv6 what to do; Linux of both). */
function overlapping(frame: Buffer): Buffer[] {
  const body = frame.subarray(ESP_AT);
  const unit = 8 * Math.max(2, Math.floor(body.length / 24));
  const identification = randomInt(0x10000);
  const piece = (from: number, end: number, more: boolean): Buffer => {
    const part = Buffer.concat([frame.subarray(0, ESP_AT), body.subarray(from, end)]);
    part.writeUInt16BE(identification, IP_AT + 4);
    part.writeUInt16BE((more ? MORE_FRAGMENTS : 0) | (from / 8), IP_AT + 6);
    return withLength(part, part.length);
  };
  return [piece(0, unit, true), piece(unit - 8, 2 * unit, true), piece(2 * unit, body.length, false)];
}

/** Cuts the frame, and says so in its IPv4 header. */
function withLength(frame: Buffer, lengthBytes: number): Buffer {
  const cut = Buffer.from(frame.subarray(0, lengthBytes));
  cut.writeUInt16BE(lengthBytes - IP_AT, IP_AT + 2);
  cut.writeUInt16BE(0, IP_AT + 10);
  let sum = 0;
  for (let at = IP_AT; at < IP_AT + IPV4_HEADER_BYTES; at += 2) sum += cut.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  cut.writeUInt16BE(~sum & 0xffff, IP_AT + 10);
  return cut;
}
