import { crc32 } from "node:zlib";
import { EsplexError } from "../core/errors.ts";
import type { StoredEpoch, StoredSequence } from "./ceiling-store.ts";

/** One change of the store. Several of them make one record: they become durable together. */
export type Change =
  | { readonly kind: "put"; readonly sequence: StoredSequence }
  | { readonly kind: "raise"; readonly sa: string; readonly from: bigint; readonly to: bigint }
  | { readonly kind: "retire"; readonly sa: string }
  | { readonly kind: "own"; readonly owner: StoredEpoch };

/** Two hex numbers of eight digits, each followed by a blank: length of the body in bytes, CRC-32 of the body. */
const HEAD_BYTES = 18;
const HEAD = /^([0-9a-f]{8}) ([0-9a-f]{8}) $/;
const NEWLINE = 0x0a;

/** `LENGTH CRC JSON\n`: a record that a person can read and a crash can cut. */
export function encodeRecord(changes: readonly Change[]): Buffer {
  const json = JSON.stringify(changes, (_key, value: unknown) =>
    typeof value === "bigint" ? `n:${value.toString()}` : value,
  );
  const body = Buffer.from(json);
  const head = `${hex8(body.length)} ${hex8(crc32(body))} `;
  return Buffer.concat([Buffer.from(head), body, Buffer.from("\n")]);
}

/** The changes of a journal in order, and how many bytes of it are whole. */
export interface ReadJournal {
  readonly changes: readonly Change[];
  readonly wholeBytes: number;
}

/**
 * Reads a journal. A last record that a crash has cut (it is short, or its end was never written and reads as zeros) was
 * never acknowledged: it is left out. Any other damage throws `store.corrupt`, for what was lost may have been granted under.
 */
export function readJournal(bytes: Buffer, path: string): ReadJournal {
  const changes: Change[] = [];
  let offset = 0;
  while (offset < bytes.length) {
    const record = recordAt(bytes, offset);
    if (record === null) {
      if (isCut(bytes, offset)) break;
      throw new EsplexError(
        "store.corrupt",
        `${path}: damaged at byte ${offset}; restore nothing older: rekey all SAs and start with an empty directory`,
      );
    }
    changes.push(...record.changes);
    offset = record.end;
  }
  return { changes, wholeBytes: offset };
}

function recordAt(bytes: Buffer, offset: number): { changes: Change[]; end: number } | null {
  const [, length, crc] = HEAD.exec(bytes.toString("latin1", offset, offset + HEAD_BYTES)) ?? [];
  if (length === undefined || crc === undefined) return null;
  const end = offset + HEAD_BYTES + Number.parseInt(length, 16);
  if (bytes[end] !== NEWLINE) return null;
  const body = bytes.subarray(offset + HEAD_BYTES, end);
  if (crc32(body) !== Number.parseInt(crc, 16)) return null;
  const changes = JSON.parse(body.toString(), (_key, value: unknown) =>
    typeof value === "string" && /^n:\d+$/.test(value) ? BigInt(value.slice(2)) : value,
  ) as Change[];
  return { changes, end: end + 1 };
}

/**
 * A newline ends each record and stands nowhere else, so a cut record has none, or zeros where pages were not written. One that is
 * as long as it says, without zeros, was written whole and damaged later.
 */
function isCut(bytes: Buffer, offset: number): boolean {
  const newline = bytes.indexOf(NEWLINE, offset);
  const hasZeros = bytes.includes(0, offset);
  if (newline >= 0) return newline === bytes.length - 1 && hasZeros;
  const length = HEAD.exec(bytes.toString("latin1", offset, offset + HEAD_BYTES))?.[1];
  const isWhole = length !== undefined && offset + HEAD_BYTES + Number.parseInt(length, 16) < bytes.length;
  return hasZeros || !isWhole;
}

function hex8(value: number): string {
  return value.toString(16).padStart(8, "0");
}
