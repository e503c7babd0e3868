import type { Member } from "../../bus/messages.ts";
import type { WindowRule } from "../../sequence/size.ts";

/** What `esplex status` shows of the coupling service; on the control socket a `bigint` is decimal text. */
export interface CouplingStatus {
  readonly daemon: "coupling";
  readonly cluster: string;
  /** False when numbers are no longer granted. */
  readonly ready: boolean;
  readonly failure: string | null;
  /** "written", "off", or why records are lost: that does not stop the granting. */
  readonly ledger: string;
  readonly members: readonly Member[];
  readonly dvipas: readonly { readonly address: string; readonly owner: string; readonly epoch: bigint }[];
  readonly sas: readonly SaNumbers[];
  readonly counters: Readonly<Record<string, number>>;
}

/** Nonce budget of an SA's key (`src/sequence/nonce-budget.ts`). */
interface NonceStatus {
  /** Kernel states of the key that may send or could, on all nodes, since it was negotiated. */
  readonly kernelInstances: number;
  /** Numbers end here at the latest; null for a cipher without a budget. */
  readonly budgetEnd: bigint | null;
  /** `next / budgetEnd`: from 3/4 on, or of the number space, a rekey is asked for. */
  readonly usedShare: number | null;
}

interface SaNumbers {
  readonly sa: string;
  readonly dvipa: string;
  readonly epoch: bigint;
  readonly firstNumber: bigint;
  readonly windowPackets: number;
  readonly esn: boolean;
  /** The next number to be granted; all below are spent. */
  readonly next: bigint;
  /** Durable: a restart goes on here. */
  readonly ceiling: bigint;
  readonly nonce: NonceStatus;
  /** For the nodes that hold a live lease now. */
  readonly windowRule: WindowRule;
  readonly rekeySoon: boolean;
  /** What each node may still send, as far as its messages tell: `[first, end)`; `end` null for one from before a restart. */
  readonly holders: readonly { readonly node: string; readonly first: bigint; readonly end: bigint | null }[];
}
