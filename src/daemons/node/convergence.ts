import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import { NOTHING, type PlanOptions } from "../../xfrm/plan.ts";
import { XfrmReconciler, type ReconcileReport } from "../../xfrm/reconciler.ts";
import type { WantedParts } from "../../xfrm/wanted-parts.ts";

/** How often the whole kernel is compared with what it should be; at a change only what it names. Our choice. */
const RECONCILE_MS = 10_000;
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
  #isResyncDue = true;
  #keepUnknown = true;
  #queued: Promise<void> | null = null;
  #tail: Promise<unknown> = Promise.resolve();
  #timer: Timer | null = null;

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
      await this.#context.prepare({ removeOthers: !this.#keepUnknown, doubtful: this.#isResyncDue });
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
    this.apply().catch((error: unknown) => {
      this.#context.counters.add("xfrm.reconcileFailed");
      this.#context.log.error("the kernel's SAs could not be brought up to date", { reason: messageOf(error) });
    });
  }

  /** The kernel may be anything: it is dumped and compared with what is wanted. */
  resync(): void {
    this.doubt();
    this.reapply();
  }

  /** As `resync`, with the next change. */
  doubt(): void {
    this.#isResyncDue = true;
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
    this.#keepUnknown = false;
    await this.serial(() => this.#reconciler.apply(NOTHING));
  }

  /** What has changed, or everything when that is due, or cheaper. */
  async #reconcile(): Promise<ReconcileReport> {
    const { wanted, neverAdd } = this.#context;
    const options: PlanOptions = { keepUnwanted: this.#keepUnknown, neverAdd };
    const { changes, size } = wanted;
    if (this.#isResyncDue || changes > Math.max(ASKED_NAMES_MAX, size * ASKED_PART)) {
      this.#isResyncDue = false;
      try {
        return await this.#reconciler.apply(wanted.takeAll(), options);
      } catch (error) {
        this.#isResyncDue = true;
        throw error;
      }
    }
    const change = wanted.takeChange();
    try {
      return await this.#reconciler.change(change, options);
    } catch (error) {
      wanted.putBack(change);
      throw error;
    }
  }

  #schedule(): void {
    this.#timer = this.#context.clock.after(RECONCILE_MS, () => {
      this.resync();
      this.#schedule();
    });
  }
}
