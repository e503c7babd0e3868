/**
 * C6 (RFC 6027 §3.4): numbers skipped at a failure are at most the leases outstanding and one persisted window.
 *
 * - A coupling service that dies or fails to write goes on at its ceiling, at most 3/2 of a step above its last grant
 *   (`allocator-options.ts`), and forgets what every node held.
 * - A node that dies loses one live range; d1's death ends the SA, so every node's. A number line that dead d1 has left is
 *   skipped to its ceiling at the service's next start.
 * - A cut link loses at most the live range of each node behind it, or one grant whose answer never came.
 * - At the end each node may still hold one.
 */
import { DEFAULT_ALLOCATOR_LIMITS } from "../../src/sequence/allocator-options.ts";
import { longestRangeNumbers, SOLE_LEASE } from "../../src/sequence/size.ts";
import type { Fault } from "./faults.ts";
import type { LedgerEvidence } from "./ledger-evidence.ts";

/** Reasons of the ledger that a failure has; the others are the price of sharing and are counted by it alone. */
const FAILURE_REASONS = ["nodeRestart", "lostGrant", "unreported", "serviceStop", "serviceCrash"];

/** Numbers that were skipped because something failed, or whose holder was never heard of again. */
export function burntByFailures({ burnt, outstanding }: Pick<LedgerEvidence, "burnt" | "outstanding">): number {
  return FAILURE_REASONS.reduce((sum, reason) => sum + (burnt[reason] ?? 0), outstanding);
}

/** The bound of C6 for these faults, in numbers, with `nodes` senders and the peer's window. */
export function burntBound(
  faults: readonly Pick<Fault, "kind" | "node">[],
  nodes: number,
  windowPackets: number,
): number {
  const persisted = (Number(DEFAULT_ALLOCATOR_LIMITS.ceilingStepNumbers) * 3) / 2;
  // At any moment one node may have been alone on the SA; the others then hold what several hold.
  const one = longestRangeNumbers(windowPackets, 1, SOLE_LEASE);
  const all = one + (nodes - 1) * longestRangeNumbers(windowPackets, 2, SOLE_LEASE);
  const ofFault = ({ kind, node }: Pick<Fault, "kind" | "node">): number => {
    switch (kind) {
      case "killCoupling":
      case "failedWrite":
      case "killDistributor":
        return persisted + all;
      case "killTarget":
        return one;
      case "cutLink":
        return node === "cf" || node === "d1" ? all : one;
    }
  };
  return faults.reduce((sum, fault) => sum + ofFault(fault), all);
}
