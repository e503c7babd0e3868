import type { Counters } from "../../core/counters.ts";
import type { Log } from "../../core/log.ts";
import type { SharedSa } from "../../sa/spec.ts";
import { windowRule } from "../../sequence/size.ts";

/** Says aloud when the peer's window becomes too small for the nodes that send on an SA, and when it is enough again. */
export class WindowWatch {
  readonly #sa: SharedSa;
  readonly #counters: Counters;
  readonly #log: Log;
  #isKept = true;

  constructor(sa: SharedSa, { counters, log }: { readonly counters: Counters; readonly log: Log }) {
    this.#sa = sa;
    this.#counters = counters;
    this.#log = log;
  }

  /** The nodes that hold a lease are so many now. */
  check(holders: number): void {
    const { id, peerName, peerWindowPackets } = this.#sa;
    const { kept, advice, windowPackets, leaseNumbers } = windowRule(peerWindowPackets, holders);
    if (kept === this.#isKept) return;
    this.#isKept = kept;
    const facts = { sa: id, peer: peerName, windowPackets, holders, leaseNumbers };
    if (kept) {
      this.#log.info("the peer's window carries the nodes that send again", facts);
      return;
    }
    this.#counters.add("lease.windowRuleBroken");
    this.#log.warn("the window rule cannot be kept", { ...facts, advice });
  }
}
