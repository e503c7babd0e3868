import type { IpsecProtocol } from "../sa/suite.ts";
import type { StoredInstances } from "./instance-counts.ts";

/** One SA's number line as it survives a crash. */
export interface StoredSequence {
  /** Id of the `SharedSa`. */
  readonly sa: string;
  readonly dvipa: string;
  /** The ownership epoch under which it was registered last. */
  readonly epoch: bigint;
  readonly firstNumber: bigint;
  readonly windowPackets: number;
  readonly esn: boolean;
  readonly counterNonce: boolean;
  /** As in `Registration`. */
  readonly spi?: number | undefined;
  readonly protocol?: IpsecProtocol | undefined;
  readonly peer?: string | undefined;
  /** Kernel states of the key that may send. */
  readonly instances: StoredInstances;
  /** A node claimed numbers that it was never granted (A8): nothing more may be granted. Absent: no. */
  readonly isSpoilt?: boolean | undefined;
  /** No number at or above this one was ever granted. */
  readonly ceiling: bigint;
}

/** Who owns a DVIPA, and the fencing epoch of that ownership. */
export interface StoredEpoch {
  readonly dvipa: string;
  readonly epoch: bigint;
  readonly owner: string;
}

export interface StoredState {
  readonly sequences: readonly StoredSequence[];
  readonly epochs: readonly StoredEpoch[];
  /** Ids of SAs that ended: they are never registered again. The youngest `RETIRED_KEPT` of them. */
  readonly retired: readonly string[];
}

/** How many ended SAs a store remembers. Ids are 128 random bits: this guards against a delayed message, not chance. */
export const RETIRED_KEPT = 16_384;

/**
 * Where ceilings and epochs survive. Every change resolves only when it is durable; changes become durable in the order
 * of the calls. Each names the value it replaces, and a store whose value differs rejects with `store.corrupt`:
 * somebody else wrote. Any rejection means that nothing more may be granted.
 */
export interface CeilingStore {
  /** What was durable when the store was opened. */
  initial(): StoredState;
  /** Adds a sequence (`from` null) or changes epoch, ceiling, instances and spoilt mark of a known one (`from` its ceiling). */
  put(sequence: StoredSequence, from: bigint | null): Promise<void>;
  raise(sa: string, from: bigint, to: bigint): Promise<void>;
  retire(sa: string): Promise<void>;
  /** Gives a DVIPA to `owner` under epoch `to`; `from` is 0 for one never owned. */
  own(dvipa: string, from: bigint, to: bigint, owner: string): Promise<void>;
  close(): Promise<void>;
}
