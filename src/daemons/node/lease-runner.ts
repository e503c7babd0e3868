import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError, isError, messageOf, unreachable, type ErrorCode } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { isErrno } from "../../net/kernel-error.ts";
import type { RequestBody, ResponseBody } from "../../bus/messages.ts";
import type { SharedSa } from "../../sa/spec.ts";
import { initialHolder, leaseOf, needsTicks, stepHolder, type HolderState } from "../../sequence/holder.ts";
import type { HolderEffect, HolderEvent } from "../../sequence/holder-events.ts";
import { windowRule, type SoleLease, type WindowRule } from "../../sequence/size.ts";
import { lastUsableOf, type LeaseReading, type Leases } from "../../xfrm/leases.ts";
import { outboundId } from "../../xfrm/shadow.ts";
import type { SequenceRange, StateId } from "../../xfrm/states.ts";
import { WindowWatch } from "./window-watch.ts";
import { RefillClock, type RefillLatency } from "./refill-clock.ts";

/** How often a holder is asked whether something is due; our choice. */
const TICK_MS = 200;
/** Every so many ticks the kernel is read, in case an event was lost. */
const READ_EVERY_TICKS = 5;
/** A state that could not be made anew is tried again after this long, so that a refusing kernel burns few numbers. */
const REINSTALL_PAUSE_MS = 1_000;
/** A state at its limit refuses changes (EINVAL) until the kernel's timer has removed it: given up after this long. */
const DYING_PAUSE_MS = 50;
/** That numbers were used without a lease must reach the coupling service: told again after this long. Our choice. */
const TELL_AGAIN_MS = 500;
/** Sequence events per lease: the refill starts at the half, so an eighth leaves time to notice. Our choice. */
const EVENTS_PER_LEASE = 8;

/** Effects that write to the kernel's state, and read it before and after. */
const WRITES: readonly HolderEffect["kind"][] = ["install", "extend", "reinstall", "park"];

/** The kernel's leases, as far as a runner uses them. */
export type LeaseKernel = Pick<Leases, "read" | "install" | "extend" | "park">;

/** What a runner needs of the rest of the node. */
export interface LeaseRunnerContext {
  readonly leases: LeaseKernel;
  readonly reserve: (body: RequestBody<"reserve">) => Promise<ResponseBody<"reserve">>;
  /** Resolves once the coupling service has counted that many kernel states of the key made by this process. */
  readonly countInstances: (body: RequestBody<"countInstances">) => Promise<unknown>;
  /** How many this process has made that may send, or will with their first lease. */
  readonly instances: () => number;
  readonly release: (body: RequestBody<"release">) => Promise<unknown>;
  readonly report: (body: RequestBody<"reportLease">) => Promise<unknown>;
  /** Adds the state anew, born with a lease: a new kernel instance of its key. */
  readonly reinstall: (range: SequenceRange, eventThresholdPackets: number) => Promise<void>;
  /** The kernel's state is gone. */
  readonly onGone: () => void;
  /** May this node give its lease back? False when nobody can be asked. */
  readonly askPark: () => Promise<boolean>;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
  /** How long this node's leases are while it is alone; absent: `SOLE_LEASE`. */
  readonly soleLease?: SoleLease;
}

/** What a runner says about itself. */
export interface RunnerStatus {
  readonly state: string;
  readonly first: bigint | null;
  readonly end: bigint | null;
  readonly windowRule: WindowRule;
  readonly refill: RefillLatency;
}

/** Packets between two sequence events for a lease of this size. */
export function eventThreshold({ first, end }: SequenceRange): number {
  return Math.max(1, Number(end - first) / EVENTS_PER_LEASE) | 0;
}

/**
 * Runs one SA's lease on this node: gives the holder its events in order, and performs its effects in order. The kernel
 * enforces the lease; this only keeps it filled.
 */
export class LeaseRunner {
  readonly id: StateId;
  readonly #sa: SharedSa;
  readonly #epoch: bigint;
  readonly #context: LeaseRunnerContext;
  #state: HolderState;
  #tail: Promise<void> = Promise.resolve();
  #wants: { readonly resolve: () => void; readonly reject: (error: EsplexError) => void }[] = [];
  #ticks = 0;
  #timer: Timer | null = null;
  #stopped = false;
  /** Kernel instances that the coupling service has counted for this process. */
  #counted = 0;
  /** The last number that the kernel can send, as it said last; null before. */
  #lastSendable: bigint | null = null;
  /** The same before our last write. */
  #lastSendableBefore: bigint | null = null;
  /** The kernel is being written to. */
  #isWriting = false;
  /** It held a lease, and nobody has agreed to its end: it may have run out, with no more to come on this SA. */
  #isReliedOn = false;
  readonly #window: WindowWatch;
  readonly #refills = new RefillClock();

  /** `isAlive`: the kernel has the outbound state. */
  constructor(sa: SharedSa, epoch: bigint, isAlive: boolean, context: LeaseRunnerContext) {
    this.#sa = sa;
    this.#epoch = epoch;
    this.#context = context;
    this.id = outboundId(sa);
    this.#window = new WindowWatch(sa, context);
    this.#state = initialHolder(sa.peerWindowPackets, isAlive, context.soleLease);
    this.#scheduleTick();
  }

  /** For a state that was found in the kernel: what it may still send is replaced by a lease of this process. */
  adopt({ oseq, lastSendable }: LeaseReading): void {
    this.#lastSendable = lastSendable;
    this.#feed({ kind: "adopted", oseq, lastSendable, nowMs: this.#now() });
    if (this.#state.kind === "held") return;
    // So that the first lease need not wait for it; when it fails, the first lease asks again.
    this.#count(this.#context.instances()).catch((error: unknown) => {
      this.#context.log.debug("a kernel instance was not counted yet", { sa: this.#sa.id, reason: messageOf(error) });
    });
  }

  /** Resolves once the kernel can send; rejects when it never will on this SA, or the runner stops. */
  want(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#stopped) {
        reject(new EsplexError("cluster.unknownSa", "the SA is gone"));
        return;
      }
      this.#wants.push({ resolve, reject });
      this.#feed({ kind: "want", nowMs: this.#now() });
    });
  }

  /** A sequence event of the kernel: `oseq` is the last number sent, whose packet `leftNumbers` may not count yet (measured). */
  sent(oseq: bigint, leftNumbers: bigint): void {
    this.#feed({ kind: "threshold", oseq, nowMs: this.#now() });
    const last = oseq + leftNumbers;
    // A write reads the kernel itself, before and after, and an event may be from before the last one. A difference that is hidden
    // by either stays, and shows in the next event or reading.
    const fits = [this.#lastSendable, this.#lastSendableBefore].some((known) => last === known || last - 1n === known);
    if (fits || this.#isWriting) return;
    this.#context.counters.add("lease.reread");
    this.resync();
  }

  /** The kernel's numbers now; null when the state is gone. One that the tripwire deletes is gone. */
  async reading(): Promise<LeaseReading | null> {
    try {
      return await this.#context.leases.read(this.id);
    } catch (error) {
      if (this.#isTripwire(error)) return null;
      throw error;
    }
  }

  /** The kernel's state died at its limit, or somebody removed it. */
  expired(): void {
    this.#context.onGone();
    this.#feed({ kind: "expired", nowMs: this.#now() });
  }

  /** The coupling service says that the lease lags. What the kernel has sent meanwhile is read first. */
  recalled(holders: number): void {
    void this.#refresh().then(() => this.#feed({ kind: "recall", holders, nowMs: this.#now() }));
  }

  /** Events were lost: the kernel is read. */
  resync(): void {
    void this.#refresh();
  }

  status(): RunnerStatus {
    const lease = leaseOf(this.#state);
    return {
      state: this.#state.kind,
      first: lease?.nextUnsent ?? null,
      end: lease?.end ?? null,
      windowRule: windowRule(this.#sa.peerWindowPackets, this.#state.holders),
      refill: this.#refills.latency(),
    };
  }

  get holdsLease(): boolean {
    return this.#state.kind === "held";
  }

  /** Somebody waits for numbers, or has them, or had them and never gave them back: packets for this node are let through. */
  get isNeeded(): boolean {
    return this.holdsLease || this.#wants.length > 0 || this.#isReliedOn;
  }

  /** As `stop`, when another SA of the tunnel can send now: who waits for this one may go on. */
  replaced(): void {
    this.#answerWants(null);
    this.stop();
  }

  /** Ends the runner; the kernel's state is the caller's to remove. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#answerWants(new EsplexError("cluster.unknownSa", "the SA is gone"));
  }

  #now(): number {
    return this.#context.clock.nowMs();
  }

  #feed(event: HolderEvent): void {
    if (this.#stopped) return;
    const { state, effects } = stepHolder(this.#state, event);
    if (state.holders !== this.#state.holders) this.#window.check(state.holders);
    this.#state = state;
    if (state.kind === "held") this.#isReliedOn = true;
    else if (event.kind === "parkAllowed") this.#isReliedOn = false;
    this.#refills.stepped(event, effects, state.kind === "held");
    for (const effect of effects) this.#tail = this.#tail.then(() => this.#perform(effect));
    this.#scheduleTick();
  }

  /** True when the error is the tripwire's: the state is deleted, and the holder told what it may have used. */
  #isTripwire(error: unknown): boolean {
    const lastUsable = lastUsableOf(error);
    if (lastUsable === null) return false;
    const { counters, log, onGone } = this.#context;
    counters.add("lease.tripped");
    log.error(
      "the kernel used other numbers than it counted packets: the state is deleted. Keep esp4_offload and esp6_offload from loading " +
        "(`install esp4_offload /bin/false` in modprobe.d), and other programs away from our XFRM states",
      { sa: this.#sa.id, reason: messageOf(error), lastUsable },
    );
    onGone();
    this.#feed({ kind: "tripped", lastUsable, nowMs: this.#now() });
    return true;
  }

  /** Before a kernel state may send, the coupling service counts it (nonce budget). Rejects as the service does. */
  async #count(instances: number): Promise<void> {
    if (instances <= this.#counted) return;
    await this.#context.countInstances({ sa: this.#sa.id, epoch: this.#epoch, count: instances });
    this.#counted = Math.max(this.#counted, instances);
  }

  async #perform(effect: HolderEffect): Promise<void> {
    if (this.#stopped) return;
    this.#isWriting = WRITES.includes(effect.kind);
    try {
      await this.#act(effect);
    } catch (error) {
      if (this.#isTripwire(error)) return;
      if (effect.kind !== "reinstall" && isErrno(error, "EINVAL")) {
        this.#context.counters.add("lease.stateDying");
        this.#context.clock.after(DYING_PAUSE_MS, () => {
          // Unless the kernel's event was faster, and a newer lease is there.
          if (this.#state.kind === "held" && "token" in effect && this.#state.token === effect.token) this.expired();
        });
        return;
      }
      if (isErrno(error, "ESRCH")) {
        this.#context.counters.add("lease.stateGone");
      } else {
        this.#context.counters.add("lease.kernelError");
        this.#context.log.error("a lease could not be put into the kernel", {
          sa: this.#sa.id,
          effect: effect.kind,
          reason: messageOf(error),
        });
      }
      if (effect.kind === "reinstall") this.#context.clock.after(REINSTALL_PAUSE_MS, () => this.expired());
      else this.expired();
    } finally {
      this.#isWriting = false;
    }
  }

  async #act(effect: HolderEffect): Promise<void> {
    const { leases, counters } = this.#context;
    switch (effect.kind) {
      case "reserve":
        this.#reserve(effect.count, effect.nextUnsent);
        return;
      case "install": {
        const range = { first: effect.first, end: effect.end };
        this.#applied(effect.token, await leases.install(this.#leased(), range, eventThreshold(range)));
        counters.add("lease.installed");
        return;
      }
      case "extend":
        await this.#extend(effect.newEnd, effect.token);
        return;
      case "reinstall": {
        const range = { first: effect.first, end: effect.end };
        // It may have died after the numbers were asked for.
        await this.#count(this.#context.instances() + 1);
        await this.#context.reinstall(range, eventThreshold(range));
        counters.add("lease.reinstalled");
        this.#applied(effect.token, await this.#mustRead());
        return;
      }
      case "park":
        this.#wrote(await leases.park(this.id));
        counters.add("lease.parked");
        return;
      case "release":
        this.#release(effect.nextUnsent);
        return;
      case "report":
        this.#report(effect.nextUnsent);
        return;
      case "askPark":
        this.#askPark();
        return;
      case "ready":
        this.#answerWants(null);
        return;
      case "unready":
        this.#answerWants(new EsplexError(effect.code, "the coupling service gives no numbers for this SA"));
        return;
      case "burnt":
        counters.add(`lease.burnt.${effect.why}`, Number(effect.end - effect.first));
        return;
      default:
        unreachable(effect);
    }
  }

  async #extend(newEnd: bigint, token: number): Promise<void> {
    const { leases, counters } = this.#context;
    const threshold = ({ oseq, eventThresholdPackets: now }: LeaseReading): number | null => {
      const wanted = eventThreshold({ first: oseq + 1n, end: newEnd });
      // Only a change by half or more is worth the bytes.
      return now > 2 * wanted || 2 * now < wanted ? wanted : null;
    };
    const reading = await leases.extend(this.#leased(), newEnd, threshold);
    counters.add("lease.extended");
    this.#applied(token, reading);
  }

  #wrote({ lastSendable }: LeaseReading): void {
    this.#lastSendableBefore = this.#lastSendable;
    this.#lastSendable = lastSendable;
  }

  #applied(token: number, reading: LeaseReading): void {
    const { oseq, lastSendable } = reading;
    this.#wrote(reading);
    const nowMs = this.#now();
    this.#refills.applied(nowMs);
    this.#feed({ kind: "applied", token, oseq, lastSendable, nowMs });
  }

  #leased(): { readonly id: StateId; readonly esn: boolean } {
    return { id: this.id, esn: this.#sa.esn };
  }

  async #mustRead(): Promise<LeaseReading> {
    const reading = await this.#context.leases.read(this.id);
    if (reading === null) throw new EsplexError("kernel.refused", "the state died as it was born");
    return reading;
  }

  #reserve(count: number, nextUnsent: bigint): void {
    const isAlive = this.#state.kind === "held" || this.#state.isAlive;
    const instances = this.#context.instances() + (isAlive ? 0 : 1);
    const reserve = () => this.#context.reserve({ sa: this.#sa.id, epoch: this.#epoch, count, nextUnsent });
    const granted = instances <= this.#counted ? reserve() : this.#count(instances).then(reserve);
    granted.then(
      ({ first, end, holders }) => this.#feed({ kind: "granted", first, end, holders, nowMs: this.#now() }),
      (error: unknown) => {
        const code: ErrorCode = error instanceof EsplexError ? error.code : "bus.closed";
        this.#context.counters.add(`lease.refused.${code}`);
        if (isError(error, "cluster.exhausted")) {
          this.#context.log.warn("the SA gets no more numbers: it must be rekeyed", { sa: this.#sa.id });
        }
        this.#feed({ kind: "refused", code, nowMs: this.#now() });
      },
    );
  }

  #release(nextUnsent: bigint): void {
    this.#context.release({ sa: this.#sa.id, epoch: this.#epoch, nextUnsent }).catch((error: unknown) => {
      this.#context.log.debug("the coupling service did not hear that a lease was given back", {
        sa: this.#sa.id,
        reason: messageOf(error),
      });
      const isOver = isError(error, "cluster.unknownSa") || isError(error, "cluster.notOwner");
      const mustBeTold = nextUnsent !== 0n && !isOver && !this.#stopped;
      if (mustBeTold) this.#context.clock.after(TELL_AGAIN_MS, () => this.#release(nextUnsent));
    });
  }

  /** When it is lost, the next request says the same. */
  #report(nextUnsent: bigint): void {
    this.#context.report({ sa: this.#sa.id, epoch: this.#epoch, nextUnsent }).catch((error: unknown) => {
      this.#context.log.debug("the coupling service did not hear of a move", {
        sa: this.#sa.id,
        reason: messageOf(error),
      });
    });
  }

  #askPark(): void {
    this.#context.askPark().then(
      (allowed) => this.#feed({ kind: allowed ? "parkAllowed" : "parkDenied", nowMs: this.#now() }),
      () => this.#feed({ kind: "parkDenied", nowMs: this.#now() }),
    );
  }

  #answerWants(error: EsplexError | null): void {
    const wants = this.#wants.splice(0);
    for (const { resolve, reject } of wants) {
      if (error === null) resolve();
      else reject(error);
    }
  }

  /** Reads the kernel and feeds what it says; after what is queued, so that a reading is never older than an effect. */
  #refresh(): Promise<void> {
    const run = this.#tail.then(async () => {
      if (this.#stopped) return;
      const reading = await this.reading();
      if (reading !== null) {
        this.#lastSendable = reading.lastSendable;
        this.#feed({ kind: "tick", oseq: reading.oseq, nowMs: this.#now() });
      } else if (this.#state.kind === "held" || this.#state.isAlive) this.expired();
    });
    this.#tail = run.catch((error: unknown) => {
      this.#context.log.warn("a lease could not be read from the kernel", {
        sa: this.#sa.id,
        reason: messageOf(error),
      });
    });
    return this.#tail;
  }

  /** While something may become due by time alone: 10,000 SAs with a timer each cost more than all the rest of a node at rest. */
  #scheduleTick(): void {
    if (this.#timer !== null || this.#stopped || !needsTicks(this.#state)) return;
    this.#timer = this.#context.clock.after(TICK_MS, () => {
      this.#timer = null;
      this.#ticks += 1;
      if (this.holdsLease && this.#ticks % READ_EVERY_TICKS === 0) void this.#refresh();
      else this.#feed({ kind: "tick", oseq: null, nowMs: this.#now() });
      this.#scheduleTick();
    });
  }
}
