import { EsplexError } from "../core/errors.ts";
import { RETIRED_KEPT, type StoredEpoch, type StoredSequence, type StoredState } from "./ceiling-store.ts";
import type { Change } from "./journal-record.ts";

/** The values of a ceiling store in memory: what a journal adds up to. Refuses a change that does not fit what it replaces. */
export class StoredValues {
  readonly #sequences = new Map<string, StoredSequence>();
  readonly #epochs = new Map<string, StoredEpoch>();
  readonly #retired = new Set<string>();

  get size(): number {
    return this.#sequences.size + this.#epochs.size + this.#retired.size;
  }

  ceiling(sa: string): bigint | null {
    return this.#sequences.get(sa)?.ceiling ?? null;
  }

  epoch(dvipa: string): bigint {
    return this.#epochs.get(dvipa)?.epoch ?? 0n;
  }

  state(): StoredState {
    return {
      sequences: [...this.#sequences.values()],
      epochs: [...this.#epochs.values()],
      retired: [...this.#retired],
    };
  }

  /** The changes that build these values from nothing. */
  changes(): Change[] {
    const { sequences, epochs, retired } = this.state();
    return [
      ...epochs.map((owner): Change => ({ kind: "own", owner })),
      ...retired.map((sa): Change => ({ kind: "retire", sa })),
      ...sequences.map((sequence): Change => ({ kind: "put", sequence })),
    ];
  }

  /** Throws `store.corrupt` on a ceiling or epoch that goes down, a raise from another value, a retired SA that comes back. */
  apply(change: Change): void {
    switch (change.kind) {
      case "put": {
        this.#put(change.sequence);
        return;
      }
      case "raise": {
        const known = this.#sequences.get(change.sa);
        check(known?.ceiling === change.from && change.to > change.from, `raise of ${change.sa}`);
        this.#sequences.set(change.sa, { ...known, ceiling: change.to });
        return;
      }
      case "retire":
        this.#sequences.delete(change.sa);
        this.#retired.add(change.sa);
        for (const oldest of this.#retired) {
          if (this.#retired.size <= RETIRED_KEPT) break;
          this.#retired.delete(oldest);
        }
        return;
      case "own":
        check(change.owner.epoch > this.epoch(change.owner.dvipa), `epoch of ${change.owner.dvipa}`);
        this.#epochs.set(change.owner.dvipa, change.owner);
        return;
    }
  }

  #put(sequence: StoredSequence): void {
    const known = this.#sequences.get(sequence.sa);
    check(!this.#retired.has(sequence.sa), `retired SA ${sequence.sa}`);
    check(known === undefined || sequence.ceiling >= known.ceiling, `ceiling of ${sequence.sa}`);
    this.#sequences.set(sequence.sa, sequence);
  }
}

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new EsplexError("store.corrupt", `the ceiling store does not hold what was expected: ${what}`);
}
