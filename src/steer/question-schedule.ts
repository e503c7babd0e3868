/** Pauses before the first question about a connection and those after it; the last one repeats. Our choice. */
const PAUSES_MS = [100, 400, 1_600, 5_000] as const;
/** A connection that is known to be there: only a lost notice can have changed that unheard. Our choice. */
const RARELY_MS = 300_000;

/**
 * When to ask which connection's target whether it has it. One queue for each pause, each in the order of time, so that what
 * is due stands in front.
 */
export class QuestionSchedule {
  readonly #queues = [...PAUSES_MS, RARELY_MS].map((pauseMs) => ({ pauseMs, dueMs: new Map<string, number>() }));

  /** Soon, and then again at growing pauses until it is forgotten or settled by `rarely`. */
  soon(name: string, nowMs: number): void {
    this.#schedule(name, 0, nowMs);
  }

  /** Now and then. */
  rarely(name: string, nowMs: number): void {
    this.#schedule(name, PAUSES_MS.length, nowMs);
  }

  forget(name: string): void {
    for (const { dueMs } of this.#queues) dueMs.delete(name);
  }

  has(name: string): boolean {
    return this.#queues.some(({ dueMs }) => dueMs.has(name));
  }

  /** What is due, at most `max`; each is scheduled again. */
  take(nowMs: number, max: number): string[] {
    const due: { name: string; place: number }[] = [];
    for (const [place, { dueMs }] of this.#queues.entries()) {
      for (const [name, atMs] of dueMs) {
        if (atMs > nowMs || due.length >= max) break;
        due.push({ name, place });
      }
    }
    for (const { name, place } of due) {
      const isLast = place >= PAUSES_MS.length - 1;
      this.#schedule(name, isLast ? place : place + 1, nowMs);
    }
    return due.map(({ name }) => name);
  }

  #schedule(name: string, place: number, nowMs: number): void {
    this.forget(name);
    const queue = this.#queues[place];
    queue?.dueMs.set(name, nowMs + queue.pauseMs);
  }
}
