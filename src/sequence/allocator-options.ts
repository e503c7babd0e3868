import type { Clock } from "../core/clock.ts";
import type { Counters } from "../core/counters.ts";
import type { EsplexError } from "../core/errors.ts";
import type { CeilingStore } from "./ceiling-store.ts";
import type { Grant, Registration } from "./number-line.ts";
import type { ReserveRequest } from "./reservation.ts";
import { SOLE_LEASE, type SoleLease } from "./size.ts";

/** Tunables; the defaults are our choice. */
export interface AllocatorLimits {
  /** A ceiling rises by this many numbers. A crash burns at most 3/2 of it per SA. */
  readonly ceilingStepNumbers: bigint;
  /** A request that the window holds up is refused after this long. */
  readonly waitMs: number;
  /** A holder without a connection counts this long. */
  readonly graceMs: number;
  /** An unanswered recall is sent again after this long. */
  readonly recallRepeatMs: number;
  /** An SA of an old epoch that nobody carries over is dropped after this long. */
  readonly fencedKeepMs: number;
  readonly maxSas: number;
  /** What a node may hold that is alone on its SA. */
  readonly soleLease: SoleLease;
}

/** What a service runs with unless told otherwise. */
export const DEFAULT_ALLOCATOR_LIMITS: AllocatorLimits = {
  ceilingStepNumbers: 65_536n,
  waitMs: 250,
  graceMs: 3000,
  recallRepeatMs: 100,
  fencedKeepMs: 600_000,
  maxSas: 65_536,
  soleLease: SOLE_LEASE,
};

/** What happens to a number line beside its grants; in order with them, and before anything is granted on it. */
export type LineChange =
  | { readonly kind: "opened"; readonly registration: Registration; readonly ceiling: bigint }
  /** Carried into the epoch of `registration`. */
  | { readonly kind: "carried"; readonly registration: Registration }
  | { readonly kind: "raised"; readonly sa: string; readonly ceiling: bigint }
  | { readonly kind: "retired"; readonly sa: string };

/** What the allocator tells others; all calls happen inside its own methods or timers. */
export interface AllocatorEvents {
  /** `node` lags behind. */
  recall(node: string, sa: string, highWater: bigint, holders: number): void;
  /** Every grant passes here before it is answered: the seam of the ledger. */
  granted(request: ReserveRequest, grant: Grant): void;
  /** The other half of that seam; may be left out by who keeps no ledger. */
  changed?(change: LineChange): void;
  /** Once per SA: its numbers come to their end, or it is spoilt. */
  rekeySoon(sa: string, dvipa: string): void;
  /** Granting has ended for good (A4). */
  stopped(reason: EsplexError): void;
}

/** What an allocator stands on. */
export interface AllocatorOptions {
  readonly store: CeilingStore;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly events: AllocatorEvents;
  readonly limits?: Partial<AllocatorLimits>;
}
