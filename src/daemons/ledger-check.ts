import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { EsplexError, messageOf } from "../core/errors.ts";
import { type CapturedEsp, espOfFrame } from "../sa/captured-esp.ts";
import { readPcap } from "../sa/pcap.ts";
import { LedgerReader } from "../sequence/ledger-block.ts";
import { type LedgerVerdict, LedgerVerifier } from "../sequence/ledger-verifier.ts";

const READ_BYTES = 1 << 20;
/** Hex digits of a packet's SHA-256 that name it: chance makes two alike in 2^64 packets. */
const NAME_DIGITS = 32;

/** What to check. */
export interface LedgerCheckOptions {
  /** In the order in which they were written. */
  readonly ledgers: readonly string[];
  readonly captures: readonly string[];
  /** The same packet may be in several captures: one whose bytes came before, from the SPI on, is the same packet. */
  readonly samePackets: boolean;
}

/** What was found. */
export interface LedgerCheck extends LedgerVerdict {
  /** Bytes at the ends of the ledgers that belong to no whole block: being written, or cut by a kill. */
  readonly tornBytes: number;
  /** ESP and AH packets that the captures do not hold as far as their number: nothing is known of them. */
  readonly cutPackets: number;
  /** Packets that were left out as the same as an earlier one. */
  readonly samePackets: number;
}

/**
 * Reads ledgers and captures and proves, or refutes, what `ledger-verifier.ts` says. Rejects with `store.corrupt` for a damaged
 * ledger and `config.unreadable` for a file that cannot be read or is no capture.
 */
export async function checkLedger({ ledgers, captures, samePackets }: LedgerCheckOptions): Promise<LedgerCheck> {
  const verifier = new LedgerVerifier();
  let tornBytes = 0;
  for (const path of ledgers) tornBytes += await readLedger(path, verifier);
  const known = samePackets ? new Set<string>() : null;
  const count = { cutPackets: 0, samePackets: 0 };
  for (const path of captures) await readCapture(path, verifier, known, count);
  const verdict = verifier.verdict();
  return { ...verdict, proven: verdict.proven && count.cutPackets === 0, tornBytes, ...count };
}

async function readLedger(path: string, verifier: LedgerVerifier): Promise<number> {
  const reader = new LedgerReader(path, (record, line) => verifier.take(record, `${path}, line ${line}`));
  await readable(path, async () => {
    const chunks = createReadStream(path, { highWaterMark: READ_BYTES }) as AsyncIterable<Buffer>;
    for await (const chunk of chunks) reader.push(chunk);
  });
  return reader.tornBytes;
}

async function readCapture(
  path: string,
  verifier: LedgerVerifier,
  known: Set<string> | null,
  count: { cutPackets: number; samePackets: number },
): Promise<void> {
  await readable(path, async () => {
    for await (const { bytes, timestampMicros } of readPcap(path)) {
      const esp = espOfFrame(bytes);
      if (esp === "cut") count.cutPackets++;
      if (esp === null || esp === "cut") continue;
      if (known !== null && isKnown(known, esp)) count.samePackets++;
      else verifier.takePacket({ ...esp, atMs: Number(timestampMicros / 1000n) });
    }
  });
}

function isKnown(known: Set<string>, { protocol, destination, bytes }: CapturedEsp): boolean {
  const name = createHash("sha256")
    .update(protocol)
    .update(destination)
    .update(bytes)
    .digest("hex")
    .slice(0, NAME_DIGITS);
  if (known.has(name)) return true;
  known.add(name);
  return false;
}

async function readable(path: string, read: () => Promise<void>): Promise<void> {
  try {
    await read();
  } catch (error) {
    if (error instanceof EsplexError) throw error;
    throw new EsplexError("config.unreadable", `cannot read ${path}: ${messageOf(error)}`, {}, error);
  }
}
