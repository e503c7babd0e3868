import type { EsplexError } from "../core/errors.ts";
import type { RequestType } from "./messages.ts";

/** A request that waits for its answer. */
export interface Pending {
  readonly id: number;
  readonly type: RequestType;
  readonly deadlineMs: number;
  readonly resolve: (body: unknown) => void;
  readonly reject: (error: EsplexError) => void;
}

/** Slots for the newest requests, a power of two. Our choice: more than are under way at a time, as a rule. */
const SLOTS = 1024;

/**
 * The requests of one connection that wait for their answers. Ids count from 1 and never come again; each has its slot, and one
 * that is still there when the slot comes round again moves to a map. (All of them in a map would be simpler: but a map whose keys
 * only grow is copied all the time, and the collector takes the old copies with all they hold for alive.)
 */
export class PendingRequests {
  readonly #slots: (Pending | undefined)[] = Array.from({ length: SLOTS });
  readonly #slow = new Map<number, Pending>();
  #nextId = 1;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The id of the next request. */
  get nextId(): number {
    return this.#nextId;
  }

  /** Adds the request whose id is `nextId`. */
  add(pending: Pending): void {
    const slot = pending.id % SLOTS;
    const earlier = this.#slots[slot];
    if (earlier !== undefined) this.#slow.set(earlier.id, earlier);
    this.#slots[slot] = pending;
    this.#nextId++;
    this.#size++;
  }

  /** Takes one out; undefined when nobody waits for this answer (any more). */
  take(id: number): Pending | undefined {
    const slot = id % SLOTS;
    let pending = this.#slots[slot];
    if (pending?.id === id) this.#slots[slot] = undefined;
    else {
      pending = this.#slow.get(id);
      this.#slow.delete(id);
    }
    if (pending !== undefined) this.#size--;
    return pending;
  }

  /** Takes out those whose time is over. */
  takeOverdue(nowMs: number): Pending[] {
    const overdue = this.#all().filter(({ deadlineMs }) => deadlineMs <= nowMs);
    for (const { id } of overdue) this.take(id);
    return overdue;
  }

  rejectAll(error: EsplexError): void {
    for (const { id, reject } of this.#all()) {
      this.take(id);
      reject(error);
    }
  }

  /** The longest waiting first. */
  #all(): Pending[] {
    const recent = this.#slots.filter((pending) => pending !== undefined);
    return [...this.#slow.values(), ...recent].sort((a, b) => a.id - b.id);
  }
}
