import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readPcap, type PcapFrame } from "../../../src/sa/pcap.ts";

let directory = "";
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "esplex-pcap-"));
});
afterEach(() => rm(directory, { recursive: true }));

describe("pcap files", () => {
  it("reads frames with their time and full length", async () => {
    const frames = await framesOf(
      Buffer.concat([fileHeader(), frame(5, 7, Buffer.from("abc"), 1500), frame(6, 0, Buffer.alloc(0), 0)]),
    );
    expect(frames).toEqual([
      { timestampMicros: 5_000_007n, bytes: Buffer.from("abc"), lengthBytes: 1500 },
      { timestampMicros: 6_000_000n, bytes: Buffer.alloc(0), lengthBytes: 0 },
    ]);
  });

  it("reads frames that span the chunks of a large file", async () => {
    const one = frame(1, 0, Buffer.alloc(90_000, 7), 90_000);
    const frames = await framesOf(Buffer.concat([fileHeader(), ...Array.from({ length: 40 }, () => one)]));
    expect(frames.map(({ bytes }) => bytes.length)).toEqual(Array.from({ length: 40 }, () => 90_000));
  });

  it.each([
    ["is empty", Buffer.alloc(0), "ends in the middle"],
    [
      "ends inside a frame",
      Buffer.concat([fileHeader(), frame(1, 0, Buffer.alloc(9), 9).subarray(0, -1)]),
      "ends in the middle",
    ],
    ["is something else", Buffer.alloc(24, 1), "not a little-endian"],
    ["is of another link type", fileHeader(113), "link type 113"],
    ["claims a frame of 1 GB", Buffer.concat([fileHeader(), frame(1, 0, Buffer.alloc(0), 0, 1 << 30)]), "cannot be"],
  ])("refuses a file that %s", async (_, content, message) => {
    await expect(framesOf(content)).rejects.toThrow(message);
  });
});

async function framesOf(content: Buffer): Promise<PcapFrame[]> {
  const path = join(directory, "file.pcap");
  await writeFile(path, content);
  const frames: PcapFrame[] = [];
  for await (const { bytes, ...rest } of readPcap(path)) frames.push({ ...rest, bytes: Buffer.from(bytes) });
  return frames;
}

function fileHeader(linkType = 1): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt32LE(linkType, 20);
  return header;
}

function frame(seconds: number, micros: number, bytes: Buffer, lengthBytes: number, keptBytes = bytes.length): Buffer {
  const header = Buffer.alloc(16);
  [seconds, micros, keptBytes, lengthBytes].forEach((value, index) => header.writeUInt32LE(value, index * 4));
  return Buffer.concat([header, bytes]);
}
