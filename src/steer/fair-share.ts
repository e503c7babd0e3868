/**
 * Entries in the order of their coming, by whom they belong to: says who has the most, so that who has many pays for a flood
 * and not who has one. Every step takes constant time.
 */
export class FairShare {
  readonly #byOwner = new Map<string, Set<string>>();
  /** Owners by their number of entries. */
  readonly #owners = new Map<number, Set<string>>();
  #most = 0;

  /** The largest number of entries that one owner has. */
  get most(): number {
    return this.#most;
  }

  countOf(owner: string): number {
    return this.#byOwner.get(owner)?.size ?? 0;
  }

  add(owner: string, entry: string): void {
    let entries = this.#byOwner.get(owner);
    if (entries === undefined) this.#byOwner.set(owner, (entries = new Set()));
    const before = entries.size;
    entries.add(entry);
    this.#moved(owner, before, entries.size);
  }

  remove(owner: string, entry: string): void {
    const entries = this.#byOwner.get(owner);
    if (entries === undefined) return;
    const before = entries.size;
    entries.delete(entry);
    if (entries.size === 0) this.#byOwner.delete(owner);
    this.#moved(owner, before, entries.size);
  }

  /** The oldest entry of this owner; null when it has none. */
  oldestOf(owner: string): string | null {
    return first(this.#byOwner.get(owner));
  }

  /** The oldest entry of an owner that has the most; null when there is none. */
  oldestOfTheMost(): string | null {
    const owner = first(this.#owners.get(this.#most));
    return owner === null ? null : this.oldestOf(owner);
  }

  #moved(owner: string, from: number, to: number): void {
    if (from === to) return;
    const left = this.#owners.get(from);
    left?.delete(owner);
    if (left?.size === 0) this.#owners.delete(from);
    if (to > 0) {
      const joined = this.#owners.get(to);
      if (joined === undefined) this.#owners.set(to, new Set([owner]));
      else joined.add(owner);
    }
    if (to > this.#most) this.#most = to;
    else if (from === this.#most && !this.#owners.has(from)) this.#most = Math.max(0, from - 1);
  }
}

function first(entries: ReadonlySet<string> | undefined): string | null {
  for (const entry of entries ?? []) return entry;
  return null;
}
