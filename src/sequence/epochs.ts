import type { StoredEpoch } from "./ceiling-store.ts";

/** The fencing epoch and owner of each DVIPA. An epoch only grows; 0 stands for "never owned". */
export class Epochs {
  readonly #current = new Map<string, { owner: string; epoch: bigint }>();

  constructor(stored: readonly StoredEpoch[]) {
    for (const { dvipa, epoch, owner } of stored) this.#current.set(dvipa, { owner, epoch });
  }

  current(dvipa: string): bigint {
    return this.#current.get(dvipa)?.epoch ?? 0n;
  }

  get(dvipa: string): { owner: string; epoch: bigint } | null {
    return this.#current.get(dvipa) ?? null;
  }

  all(): { address: string; owner: string; epoch: bigint }[] {
    return [...this.#current].map(([address, { owner, epoch }]) => ({ address, owner, epoch }));
  }

  /** Raises the epoch at once, before it is durable: the older one gets nothing from now on. */
  raise(dvipa: string, owner: string): { from: bigint; to: bigint } {
    const from = this.current(dvipa);
    this.#current.set(dvipa, { owner, epoch: from + 1n });
    return { from, to: from + 1n };
  }
}
