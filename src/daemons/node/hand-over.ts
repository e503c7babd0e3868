import type { Clock } from "../../core/clock.ts";
import type { Leases } from "../../xfrm/leases.ts";
import { outboundId } from "../../xfrm/shadow.ts";
import type { CouplingLink } from "./coupling-link.ts";
import type { LeaseRunner } from "./lease-runner.ts";
import type { Entry, SaTable } from "./sa-table.ts";

/** An SA takes over from one that sends; its peer must not wait longer for the switch. Our choice. */
const HAND_OVER_MS = 2_000;

interface HandOverContext {
  readonly table: SaTable;
  readonly leases: Pick<Leases, "retire">;
  readonly coupling: () => Pick<CouplingLink, "request">;
  readonly clock: Clock;
  /** Makes the kernel have what the table wants. */
  readonly apply: () => Promise<void>;
  /** A runner for an SA whose outbound state the kernel does not have. */
  readonly newRunner: (entry: Entry) => LeaseRunner;
  /** Starts the runner from what the kernel says of the outbound state. */
  readonly startRunner: (entry: Entry) => Promise<void>;
}

/**
 * Switches what this node sends from one SA of a tunnel to another: to an heir, to a second SA that the peer has made beside the
 * first, or back to that. The kernel chooses among the outbound states of a tunnel by itself, and a parked one dies of its first
 * packet: so the other one is there with its lease, or nobody sends, before the one that was sent on goes.
 */
export class HandOver {
  readonly #context: HandOverContext;
  /** By tunnel: an SA that is on its way into the kernel, parked. */
  readonly #entering = new Map<number, Promise<void>>();

  constructor(context: HandOverContext) {
    this.#context = context;
  }

  /** New packets use the SA from now on; resolves once they can, at the latest after `HAND_OVER_MS`. */
  async to(entry: Entry): Promise<void> {
    this.#context.table.setNow(entry);
    if (!this.#others(entry).some(isNeeded)) {
      await this.#enterParked(entry);
    } else {
      // This node sends on the other one: the new state is born with its lease, no packet is lost.
      entry.runner = this.#context.newRunner(entry);
    }
    await Promise.race([
      this.#retireOthers(entry),
      new Promise<void>((resolve) => this.#context.clock.after(HAND_OVER_MS, resolve)),
    ]);
  }

  /** Resolves once no SA of the tunnel is on its way into the kernel, parked; null when none is. */
  untilEntered(tunnel: number): Promise<void> | null {
    const entering = this.#entering.get(tunnel);
    return entering === undefined ? null : entering.then(() => this.untilEntered(tunnel) ?? undefined);
  }

  /** After their states are gone: nodes that still send on these SAs need not wait for this one's numbers. */
  async giveBack(entries: readonly Entry[]): Promise<void> {
    const coupling = this.#context.coupling();
    const released = entries.map(({ sa, epoch }) => coupling.request("release", { sa: sa.id, epoch, nextUnsent: 0n }));
    await Promise.allSettled(released);
  }

  /**
   * Puts an SA into the kernel while nobody here sends on the tunnel. From then on the kernel may choose its state, which its first
   * packet kills: who wants a lease meanwhile waits, and gets it there (`SaKeeper.wantLease`).
   */
  async #enterParked(entry: Entry): Promise<void> {
    const { table, apply, startRunner } = this.#context;
    const { reqid } = entry.sa;
    table.setAlive(entry, true);
    const work = apply().then(() => startRunner(entry));
    const entering = work.catch(() => {});
    this.#entering.set(reqid, entering);
    try {
      await work;
    } finally {
      if (this.#entering.get(reqid) === entering) this.#entering.delete(reqid);
    }
  }

  /** Those of its tunnel that are sent on and stand back for this one: not one that this node has switched to since. */
  #others(entry: Entry): Entry[] {
    return [...this.#context.table.values()].filter(
      (other) =>
        other !== entry && other.sa.reqid === entry.sa.reqid && other.outbound === "now" && other.turn < entry.turn,
    );
  }

  /**
   * Takes the outbound half of the others out of the kernel, which need not prefer the younger of two states: since 6.13 it stays
   * with the one that a policy has used. Their inbound half stays until they are removed.
   */
  async #retireOthers(entry: Entry): Promise<void> {
    const { table, leases, apply } = this.#context;
    if (this.#others(entry).some(isNeeded)) await entry.runner?.want();
    // What they have sent is known before their states go, with numbers that nobody has used.
    const running = this.#others(entry).flatMap(({ runner }) => (runner === null ? [] : [runner]));
    await Promise.allSettled(running.map((runner) => runner.reading()));
    const others = this.#others(entry);
    const held = others.filter(({ runner }) => runner?.holdsLease === true);
    for (const other of others) {
      other.outbound = "hold";
      other.runner?.replaced();
      other.runner = null;
      table.setAlive(other, false);
      leases.retire(outboundId(other.sa));
    }
    await apply();
    await this.giveBack(held);
  }
}

/** Packets of this node are let through to the SA. */
function isNeeded({ runner }: Entry): boolean {
  return runner?.isNeeded === true;
}
