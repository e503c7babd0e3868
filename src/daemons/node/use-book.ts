import type { RequestBody, ResponseBody } from "../../bus/messages.ts";
import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import type { SharedSa } from "../../sa/spec.ts";
import { SaUse, shareOf } from "../../sa/use.ts";

/** Reports that one node may send in a second: each of its SAs every 100 ms, 256 to a message, for some 1,000 SAs. Our choice. */
const REPORTS_PER_SECOND = 50;

export interface UseBookContext {
  /** True when this node has the SA from us. */
  readonly serves: (node: string, sa: SharedSa) => boolean;
  /** The sum of an SA has grown. */
  readonly onUse: (saId: string, carried: { readonly bytes: bigint; readonly packets: bigint }) => void;
  readonly clock: Clock;
  readonly counters: Counters;
}

/** The distributor's account of what all nodes together carry on each SA that has a lifesize (R19, R21). */
export class UseBook {
  readonly #context: UseBookContext;
  readonly #sas = new Map<string, { readonly sa: SharedSa; readonly use: SaUse }>();
  readonly #rates = new Map<string, RateLimit>();

  constructor(context: UseBookContext) {
    this.#context = context;
  }

  add(sa: SharedSa): void {
    if (sa.lifesize !== undefined) this.#sas.set(sa.id, { sa, use: new SaUse() });
  }

  remove(saId: string): void {
    this.#sas.delete(saId);
  }

  /** Takes a node's report; an SA that is gone, or is not the node's, has no share in the answer. */
  take(node: string, { process, round, sas }: RequestBody<"saUse">): ResponseBody<"saUse"> {
    const { serves, onUse, clock, counters } = this.#context;
    const shares: ResponseBody<"saUse">["shares"] = [];
    const rate = this.#rates.get(node) ?? new RateLimit(REPORTS_PER_SECOND);
    this.#rates.set(node, rate);
    if (!rate.take(clock.nowMs())) {
      counters.add("use.tooManyReports");
      return { shares };
    }
    for (const { sa: saId, ...report } of sas) {
      const known = this.#sas.get(saId);
      if (known?.sa.lifesize === undefined || !serves(node, known.sa)) {
        counters.add("use.unknownSa");
        continue;
      }
      const { sa, use } = known;
      if (!use.take(node, { process, round, ...report })) counters.add("use.lateReport");
      shares.push({ sa: saId, ...shareOf(known.sa.lifesize, use.carried, use.nodes) });
      onUse(sa.id, use.carried);
    }
    return { shares };
  }

  /** The node is out of reach: what it has not reported counts as used. */
  left(node: string): void {
    for (const { sa, use } of this.#sas.values()) {
      const before = use.carried;
      use.left(node);
      const { carried } = use;
      if (carried.bytes > before.bytes || carried.packets > before.packets) this.#context.onUse(sa.id, carried);
    }
  }
}
