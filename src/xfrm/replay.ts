import { EsplexError } from "../core/errors.ts";
import { concatBytes } from "../core/bytes.ts";
import { u32 } from "../core/struct.ts";
import type { Attributes } from "../net/netlink-message.ts";
import type { ReceivedNumbers } from "../sa/received-numbers.ts";
import { LEGACY_WINDOW_MAX_PACKETS, XFRMA_REPLAY_ESN_VAL, XFRMA_REPLAY_VAL } from "./constants.ts";
import { xfrmReplayState, xfrmReplayStateEsn } from "./structs.ts";

const LOW_MASK = 0xffffffffn;
const WORD_BITS = 32;

/**
 * Sequence numbers and replay window of a state. The kernel keeps them in one of two structs; an update in the other
 * one is *silently ignored* (measured), so a write repeats the kind that was read.
 */
export interface ReplayState {
  /** `struct xfrm_replay_state`; else `struct xfrm_replay_state_esn`, with or without extended numbers. */
  readonly isLegacy: boolean;
  /** Last number sent; 0 before the first. */
  readonly oseq: bigint;
  /** Highest number received. */
  readonly seq: bigint;
  readonly windowPackets: number;
  /** The window's words as they came, for writing back. */
  readonly bitmap: Uint8Array;
}

/** The replay state of a new SA: numbers up to `oseq` used, and received what `received` says, or nothing. */
export function freshReplay(
  esn: boolean,
  windowPackets: number,
  oseq: bigint,
  received: ReceivedNumbers | null = null,
): ReplayState {
  const isLegacy = !esn && windowPackets <= LEGACY_WINDOW_MAX_PACKETS;
  const bitmap = new Uint8Array(isLegacy ? 4 : 4 * Math.ceil(windowPackets / WORD_BITS));
  const state = { isLegacy, oseq, seq: received?.highest ?? 0n, windowPackets, bitmap };
  if (received !== null) writeReceived(state, received.bits);
  return state;
}

/** The attribute that carries `state`: type and payload. */
export function encodeReplay({ isLegacy, oseq, seq, windowPackets, bitmap }: ReplayState): [number, Uint8Array] {
  const low = { oseq: Number(oseq & LOW_MASK), seq: Number(seq & LOW_MASK) };
  if (isLegacy) return [XFRMA_REPLAY_VAL, xfrmReplayState.encode({ ...low, bitmap })];
  const high = { oseqHi: Number(oseq >> 32n), seqHi: Number(seq >> 32n) };
  const head = { bmpWords: bitmap.length / 4, replayWindow: windowPackets, ...low, ...high };
  return [XFRMA_REPLAY_ESN_VAL, concatBytes(xfrmReplayStateEsn.encode(head), bitmap)];
}

/** Reads it from a dumped state, an aevent or a GETAE answer; only the first carries a `legacyWindow`. */
export function decodeReplay(attributes: Attributes, legacyWindow: number): ReplayState {
  const extended = attributes.bytes(XFRMA_REPLAY_ESN_VAL);
  if (extended !== null) return decodeEsn(extended);
  const legacy = attributes.bytes(XFRMA_REPLAY_VAL);
  if (legacy === null) throw new EsplexError("wire.malformed", "a state without sequence numbers");
  const { oseq, seq, bitmap } = xfrmReplayState.decode(legacy);
  return { isLegacy: true, oseq: BigInt(oseq), seq: BigInt(seq), windowPackets: legacyWindow, bitmap };
}

function decodeEsn(bytes: Uint8Array): ReplayState {
  const { bmpWords, oseq, seq, oseqHi, seqHi, replayWindow } = xfrmReplayStateEsn.decode(bytes);
  const start = xfrmReplayStateEsn.size;
  if (start + 4 * bmpWords > bytes.length) throw new EsplexError("wire.short", "replay bitmap cut short");
  return {
    isLegacy: false,
    oseq: (BigInt(oseqHi) << 32n) | BigInt(oseq),
    seq: (BigInt(seqHi) << 32n) | BigInt(seq),
    windowPackets: replayWindow,
    bitmap: new Uint8Array(bytes.subarray(start, start + 4 * bmpWords)),
  };
}

/** What was received, in the order of the numbers. */
export function receivedNumbers(state: ReplayState): ReceivedNumbers {
  const { seq, windowPackets, bitmap } = state;
  const view = new DataView(bitmap.buffer, bitmap.byteOffset, bitmap.length);
  const bits = new Uint8Array(Math.ceil(windowPackets / 8));
  for (let offset = 0; offset < windowPackets; offset++) {
    const at = placeOf(state, offset);
    const isSet = ((u32.read(view, 4 * (at >> 5)) >>> (at & 31)) & 1) === 1;
    if (isSet) bits[offset >> 3] = (bits[offset >> 3] ?? 0) | (1 << (offset & 7));
  }
  return { highest: seq, bits };
}

function writeReceived(state: ReplayState, bits: Uint8Array): void {
  const { windowPackets, bitmap } = state;
  const view = new DataView(bitmap.buffer, bitmap.byteOffset, bitmap.length);
  for (let offset = 0; offset < Math.min(windowPackets, bits.length * 8); offset++) {
    if (((bits[offset >> 3] ?? 0) & (1 << (offset & 7))) === 0) continue;
    const at = placeOf(state, offset);
    u32.write(view, 4 * (at >> 5), (u32.read(view, 4 * (at >> 5)) | (1 << (at & 31))) >>> 0);
  }
}

/**
 * The bit of the number `seq - offset`. The legacy bitmap has them in the order of the numbers; the other one is a ring, in which
 * the highest number stands at `(seq - 1) mod window` (net/xfrm/xfrm_replay.c, `xfrm_replay_check_bmp`).
 */
function placeOf({ isLegacy, seq, windowPackets }: ReplayState, offset: number): number {
  if (isLegacy) return offset;
  const top = Number((seq - 1n) & LOW_MASK) % windowPackets;
  return (top - offset + windowPackets) % windowPackets;
}
