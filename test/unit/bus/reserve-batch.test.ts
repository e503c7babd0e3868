/** The batches of `reserve`: their bytes, held to the schema of the JSON body. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { EnvelopeReader, EnvelopeWriter } from "../../../src/bus/envelope.ts";
import { FrameDecoder } from "../../../src/bus/frames.ts";
import { REQUESTS } from "../../../src/bus/messages.ts";
import { Outgoing } from "../../../src/bus/outgoing.ts";
import {
  type Batch,
  BatchReader,
  type GrantBody,
  MAX_RECORDS,
  type ReserveBody,
  isBatch,
} from "../../../src/bus/reserve-batch.ts";
import { SaIdCache } from "../../../src/bus/sa-id-cache.ts";

const ID = "0123456789abcdef0123456789abcdef";
const REQUEST = { sa: ID, epoch: 3n, count: 128, nextUnsent: 9n };
const GRANT = { first: 5n, end: 9n, highWater: 9n, holders: 2, rekeySoon: true };

const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
// Ids that share their last digits share a slot of the cache.
const sa = fc.oneof(
  fc.stringMatching(/^[0-9a-f]{32}$/),
  fc.stringMatching(/^[0-9a-f]{2}$/).map((head) => head + ID.slice(2)),
);
const id = fc.integer({ min: 1, max: 2 ** 48 - 1 });
const requests = fc.array(
  fc.record({
    id,
    body: fc.record({ sa, epoch: u64, count: fc.integer({ min: 1, max: 2 ** 32 - 1 }), nextUnsent: u64 }),
  }),
  { minLength: 1, maxLength: 20 },
);
const grants = fc.array(
  fc.record({
    id,
    body: fc.record({
      ...{ first: u64, end: u64, highWater: u64 },
      ...{ holders: fc.integer({ min: 1, max: 256 }), rekeySoon: fc.boolean() },
    }),
  }),
  { minLength: 1, maxLength: 20 },
);

function outgoing(name = "t1"): Outgoing {
  return new Outgoing(name, new EnvelopeWriter(name), 1024 * 1024);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Reads the first frame of a connection. */
function read(frame: Uint8Array, from = "t1"): Batch | string {
  return new BatchReader(new EnvelopeReader(from)).read(frame);
}

function frameOf(write: (out: Outgoing) => void, name?: string): Buffer {
  const out = outgoing(name);
  write(out);
  const [frame, ...rest] = new FrameDecoder().push(out.take());
  if (frame === undefined || rest.length > 0) throw new Error("not one frame");
  return frame;
}

test("golden bytes", () => {
  expect(frameOf((out) => out.request(7, REQUEST)).toString("hex")).toBe(
    `81010000000000010001027431000000000007${ID}0000000000000003000000800000000000000009`,
  );
  expect(frameOf((out) => out.grant(2 ** 32 + 7, GRANT), "coupling").toString("hex")).toBe(
    `8201000000000001000108636f75706c696e67000100000007000000000000000500000000000000090000000000000009000201`,
  );
});

test("what is written is read", () => {
  const reader = new BatchReader(new EnvelopeReader("t1"));
  const out = outgoing();
  fc.assert(
    fc.property(requests, (records) => {
      for (const record of records) out.request(record.id, record.body);
      const [frame = Buffer.alloc(0)] = new FrameDecoder().push(out.take());
      expect(reader.read(frame)).toEqual({ kind: "requests", requests: records });
    }),
  );
  fc.assert(
    fc.property(grants, (records) => {
      for (const record of records) out.grant(record.id, record.body);
      const [frame = Buffer.alloc(0)] = new FrameDecoder().push(out.take());
      expect(reader.read(frame)).toEqual({ kind: "grants", grants: records });
    }),
  );
});

/** A body as JSON carries it. */
const asText = (body: object): unknown =>
  Object.fromEntries(
    Object.entries(body).map(([key, value]) => [key, typeof value === "bigint" ? String(value) : value]),
  );

const REFUSALS = ["frameMalformed", "frameVersion", "messageInvalid", "senderMismatch", "sequenceGap"];

test("a frame with changed bytes is refused, or every body in it still keeps the schema", () => {
  const change = fc.record({ at: fc.nat(400), to: fc.nat(255) });
  const length = fc.integer({ min: -3, max: 3 });
  const mixed = fc.oneof(
    requests.map((records) => frameOf((out) => records.forEach((record) => out.request(record.id, record.body)))),
    grants.map((records) => frameOf((out) => records.forEach((record) => out.grant(record.id, record.body)))),
  );
  fc.assert(
    fc.property(mixed, fc.array(change, { maxLength: 4 }), length, (frame, changes, longer) => {
      const bytes = Buffer.alloc(Math.max(0, frame.length + longer));
      frame.copy(bytes);
      for (const { at, to } of changes) if (bytes.length > 0) bytes[at % bytes.length] = to;
      const found = read(bytes);
      if (typeof found === "string") {
        expect(REFUSALS).toContain(found);
        return;
      }
      expect(longer === 0 || changes.length > 0).toBe(true);
      const { request, response } = REQUESTS.reserve;
      const schema = found.kind === "requests" ? request : response;
      for (const { id: requestId, body } of found.kind === "requests" ? found.requests : found.grants) {
        expect(requestId).toBeGreaterThan(0);
        expect(schema.parse(asText(body))).toEqual(body);
      }
    }),
    { numRuns: 3000 },
  );
});

test("random bytes are refused or read, never thrown at", () => {
  const start = fc.constantFrom([], [0x81, 1], [0x82, 1], [0x81, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0]);
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 200 }), (head, rest) => {
      expect(read(Buffer.from([...head, ...rest]))).toBeDefined();
    }),
    { numRuns: 3000 },
  );
});

const VALID = frameOf((out) => out.request(1, REQUEST));
const VALID_GRANT = frameOf((out) => out.grant(1, GRANT));
const changed = (frame: Buffer, at: number, ...to: readonly number[]): Buffer => {
  const bytes = Buffer.from(frame);
  bytes.set(to, at < 0 ? bytes.length + at : at);
  return bytes;
};

test.each([
  ["an unknown kind", changed(VALID, 0, 0x83), "frameVersion"],
  ["another version", changed(VALID, 1, 2), "frameVersion"],
  ["a short head", VALID.subarray(0, 10), "frameMalformed"],
  ["no record", changed(VALID.subarray(0, 13), 8, 0, 0), "frameMalformed"],
  ["a count that is too large", changed(VALID, 8, 0, 2), "frameMalformed"],
  ["a byte too many", Buffer.concat([VALID, Buffer.alloc(1)]), "frameMalformed"],
  ["a byte too few", VALID.subarray(0, -1), "frameMalformed"],
  ["a name that takes the records", changed(VALID, 10, 44), "frameMalformed"],
  ["id 0", changed(VALID, 13, 0, 0, 0, 0, 0, 0), "frameMalformed"],
  ["id 0 of a grant", changed(VALID_GRANT, 13, 0, 0, 0, 0, 0, 0), "frameMalformed"],
  ["no numbers wanted", changed(VALID, 43, 0, 0, 0, 0), "messageInvalid"],
  ["no holder", changed(VALID_GRANT, -3, 0, 0), "messageInvalid"],
  ["too many holders", changed(VALID_GRANT, -3, 1, 1), "messageInvalid"],
  ["another sender", changed(VALID, 11, 0x78), "senderMismatch"],
  ["a gap", changed(VALID, 7, 2), "sequenceGap"],
  ["an unknown flag", changed(VALID_GRANT, -1, 2), "messageInvalid"],
])("%s is refused", (_name, frame, reason) => {
  expect(read(frame)).toBe(reason);
});

test("more records than a batch holds are refused, although the length is right", () => {
  const records = Buffer.concat(Array.from({ length: MAX_RECORDS + 1 }, () => VALID.subarray(13)));
  const frame = Buffer.concat([
    changed(VALID.subarray(0, 13), 8, (MAX_RECORDS + 1) >> 8, (MAX_RECORDS + 1) & 255),
    records,
  ]);
  expect(read(frame)).toBe("frameMalformed");
});

test("bodies that break the schema are not sent, and leave no trace", () => {
  const out = outgoing();
  const wrongRequests: Partial<ReserveBody>[] = [
    ...[{ sa: ID.toUpperCase() }, { sa: `${ID}0` }, { sa: "" }, { sa: "x".repeat(32) }],
    ...[{ count: 0 }, { count: 2 ** 32 }, { count: 0.5 }, { count: NaN }],
    ...[{ epoch: -1n }, { nextUnsent: 1n << 64n }],
  ];
  for (const wrong of wrongRequests) {
    const body = { ...REQUEST, ...wrong };
    expect(REQUESTS.reserve.request.safeParse(asText(body)).success).toBe(false);
    expect(() => out.request(1, body)).toThrow(expect.objectContaining({ code: "bus.protocol" }));
  }
  const wrongGrants: Partial<GrantBody>[] = [
    ...[{ holders: 0 }, { holders: 257 }, { holders: 1.5 }, { holders: NaN }],
    ...[{ first: -1n }, { end: 1n << 64n }, { highWater: -1n }],
  ];
  for (const wrong of wrongGrants) {
    const body = { ...GRANT, ...wrong };
    expect(REQUESTS.reserve.response.safeParse(asText(body)).success).toBe(false);
    expect(() => out.grant(1, body)).toThrow(expect.objectContaining({ code: "bus.protocol" }));
  }
  out.request(1, REQUEST);
  expect(new FrameDecoder().push(out.take())).toEqual([VALID]);
});

test("neighbours share a frame; another message, another kind or a full batch begins a new one, numbered in order", () => {
  const envelopes = new EnvelopeWriter("t1");
  const out = new Outgoing("t1", envelopes, 1024 * 1024);
  for (let i = 0; i <= MAX_RECORDS; i++) out.request(i + 1, REQUEST);
  out.text(envelopes.heartbeat());
  out.request(1000, REQUEST);
  out.grant(1, GRANT);
  out.grant(2, GRANT);
  const frames = new FrameDecoder().push(out.take());
  out.grant(3, GRANT);
  frames.push(...new FrameDecoder().push(out.take()));
  const reader = new EnvelopeReader("t1");
  const batches = new BatchReader(reader);
  const shape = frames.map((frame) => {
    const found = isBatch(frame) ? batches.read(frame) : reader.read(frame.toString());
    if (typeof found === "string") return found;
    if (found.kind === "requests") return `${found.requests.length} requests`;
    return found.kind === "grants" ? `${found.grants.length} grants` : found.kind;
  });
  expect(shape).toEqual([`${MAX_RECORDS} requests`, "1 requests", "heartbeat", "1 requests", "2 grants", "1 grants"]);
});

test("ids that push each other out of the cache stay apart, in both directions", () => {
  const cache = new SaIdCache();
  const view = viewOf(new Uint8Array(16));
  fc.assert(
    fc.property(fc.array(sa, { minLength: 1 }), (texts) => {
      for (const text of texts) {
        const found = cache.find(text);
        expect(found?.text).toBe(text);
        const { a = 0, b = 0, c = 0, d = 0 } = found ?? {};
        [a, b, c, d].forEach((word, index) => view.setUint32(4 * index, word));
        expect(cache.read(view, 0)).toBe(text);
        expect(new SaIdCache().read(view, 0)).toBe(text);
      }
    }),
  );
});
