import { CONCURRENT_REQUESTS, type RequestType } from "./messages.ts";

/** A message that waits for its handler. */
export interface InboxItem {
  /** Null for a notice. */
  readonly type: RequestType | null;
  /** Calls the handler; a promise when it takes time. */
  run(): unknown;
  done(result: unknown): void;
  failed(error: unknown): void;
}

/** Stops and starts the reading of the socket. */
export interface Flow {
  pause(): void;
  resume(): void;
}

/**
 * Runs handlers in the order of their messages. One that takes time holds up those behind it, unless its type is in
 * `CONCURRENT_REQUESTS`. When `limit` messages wait or run, reading stops until half of them are done.
 */
export class Inbox {
  readonly #limit: number;
  readonly #flow: Flow;
  #waiting: InboxItem[] = [];
  #running = 0;
  #isBlocked = false;
  #isPaused = false;
  #isClosed = false;

  constructor(limit: number, flow: Flow) {
    this.#limit = limit;
    this.#flow = flow;
  }

  get isFull(): boolean {
    return this.#isPaused;
  }

  push(item: InboxItem): void {
    if (this.#isBlocked || this.#waiting.length > 0) this.#waiting.push(item);
    else this.#start(item);
    if (!this.#isPaused && this.#load() >= this.#limit) {
      this.#isPaused = true;
      this.#flow.pause();
    }
  }

  /** Forgets what waits; handlers that run finish for nobody. */
  close(): void {
    this.#isClosed = true;
    this.#waiting = [];
  }

  #load(): number {
    return this.#waiting.length + this.#running;
  }

  #start(item: InboxItem): void {
    let result: unknown;
    try {
      result = item.run();
    } catch (error) {
      item.failed(error);
      return;
    }
    if (!(result instanceof Promise)) {
      item.done(result);
      return;
    }
    const blocks = item.type === null || !CONCURRENT_REQUESTS.has(item.type);
    this.#running++;
    this.#isBlocked = blocks;
    result
      .then(
        (value) => item.done(value),
        (error: unknown) => item.failed(error),
      )
      .finally(() => this.#finished(blocks))
      .catch((error: unknown) => item.failed(error));
  }

  #finished(blocked: boolean): void {
    this.#running--;
    if (blocked) this.#isBlocked = false;
    if (this.#isClosed) return;
    this.#drain();
    if (this.#isPaused && this.#load() <= this.#limit / 2) {
      this.#isPaused = false;
      this.#flow.resume();
    }
  }

  #drain(): void {
    let taken = 0;
    for (const item of this.#waiting) {
      if (this.#isBlocked || this.#isClosed) break;
      taken++;
      this.#start(item);
    }
    this.#waiting.splice(0, taken);
  }
}
