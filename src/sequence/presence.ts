import type { Clock } from "../core/clock.ts";

/** Which nodes count as holders: those that are connected, and those whose connection has not been gone for long. */
export class Presence {
  readonly #clock: Clock;
  readonly #graceMs: number;
  /** When a node's connection went; null while it stands. */
  readonly #goneAtMs = new Map<string, number | null>();

  constructor(clock: Clock, graceMs: number) {
    this.#clock = clock;
    this.#graceMs = graceMs;
  }

  connected(node: string): void {
    this.#goneAtMs.set(node, null);
  }

  disconnected(node: string): void {
    this.#goneAtMs.set(node, this.#clock.nowMs());
  }

  /** False for a node whose connection is gone for longer than the grace time: its leases no longer bind others. */
  readonly isLive = (node: string): boolean => {
    const goneAtMs = this.#goneAtMs.get(node);
    return goneAtMs == null || this.#clock.nowMs() - goneAtMs < this.#graceMs;
  };
}
