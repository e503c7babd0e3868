import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EsplexError } from "../../../../src/core/errors.ts";
import { decodeHeader } from "../../../../src/ike/wire/header.ts";
import { outlineInit } from "../../../../src/ike/wire/init-outline.ts";
import { decodeMessage } from "../../../../src/ike/wire/message.ts";
import { decodePayloads, encodePayloads } from "../../../../src/ike/wire/payload.ts";
import { capturedMessages } from "../vectors.ts";
import { payload } from "./arbitrary.ts";

/** Runs a decoder on hostile bytes: it may throw our error, nothing else. */
function onlyOurError(run: () => unknown): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    expect(error.code).toMatch(/^(wire\.|peer\.unsupportedCriticalPayload)/);
  }
}

/** All that a datagram goes through before it is known whose it is. */
function read(bytes: Uint8Array): void {
  onlyOurError(() => decodeMessage(bytes));
  onlyOurError(() => outlineInit(decodeHeader(bytes), bytes));
}

const PAYLOAD_TYPES = [33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 53, 200];

describe("payload codecs", () => {
  test("decode(encode(x)) = x", () => {
    fc.assert(
      fc.property(fc.array(payload, { maxLength: 6 }), (payloads) => {
        const { firstType, bytes } = encodePayloads(payloads);
        expect(decodePayloads(firstType, bytes)).toEqual(payloads);
      }),
    );
  });

  for (const type of PAYLOAD_TYPES) {
    test(`random bytes as payload ${type} throw only our error`, () => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 80, size: "max" }), (body) => {
          const header = Uint8Array.from([0, 0, 0, body.length + 4]);
          onlyOurError(() => decodePayloads(type, Uint8Array.from([...header, ...body])));
        }),
      );
    });
  }
});

test("random bytes as a message throw only our error", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200, size: "max" }), (bytes) => read(bytes)));
});

test("captured messages with changed, cut or added bytes throw only our error", () => {
  const messages = capturedMessages().map(({ bytes }) => bytes);
  const change = fc.record({ at: fc.nat(3000), value: fc.integer({ min: 0, max: 255 }) });
  fc.assert(
    fc.property(
      fc.constantFrom(...messages),
      fc.array(change, { maxLength: 4 }),
      fc.option(fc.nat(3000), { freq: 3 }),
      (original, changes, cut) => {
        const bytes = original.slice(0, cut ?? original.length);
        for (const { at, value } of changes) if (at < bytes.length) bytes[at] = value;
        read(bytes);
      },
    ),
    { numRuns: 500 },
  );
});
