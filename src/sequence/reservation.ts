import { EsplexError } from "../core/errors.ts";
import type { Grant, NumberLine } from "./number-line.ts";

/** What a node asks. `nextUnsent` is the lowest number that its kernel may still send, 0 when it holds none. */
export interface ReserveRequest {
  readonly sa: string;
  readonly node: string;
  readonly epoch: bigint;
  readonly count: number;
  readonly nextUnsent: bigint;
}

/** Where a node's kernel is: `nextUnsent` is the lowest number that it may still send. */
export type LeaseReport = Omit<ReserveRequest, "count">;

/** How many kernel states of an SA's outbound key a node's process has made that may send, the next one included. */
export interface InstanceReport {
  readonly sa: string;
  readonly node: string;
  /** New with every start of the node's process. */
  readonly incarnation: string;
  readonly epoch: bigint;
  readonly count: number;
}

export type ReserveOutcome = { readonly grant: Grant } | { readonly refused: EsplexError };

/** The asker's epoch, or that of the SA, is not the DVIPA's current one. */
export function staleEpoch(dvipa: string): EsplexError {
  return new EsplexError("cluster.staleEpoch", `${dvipa} has a newer epoch`, { dvipa });
}

/** Never registered, or retired. */
export function unknownSa(sa: string): EsplexError {
  return new EsplexError("cluster.unknownSa", "no such SA is registered", { sa });
}

/** Worth another try: the window, or the disk, did not let a grant through in time. */
export function windowHeld(why: string): EsplexError {
  return new EsplexError("cluster.windowHeld", `no numbers now: ${why}`);
}

/** Only a new SA helps. */
export function exhausted(line: NumberLine): EsplexError {
  const used = line.budgetEnd === line.end ? "the nonce budget of its key is used up" : "its numbers are used up";
  const why = line.isSpoilt ? "a node claimed numbers that it was never granted" : used;
  return new EsplexError("cluster.exhausted", `the SA must be rekeyed: ${why}`, { sa: line.registration.sa });
}
