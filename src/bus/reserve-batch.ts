/**
 * The layout of a batch: many `reserve` requests, or their grants, in one frame, beside the JSON frames of all else. What the
 * schema of `reserve` (`messages.ts`) says of a body holds here too, and tests hold one to the other. Network byte order:
 *
 *   0   kind: 0x81 requests, 0x82 grants. No JSON text begins like that.
 *   1   version of this layout: 1
 *   2   u48 number of the frame (`n` in `envelope.ts`)
 *   8   u16 count of records, 1 to MAX_RECORDS
 *   10  u8 length of the sender's name, then the name; then the records:
 *
 *   request: u48 id, 16 bytes SA, u64 epoch, u32 count, u64 nextUnsent
 *   grant:   u48 id, u64 first, u64 end, u64 highWater, u16 holders, u8 flags (1: rekeySoon; the rest 0)
 *
 * An id is that of the request, from 1. Errors travel as JSON, one by one.
 */
import type { EnvelopeReader, Refusal } from "./envelope.ts";
import { MAX_MEMBERS, type RequestBody, type ResponseBody } from "./messages.ts";
import { SA_ID_BYTES, type SaId, SaIdCache, writeSaId } from "./sa-id-cache.ts";

export type BatchKind = "requests" | "grants";
export type ReserveBody = RequestBody<"reserve">;
export type GrantBody = ResponseBody<"reserve">;

/** Records in one batch; about 10 KiB, so that it fits into one TLS record. Our choice. */
export const MAX_RECORDS = 256;

const KIND_CODE = { requests: 0x81, grants: 0x82 } as const;
const VERSION = 1;
const VERSION_AT = 1;
const NUMBER_AT = 2;
const COUNT_AT = 8;
const NAME_LENGTH_AT = 10;
const NAME_AT = 11;

const ID_BYTES = 6;
const U64_BYTES = 8;
const EPOCH_AT = ID_BYTES + SA_ID_BYTES;
const COUNT_NUMBERS_AT = EPOCH_AT + U64_BYTES;
const NEXT_UNSENT_AT = COUNT_NUMBERS_AT + 4;
export const REQUEST_BYTES = NEXT_UNSENT_AT + U64_BYTES;

const END_AT = ID_BYTES + U64_BYTES;
const HIGH_WATER_AT = END_AT + U64_BYTES;
const HOLDERS_AT = HIGH_WATER_AT + U64_BYTES;
const FLAGS_AT = HOLDERS_AT + 2;
export const GRANT_BYTES = FLAGS_AT + 1;

const RECORD_BYTES = { requests: REQUEST_BYTES, grants: GRANT_BYTES } as const;

const U32_MAX = 0xffff_ffff;
const U64_MAX = 0xffff_ffff_ffff_ffffn;
const REKEY_SOON = 1;

/** True for a frame that is a batch of whatever kind and version, and not JSON text. */
export function isBatch(frame: Uint8Array): boolean {
  return (frame[0] ?? 0) >= 0x80;
}

/** Bytes before the first record. `name` is the sender's, ASCII. */
export function headBytes(name: string): number {
  return NAME_AT + name.length;
}

/** Writes the head at `offset`; `setCount` comes later. */
export function writeHead(view: DataView, offset: number, kind: BatchKind, number: number, name: string): void {
  view.setUint8(offset, KIND_CODE[kind]);
  view.setUint8(offset + VERSION_AT, VERSION);
  writeU48(view, offset + NUMBER_AT, number);
  view.setUint8(offset + NAME_LENGTH_AT, name.length);
  for (let i = 0; i < name.length; i++) view.setUint8(offset + NAME_AT + i, name.charCodeAt(i));
}

export function setCount(view: DataView, headOffset: number, records: number): void {
  view.setUint16(headOffset + COUNT_AT, records);
}

/** What the schema says of a request, but for its SA (`SaIdCache.find`). */
export function isRequest({ epoch, count, nextUnsent }: ReserveBody): boolean {
  return isU64(epoch) && isU64(nextUnsent) && Number.isInteger(count) && count >= 1 && count <= U32_MAX;
}

/** What the schema says of a grant. */
export function isGrant({ first, end, highWater, holders }: GrantBody): boolean {
  return isU64(first) && isU64(end) && isU64(highWater) && Number.isInteger(holders) && areHolders(holders);
}

/** Writes `REQUEST_BYTES` at `offset`; the caller has checked the body. */
export function writeRequest(view: DataView, offset: number, id: number, sa: SaId, body: ReserveBody): void {
  writeU48(view, offset, id);
  writeSaId(view, offset + ID_BYTES, sa);
  view.setBigUint64(offset + EPOCH_AT, body.epoch);
  view.setUint32(offset + COUNT_NUMBERS_AT, body.count);
  view.setBigUint64(offset + NEXT_UNSENT_AT, body.nextUnsent);
}

/** Writes `GRANT_BYTES` at `offset`; the caller has checked the body. */
export function writeGrant(view: DataView, offset: number, id: number, body: GrantBody): void {
  writeU48(view, offset, id);
  view.setBigUint64(offset + ID_BYTES, body.first);
  view.setBigUint64(offset + END_AT, body.end);
  view.setBigUint64(offset + HIGH_WATER_AT, body.highWater);
  view.setUint16(offset + HOLDERS_AT, body.holders);
  view.setUint8(offset + FLAGS_AT, body.rekeySoon ? REKEY_SOON : 0);
}

/** A body with the id of its request. */
export interface Identified<B> {
  readonly id: number;
  readonly body: B;
}

/** What a batch holds. */
export type Batch =
  | { readonly kind: "requests"; readonly requests: readonly Identified<ReserveBody>[] }
  | { readonly kind: "grants"; readonly grants: readonly Identified<GrantBody>[] };

/** Reads the batches of one connection. */
export class BatchReader {
  readonly #envelopes: EnvelopeReader;
  readonly #saIds = new SaIdCache();

  /** `envelopes` counts the frames of the connection, of either form. */
  constructor(envelopes: EnvelopeReader) {
    this.#envelopes = envelopes;
  }

  /** The batch, or why the connection has to be closed. */
  read(frame: Uint8Array): Batch | Refusal {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
    const head = readHead(view);
    if (typeof head === "string") return head;
    const refusal = this.#envelopes.check(head.from, head.number);
    if (refusal !== null) return refusal;
    if (head.kind === "requests") {
      const requests = readRequests(view, head, this.#saIds);
      return typeof requests === "string" ? requests : { kind: "requests", requests };
    }
    const grants = readGrants(view, head);
    return typeof grants === "string" ? grants : { kind: "grants", grants };
  }
}

/** The head of a batch; its length fits its records. */
interface BatchHead {
  readonly kind: BatchKind;
  readonly from: string;
  readonly number: number;
  readonly count: number;
  readonly recordsAt: number;
}

/** Reads the head and checks the whole length. */
function readHead(view: DataView): BatchHead | Refusal {
  if (view.byteLength < NAME_AT) return "frameMalformed";
  const code = view.getUint8(0);
  const kind = code === KIND_CODE.requests ? "requests" : code === KIND_CODE.grants ? "grants" : null;
  if (kind === null || view.getUint8(VERSION_AT) !== VERSION) return "frameVersion";
  const count = view.getUint16(COUNT_AT);
  const recordsAt = NAME_AT + view.getUint8(NAME_LENGTH_AT);
  const isWhole = view.byteLength === recordsAt + count * RECORD_BYTES[kind];
  if (!isWhole || count < 1 || count > MAX_RECORDS) return "frameMalformed";
  let from = "";
  for (let at = NAME_AT; at < recordsAt; at++) from += String.fromCharCode(view.getUint8(at));
  return { kind, from, number: readU48(view, NUMBER_AT), count, recordsAt };
}

/** All or none. */
function readRequests(view: DataView, head: BatchHead, ids: SaIdCache): Identified<ReserveBody>[] | Refusal {
  const found: Identified<ReserveBody>[] = [];
  for (let at = head.recordsAt; at < view.byteLength; at += REQUEST_BYTES) {
    const id = readU48(view, at);
    const count = view.getUint32(at + COUNT_NUMBERS_AT);
    if (id === 0) return "frameMalformed";
    if (count === 0) return "messageInvalid";
    const sa = ids.read(view, at + ID_BYTES);
    const epoch = view.getBigUint64(at + EPOCH_AT);
    found.push({ id, body: { sa, epoch, count, nextUnsent: view.getBigUint64(at + NEXT_UNSENT_AT) } });
  }
  return found;
}

/** All or none. */
function readGrants(view: DataView, head: BatchHead): Identified<GrantBody>[] | Refusal {
  const found: Identified<GrantBody>[] = [];
  for (let at = head.recordsAt; at < view.byteLength; at += GRANT_BYTES) {
    const id = readU48(view, at);
    const holders = view.getUint16(at + HOLDERS_AT);
    const flags = view.getUint8(at + FLAGS_AT);
    if (id === 0) return "frameMalformed";
    if (!areHolders(holders) || flags > REKEY_SOON) return "messageInvalid";
    const first = view.getBigUint64(at + ID_BYTES);
    const end = view.getBigUint64(at + END_AT);
    const highWater = view.getBigUint64(at + HIGH_WATER_AT);
    found.push({ id, body: { first, end, highWater, holders, rekeySoon: flags === REKEY_SOON } });
  }
  return found;
}

function isU64(value: bigint): boolean {
  return value >= 0n && value <= U64_MAX;
}

function areHolders(value: number): boolean {
  return value >= 1 && value <= MAX_MEMBERS;
}

function writeU48(view: DataView, offset: number, value: number): void {
  view.setUint16(offset, value / 2 ** 32);
  view.setUint32(offset + 2, value);
}

function readU48(view: DataView, offset: number): number {
  return view.getUint16(offset) * 2 ** 32 + view.getUint32(offset + 2);
}
