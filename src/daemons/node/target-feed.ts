import type { BusConnection } from "../../bus/connection.ts";
import type { RequestBody } from "../../bus/messages.ts";
import type { Clock } from "../../core/clock.ts";
import { messageOf } from "../../core/errors.ts";

/**
 * The target reads a part in this time, and has applied the last one: thousands of SAs take its kernel a while. A target that is dead
 * is noticed by its silence long before. Our choice.
 */
const PART_MS = 120_000;
/** A change waits so long for a target that is still being told everything, and then goes on without it. Our choice. */
const PATIENCE_MS = 2_000;
/** Changes that wait; with more it is cheaper to tell everything again. Our choice. */
const MAX_BACKLOG = 4096;

export interface TargetFeedContext {
  readonly connection: Pick<BusConnection, "request" | "close">;
  /** Everything that the target should have, as it is when the part is asked for. */
  readonly parts: () => Iterable<RequestBody<"snapshot">>;
  /** The target has all that it should. */
  readonly onSynced: () => void;
  readonly clock: Clock;
}

interface Waiting {
  readonly send: () => Promise<unknown>;
  readonly done: () => void;
}

/**
 * What one target is told over one connection: everything, part by part as it takes them (a snapshot of thousands of SAs is more than
 * may wait in a connection), and after it the changes, in their order. Ends the connection when the target does not follow; the next
 * connection begins anew.
 */
export class TargetFeed {
  readonly #context: TargetFeedContext;
  readonly #backlog: Waiting[] = [];
  #state: "new" | "telling" | "synced" = "new";
  #isAgainDue = false;
  #isWaitedFor = true;

  constructor(context: TargetFeedContext) {
    this.#context = context;
  }

  /** False until the target has been told everything, and while it is told once more. */
  get isSynced(): boolean {
    return this.#state === "synced";
  }

  /** Tells everything, once more after that when it is being told already. */
  tellAll(): void {
    this.#isAgainDue = true;
    if (this.#state === "telling") return;
    this.#state = "telling";
    this.#isWaitedFor = true;
    this.#tell().catch((error: unknown) => {
      this.#context.connection.close(`snapshot failed: ${messageOf(error)}`);
      this.#dropBacklog();
    });
  }

  /**
   * Sends a change, behind everything that was said before. Resolves when the target has made it, or when it is too busy to be waited
   * for: then it is not synced, and makes the change later. Rejects as `send` does.
   */
  deliver(send: () => Promise<unknown>): Promise<void> {
    if (this.isSynced) return send().then(() => {});
    if (this.#backlog.length >= MAX_BACKLOG) {
      this.#dropBacklog();
      this.#isAgainDue = true;
      return Promise.resolve();
    }
    return new Promise((done) => {
      const change = { send, done };
      this.#backlog.push(change);
      if (!this.#isWaitedFor) done();
      else this.#context.clock.after(PATIENCE_MS, () => this.#losePatience(change));
    });
  }

  async #tell(): Promise<void> {
    const { connection, parts, onSynced } = this.#context;
    while (this.#isAgainDue) {
      this.#isAgainDue = false;
      for (const part of parts()) await connection.request("snapshot", part, PART_MS);
      while (!this.#isAgainDue) {
        const change = this.#backlog.shift();
        if (change === undefined) break;
        await change.send().finally(change.done);
      }
    }
    this.#state = "synced";
    onSynced();
  }

  #losePatience(change: Waiting): void {
    if (!this.#backlog.includes(change)) return;
    this.#isWaitedFor = false;
    change.done();
  }

  #dropBacklog(): void {
    for (const { done } of this.#backlog.splice(0)) done();
  }
}
