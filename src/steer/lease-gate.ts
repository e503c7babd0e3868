import type { Counters } from "../core/counters.ts";

/** Limits of the gate; both our choice. A SYN that is dropped here comes again from the client. */
export interface LeaseGateLimits {
  /** Packets that wait for one target's lease on one tunnel. */
  readonly maxWaitingPerPass: number;
  /** Packets that wait altogether. */
  readonly maxWaiting: number;
}

const LEASE_GATE_LIMITS: LeaseGateLimits = { maxWaitingPerPass: 256, maxWaiting: 4096 };

/** What the gate decided about a packet: forward it now, or drop it. */
export type GateDecision = "forward" | "drop";

/** Asks `node` to hold a lease on the tunnel's current outbound SA; resolves once its kernel does. */
export type WantLease = (node: string, tunnel: number) => Promise<void>;

interface Pass {
  state: "open" | "asking";
  waiting: ((decision: GateDecision) => void)[];
  lastUsedMs: number;
}

/**
 * Lets an inbound packet through to a node only when that node can answer on the shared SA: its kernel must hold a lease
 * before the first packet of a connection reaches it, or the answer would kill its state (notes on leases: a parked
 * state dies at its first packet). A tunnel is named by its `reqid`, so a rekey does not close the gate.
 */
export class LeaseGate {
  readonly #limits: LeaseGateLimits;
  readonly #want: WantLease;
  readonly #counters: Counters;
  readonly #passes = new Map<string, Pass>();
  #waiting = 0;

  constructor(want: WantLease, counters: Counters, limits: LeaseGateLimits = LEASE_GATE_LIMITS) {
    this.#want = want;
    this.#counters = counters;
    this.#limits = limits;
  }

  /** Calls `release` once: at once while `node` holds a lease, else when it has one, or with `drop` if that fails. */
  enter(node: string, tunnel: number, nowMs: number, release: (decision: GateDecision) => void): void {
    const key = passKey(node, tunnel);
    const pass = this.#passes.get(key);
    if (pass?.state === "open") {
      pass.lastUsedMs = nowMs;
      release("forward");
      return;
    }
    if (this.#waiting >= this.#limits.maxWaiting || (pass?.waiting.length ?? 0) >= this.#limits.maxWaitingPerPass) {
      this.#counters.add("steer.drop.leaseQueueFull");
      release("drop");
      return;
    }
    this.#waiting += 1;
    if (pass !== undefined) {
      pass.lastUsedMs = nowMs;
      pass.waiting.push(release);
      return;
    }
    const asking: Pass = { state: "asking", waiting: [release], lastUsedMs: nowMs };
    this.#passes.set(key, asking);
    this.#want(node, tunnel).then(
      () => this.#opened(key, asking),
      () => this.#failed(key, asking),
    );
  }

  /**
   * `node` wants to give its lease on the tunnel back. True when the gate agrees: from then on packets wait for a new
   * lease. False while a lease is being asked for, or while a packet went through less than `quietMs` ago.
   */
  close(node: string, tunnel: number, nowMs: number, quietMs: number): boolean {
    const key = passKey(node, tunnel);
    const pass = this.#passes.get(key);
    if (pass === undefined) return true;
    if (pass.state === "asking" || nowMs - pass.lastUsedMs < quietMs) return false;
    this.#passes.delete(key);
    return true;
  }

  /** Forgets what was known of `node` (it left, or came back without memory); its waiting packets are dropped. */
  forgetNode(node: string): void {
    this.#forget((key) => key.startsWith(`${node} `));
  }

  /** Forgets a tunnel that is gone. */
  forgetTunnel(tunnel: number): void {
    this.#forget((key) => key.endsWith(` ${tunnel}`));
  }

  #opened(key: string, pass: Pass): void {
    if (this.#passes.get(key) !== pass) return;
    pass.state = "open";
    this.#release(pass, "forward");
  }

  #failed(key: string, pass: Pass): void {
    if (this.#passes.get(key) !== pass) return;
    this.#passes.delete(key);
    this.#counters.add("steer.drop.noLease", pass.waiting.length);
    this.#release(pass, "drop");
  }

  #forget(gone: (key: string) => boolean): void {
    for (const [key, pass] of this.#passes) {
      if (!gone(key)) continue;
      this.#passes.delete(key);
      if (pass.waiting.length > 0) this.#counters.add("steer.drop.noLease", pass.waiting.length);
      this.#release(pass, "drop");
    }
  }

  #release(pass: Pass, decision: GateDecision): void {
    const waiting = pass.waiting.splice(0);
    this.#waiting -= waiting.length;
    for (const release of waiting) release(decision);
  }
}

function passKey(node: string, tunnel: number): string {
  return `${node} ${tunnel}`;
}
