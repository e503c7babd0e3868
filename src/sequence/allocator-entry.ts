import type { NumberLine, Registration } from "./number-line.ts";
import type { ReserveOutcome, ReserveRequest } from "./reservation.ts";

/** A request that cannot be answered yet. */
export interface Waiter {
  readonly request: ReserveRequest;
  readonly deadlineMs: number;
  readonly answer: (outcome: ReserveOutcome) => void;
}

/** An SA at the allocator: its numbers and who waits for some. */
export interface Entry {
  readonly line: NumberLine;
  readonly waiting: Map<string, Waiter>;
  /** The ceiling that the store was last told, durable or not yet. */
  toldCeiling: bigint;
  isRaising: boolean;
  /** The last write of kernel instances. */
  counted: Promise<void>;
  /** Restored from the store: its holders may not be known. */
  readonly isRestored: boolean;
  rekeyTold: boolean;
  /** The write that says that the line is spoilt; null before. */
  spoilt: Promise<void> | null;
  fencedAtMs: number | null;
}

/** An SA that nobody waits for. */
export function entryOf(line: NumberLine, isRestored: boolean, fencedAtMs: number | null): Entry {
  return {
    line,
    waiting: new Map(),
    toldCeiling: line.ceiling,
    isRaising: false,
    counted: Promise.resolve(),
    isRestored,
    rekeyTold: false,
    spoilt: null,
    fencedAtMs,
  };
}

/** True when two registrations speak of the same numbers; the epoch may differ. */
export function sameLine(a: Registration, b: Registration): boolean {
  return (
    a.dvipa === b.dvipa && a.windowPackets === b.windowPackets && a.esn === b.esn && a.counterNonce === b.counterNonce
  );
}
