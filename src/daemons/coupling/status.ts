import type { Member } from "../../bus/messages.ts";

/** What `esplex status` shows of the coupling service; on the control socket a `bigint` is decimal text. */
export interface CouplingStatus {
  readonly daemon: "coupling";
  readonly cluster: string;
  /** False when numbers are no longer granted. */
  readonly ready: boolean;
  readonly failure: string | null;
  readonly members: readonly Member[];
  readonly dvipas: readonly { readonly address: string; readonly owner: string; readonly epoch: bigint }[];
  readonly sas: readonly SaNumbers[];
  readonly counters: Readonly<Record<string, number>>;
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
  readonly rekeySoon: boolean;
  /** What each node may still send, as far as its messages tell: `[first, end)`; `end` null for one from before a restart. */
  readonly holders: readonly { readonly node: string; readonly first: bigint; readonly end: bigint | null }[];
}
