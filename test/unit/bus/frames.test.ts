import fc from "fast-check";
import { expect, test } from "vitest";
import { FrameDecoder, FrameWriter } from "../../../src/bus/frames.ts";
import { encodeFrames } from "./frames.ts";

test("golden bytes: u32be length, then the text", () => {
  expect(encodeFrames(['{"a":1}', "é"]).toString("hex")).toBe("000000077b2261223a317d00000002c3a9");
});

test("frames come out whole and in order, however the stream is cut", () => {
  const bodies = fc.array(fc.string({ minLength: 1, maxLength: 40, unit: "grapheme" }), {
    minLength: 1,
    maxLength: 20,
  });
  fc.assert(
    fc.property(bodies, fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), (texts, cuts) => {
      const stream = encodeFrames(texts);
      const decoder = new FrameDecoder();
      const found: string[] = [];
      for (let offset = 0, i = 0; offset < stream.length; i++) {
        const next = Math.min(stream.length, offset + (cuts[i % cuts.length] ?? 1));
        // A copy: what comes out must not depend on a chunk that is used again.
        found.push(...decoder.push(Buffer.from(stream.subarray(offset, next))).map((frame) => frame.toString("utf8")));
        offset = next;
      }
      expect(found).toEqual(texts);
      expect(decoder.heldBytes).toBe(0);
    }),
  );
});

test("an empty or too long frame is an error, also when its length comes in pieces", () => {
  const length = (bytes: number): Buffer => {
    const buffer = Buffer.alloc(4);
    buffer.writeUInt32BE(bytes);
    return buffer;
  };
  for (const bytes of [0, 101, 0xffff_ffff]) {
    expect(() => new FrameDecoder(100).push(length(bytes))).toThrow(/allowed: 1 to 100/);
    const decoder = new FrameDecoder(100);
    decoder.push(length(bytes).subarray(0, 2));
    expect(() => decoder.push(length(bytes).subarray(2))).toThrow(/allowed: 1 to 100/);
  }
  expect(new FrameDecoder(100).push(length(100))).toEqual([]);
  expect(() => encodeFrames(["x", "x".repeat(101)], 100)).toThrow(/101 bytes/);
});

test("what was taken is not written to again, however much comes after it", () => {
  fc.assert(
    fc.property(fc.array(fc.array(fc.nat(40_000), { maxLength: 5 }), { maxLength: 10 }), (turns) => {
      const writer = new FrameWriter();
      const taken: Buffer[] = [];
      const wanted: Buffer[] = [];
      for (const [turn, lengths] of turns.entries()) {
        const bodies = lengths.map((length) => String.fromCharCode(0x61 + turn).repeat(length + 1));
        for (const body of bodies) writer.text(body);
        expect(writer.lengthBytes).toBe(bodies.reduce((sum, body) => sum + 4 + body.length, 0));
        taken.push(writer.take());
        wanted.push(encodeFrames(bodies));
      }
      expect(Buffer.concat(taken).equals(Buffer.concat(wanted))).toBe(true);
    }),
    { numRuns: 30 },
  );
});

test("memory follows what has arrived, not what a length promises", () => {
  const decoder = new FrameDecoder(1024 * 1024);
  decoder.push(Buffer.from([0, 0x10, 0, 0]));
  for (let i = 0; i < 1000; i++) decoder.push(Buffer.from("x"));
  expect(decoder.heldBytes).toBe(1004);
});

test("random bytes throw only our error", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 64 })), (chunks) => {
      const decoder = new FrameDecoder(64);
      try {
        for (const chunk of chunks) decoder.push(Buffer.from(chunk));
      } catch (error) {
        expect(error).toMatchObject({ code: "bus.protocol" });
      }
    }),
  );
});
