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
  const why = line.isSpoilt ? "a node claimed numbers that it was never granted" : "its numbers are used up";
  return new EsplexError("cluster.exhausted", `the SA must be rekeyed: ${why}`, { sa: line.registration.sa });
}
