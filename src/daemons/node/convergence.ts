import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import { NOTHING, type PlanOptions } from "../../xfrm/plan.ts";
import { openXfrm, XfrmReconciler, type ReconcileReport } from "../../xfrm/reconciler.ts";
import type { WantedParts } from "../../xfrm/wanted-parts.ts";

/** The whole kernel is compared with what it should be so long after the last time; at a change only what it names. Our choice. */
const AUDIT_MS = 10_000;
/** And not before so many times what that took: a node with thousands of SAs has other work. Our choice. */
const AUDIT_PAUSE_TIMES = 10;
/** A change of at most so many names is made by asking for each; else where they are a small part of all. Our choice. */
const ASKED_NAMES_MAX = 64;
const ASKED_PART = 1 / 4;

export interface ConvergenceContext {
  readonly xfrm: NetlinkSocket;
  readonly wanted: WantedParts;
  /** Names (`stateKey`) of wanted states that somebody else makes when they are missing. */
  readonly neverAdd: NonNullable<PlanOptions["neverAdd"]>;
  /** What must stand before the kernel gets a state. `doubtful`: it may have gone; `removeOthers`: what nobody wants goes. */
  readonly prepare: (options: { readonly removeOthers: boolean; readonly doubtful: boolean }) => Promise<void>;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * Makes the kernel have the states and policies that are wanted and nothing else of ours: what has changed at once, and all of it
 * now and then. Whoever else writes to the kernel's SAs takes turns with it (`serial`).
 */
export class Convergence {
  readonly #context: ConvergenceContext;
  readonly #reconciler: XfrmReconciler;
  /** Audits have a socket of their own: a change need not wait until thousands of states are read. */
  readonly #auditSocket = openXfrm();
  #isResyncDue = true;
  #isCoverDoubtful = true;
  #keepUnknown = true;
  #queued: Promise<void> | null = null;
  #tail: Promise<unknown> = Promise.resolve();
  #timer: Timer | null = null;
  #auditing: Promise<void> = Promise.resolve();
  #isCleared = false;

  constructor(context: ConvergenceContext) {
    this.#context = context;
    this.#reconciler = new XfrmReconciler(context.xfrm, context.log);
    this.#schedule();
  }

  /** From now on what the kernel has of ours and nobody wants is removed. */
  async settle(): Promise<void> {
    if (!this.#keepUnknown) return;
    this.#keepUnknown = false;
    this.#isResyncDue = true;
    await this.apply();
  }

  /** Brings the kernel to what is wanted when its turn comes; calls that wait share one run. Throws what stands in the way. */
  apply(): Promise<void> {
    this.#queued ??= this.serial(async () => {
      this.#queued = null;
      await this.#prepare();
      const { conflicts } = await this.#reconcile();
      for (const { what, why } of conflicts) this.#context.log.error("something stands in an SA's way", { what, why });
      if (conflicts.length > 0) {
        this.#context.counters.add("xfrm.conflicts", conflicts.length);
        throw new EsplexError("kernel.refused", conflicts.map(({ what, why }) => `${what}: ${why}`).join("; "));
      }
    });
    return this.#queued;
  }

  /** For changes that nobody waits for: what went wrong is logged, and the next round tries again. */
  reapply(): void {
    this.apply().catch((error: unknown) => this.#failed(error));
  }

  /** The kernel may be anything: it is dumped and compared with what is wanted. */
  resync(): void {
    this.doubt();
    this.reapply();
  }

  /** As `resync`, with the next change. */
  doubt(): void {
    this.#isResyncDue = true;
    this.#isCoverDoubtful = true;
  }

  /** After what others do to the kernel's SAs, and before what comes later. */
  serial<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#tail.then(work);
    this.#tail = run.catch(() => {});
    return run;
  }

  /** No more rounds; the kernel has nothing of ours when it resolves. */
  async clear(): Promise<void> {
    this.#timer?.cancel();
    this.#isCleared = true;
    this.#auditSocket.close();
    await this.#auditing;
    this.#keepUnknown = false;
    await this.serial(() => this.#reconciler.apply(NOTHING));
  }

  async #prepare(): Promise<void> {
    const doubtful = this.#isCoverDoubtful;
    this.#isCoverDoubtful = false;
    try {
      await this.#context.prepare({ removeOthers: !this.#keepUnknown, doubtful });
    } catch (error) {
      this.#isCoverDoubtful ||= doubtful;
      throw error;
    }
  }

  /** What has changed, or everything when that is due, or cheaper. */
  async #reconcile(): Promise<ReconcileReport> {
    const { wanted } = this.#context;
    const { changes, size } = wanted;
    if (this.#isResyncDue || changes > Math.max(ASKED_NAMES_MAX, size * ASKED_PART)) {
      this.#isResyncDue = false;
      try {
        return await this.#reconciler.apply(wanted.takeAll(), this.#options());
      } catch (error) {
        this.#isResyncDue = true;
        throw error;
      }
    }
    const change = wanted.takeChange();
    try {
      return await this.#reconciler.change(change, this.#options());
    } catch (error) {
      wanted.putBack(change);
      throw error;
    }
  }

  #options(): PlanOptions {
    return { keepUnwanted: this.#keepUnknown, neverAdd: this.#context.neverAdd };
  }

  #schedule(pauseMs = AUDIT_MS): void {
    const { clock } = this.#context;
    this.#timer = clock.after(pauseMs, () => {
      const startMs = clock.nowMs();
      this.#auditing = this.#audit()
        .catch((error: unknown) => {
          // Its socket is closed under it, for nobody is to wait until thousands of states are read.
          if (!this.#isCleared) this.#failed(error);
        })
        .finally(() => {
          if (!this.#isCleared) this.#schedule(Math.max(AUDIT_MS, AUDIT_PAUSE_TIMES * (clock.nowMs() - startMs)));
        });
    });
  }

  /** Looks for what somebody else has changed, and has it put right. */
  async #audit(): Promise<void> {
    const { wanted } = this.#context;
    const suspects = await this.#reconciler.suspects(this.#auditSocket, () => wanted.all(), this.#options());
    if (this.#isCleared) return;
    if (suspects === null) this.doubt();
    else wanted.doubt(suspects);
    this.#isCoverDoubtful = true;
    await this.apply();
  }

  #failed(error: unknown): void {
    this.#context.counters.add("xfrm.reconcileFailed");
    this.#context.log.error("the kernel's SAs could not be brought up to date", { reason: messageOf(error) });
  }
}
