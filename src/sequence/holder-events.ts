/** What happens to a holder (`holder.ts`), and what it wants done. */
import type { ErrorCode } from "../core/errors.ts";

export type HolderEvent =
  /** Somebody must be able to send now. Answered by `ready` or `unready`. */
  | { readonly kind: "want"; readonly nowMs: number }
  /** The kernel has sent `oseq` (threshold or timer event). One from before the last install is ignored. */
  | { readonly kind: "threshold"; readonly oseq: bigint; readonly nowMs: number }
  /** After `install`, `reinstall` or `extend` with this token: what a GETAE after it showed. `lastSendable` is oseq plus what is left of the packet limit. */
  | {
      readonly kind: "applied";
      readonly token: number;
      readonly oseq: bigint;
      readonly lastSendable: bigint;
      readonly nowMs: number;
    }
  | {
      readonly kind: "granted";
      readonly first: bigint;
      readonly end: bigint;
      readonly holders: number;
      readonly nowMs: number;
    }
  /** The request failed, or its answer never came. */
  | { readonly kind: "refused"; readonly code: ErrorCode; readonly nowMs: number }
  | { readonly kind: "recall"; readonly holders: number; readonly nowMs: number }
  /** The kernel state is gone: it died at its limit, or ESRCH says so. */
  | { readonly kind: "expired"; readonly nowMs: number }
  /** The tripwire has deleted the kernel's state: it may have used numbers up to `lastUsable`, its own or not. */
  | { readonly kind: "tripped"; readonly lastUsable: bigint; readonly nowMs: number }
  /** A few times a second; `oseq` when it was read anyway. */
  | { readonly kind: "tick"; readonly oseq: bigint | null; readonly nowMs: number }
  /** First event of a holder whose process found a kernel state alive: GETAE showed this. */
  | { readonly kind: "adopted"; readonly oseq: bigint; readonly lastSendable: bigint; readonly nowMs: number }
  /** The distributor takes this node as inactive. */
  | { readonly kind: "parkAllowed"; readonly nowMs: number }
  | { readonly kind: "parkDenied"; readonly nowMs: number };

/** Why numbers were given up. The range may start with numbers that were sent after the last report of the kernel. */
export type BurnReason = "replaced" | "parked" | "expired" | "unasked" | "tripped";

export type HolderEffect =
  /** Ask the coupling service; the answer is `granted` or `refused`. `nextUnsent` 0: the kernel can send nothing. */
  | { readonly kind: "reserve"; readonly count: number; readonly nextUnsent: bigint }
  /** NEWAE: oseq = first - 1 and credit end - first, at once. Burns what was left. */
  | { readonly kind: "install"; readonly first: bigint; readonly end: bigint; readonly token: number }
  /** NEWAE with the lifetime only: the kernel may send `creditNumbers` more from where it is. */
  | { readonly kind: "extend"; readonly newEnd: bigint; readonly creditNumbers: bigint; readonly token: number }
  /** NEWSA: the state is born again with its lease. A new kernel instance of the key: count it. */
  | { readonly kind: "reinstall"; readonly first: bigint; readonly end: bigint; readonly token: number }
  /** NEWAE: credit 0. */
  | { readonly kind: "park" }
  /** Tell the coupling service that the kernel can send nothing. Not 0: it may have used the numbers below without a lease. */
  | { readonly kind: "release"; readonly nextUnsent: bigint }
  /** Tell the coupling service from where on the kernel sends. */
  | { readonly kind: "report"; readonly nextUnsent: bigint }
  /** Ask the distributor; the answer is `parkAllowed` or `parkDenied` (also when it cannot be reached). */
  | { readonly kind: "askPark" }
  /** The kernel can send now: answers every `want` so far. */
  | { readonly kind: "ready" }
  /** It cannot, and will not on this SA: answers every `want` so far. */
  | { readonly kind: "unready"; readonly code: ErrorCode }
  | { readonly kind: "burnt"; readonly first: bigint; readonly end: bigint; readonly why: BurnReason };
