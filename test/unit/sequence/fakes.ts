import type { Clock, Timer } from "../../../src/core/clock.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import type { CeilingStore, StoredSequence, StoredState } from "../../../src/sequence/ceiling-store.ts";
import type { Change } from "../../../src/sequence/journal-record.ts";
import { StoredValues } from "../../../src/sequence/stored-values.ts";

/** A clock that stands still until it is moved. */
export class FakeClock implements Clock {
  #nowMs = 1000;
  #timers: { atMs: number; run: () => void }[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): Timer {
    const timer = { atMs: this.#nowMs + delayMs, run };
    this.#timers.push(timer);
    return { cancel: () => void (this.#timers = this.#timers.filter((other) => other !== timer)) };
  }

  advance(byMs: number): void {
    const untilMs = this.#nowMs + byMs;
    for (;;) {
      const [next] = this.#timers.filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs);
      if (next === undefined) break;
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      this.#timers = this.#timers.filter((other) => other !== next);
      next.run();
    }
    this.#nowMs = untilMs;
  }
}

/** The disk of a coupling service: survives its crashes. */
export class FakeDisk {
  readonly durable: Change[] = [];

  values(): StoredValues {
    const values = new StoredValues();
    for (const change of this.durable) values.apply(change);
    return values;
  }

  /** The durable ceiling of an SA; 0 when there is none. */
  ceiling(sa: string): bigint {
    return this.values().ceiling(sa) ?? 0n;
  }
}

interface Write {
  readonly change: Change;
  readonly resolve: () => void;
  readonly reject: (error: EsplexError) => void;
}

/** A ceiling store whose writes become durable only when the test says so. `auto`: at once. */
export class FakeStore implements CeilingStore {
  readonly #disk: FakeDisk;
  readonly #initial: StoredState;
  #writes: Write[] = [];
  auto = false;
  /** Every write from now on fails. */
  broken = false;

  constructor(disk: FakeDisk) {
    this.#disk = disk;
    this.#initial = disk.values().state();
  }

  get waiting(): number {
    return this.#writes.length;
  }

  initial(): StoredState {
    return this.#initial;
  }

  put(sequence: StoredSequence): Promise<void> {
    return this.#write({ kind: "put", sequence });
  }

  raise(sa: string, from: bigint, to: bigint): Promise<void> {
    return this.#write({ kind: "raise", sa, from, to });
  }

  retire(sa: string): Promise<void> {
    return this.#write({ kind: "retire", sa });
  }

  own(dvipa: string, _from: bigint, epoch: bigint, owner: string): Promise<void> {
    return this.#write({ kind: "own", owner: { dvipa, epoch, owner } });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** The oldest write is durable now. */
  flushOne(): void {
    const write = this.#writes.shift();
    if (write === undefined) return;
    if (this.broken) {
      write.reject(new EsplexError("store.failed", "broken by the test"));
      return;
    }
    this.#disk.durable.push(write.change);
    write.resolve();
  }

  flush(): void {
    while (this.#writes.length > 0) this.flushOne();
  }

  /** The process dies: of the writes under way, the first `survivors` reached the disk, unacknowledged. */
  crash(survivors: number): void {
    for (const { change } of this.#writes.slice(0, survivors)) this.#disk.durable.push(change);
    this.#writes = [];
  }

  #write(change: Change): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#writes.push({ change, resolve, reject });
      if (this.auto) this.flush();
    });
  }
}

/** Lets everything that waits for promises run. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 8; i++) await Promise.resolve();
}
