import type { EsplexError } from "../core/errors.ts";
import type { RequestType } from "./messages.ts";

/** A request that waits for its answer. */
export interface Pending {
  readonly type: RequestType;
  readonly deadlineMs: number;
  readonly resolve: (body: unknown) => void;
  readonly reject: (error: EsplexError) => void;
}

/** The requests of one connection that wait for their answers, by id. Ids count from 1 and never come again. */
export class PendingRequests {
  readonly #byId = new Map<number, Pending>();
  #nextId = 1;

  get size(): number {
    return this.#byId.size;
  }

  /** The id that the next `add` gives. */
  get nextId(): number {
    return this.#nextId;
  }

  add(pending: Pending): void {
    this.#byId.set(this.#nextId++, pending);
  }

  /** Takes one out; undefined when nobody waits for this answer (any more). */
  take(id: number): Pending | undefined {
    const pending = this.#byId.get(id);
    if (pending !== undefined) this.#byId.delete(id);
    return pending;
  }

  /** Takes out those whose time is over. */
  takeOverdue(nowMs: number): Pending[] {
    const overdue = [...this.#byId].filter(([, { deadlineMs }]) => deadlineMs <= nowMs);
    for (const [id] of overdue) this.#byId.delete(id);
    return overdue.map(([, pending]) => pending);
  }

  rejectAll(error: EsplexError): void {
    for (const { reject } of this.#byId.values()) reject(error);
    this.#byId.clear();
  }
}
