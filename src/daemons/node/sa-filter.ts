import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import { watchDeletedTables } from "../../net/nftables.ts";
import type { SharedSa } from "../../sa/spec.ts";
import { FilterLog } from "./filter-log.ts";
import { FILTER_TABLE_PREFIX } from "./filter-ruleset.ts";
import { PacketFilter } from "./packet-filter.ts";

export interface SaFilterContext {
  /** All that this node has. */
  readonly sas: () => Iterable<SharedSa>;
  /** Another program has removed a table of ours: everything passes until it is put back. */
  readonly onTableGone: () => void;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/** The filter of what comes through SAs: its rules in the kernel, their log, and an eye on its tables. */
export class SaFilter {
  readonly rules: PacketFilter;
  readonly #context: SaFilterContext;
  readonly #packetLog: FilterLog;
  #tableWatch: NetlinkSocket | null = null;

  constructor(context: SaFilterContext) {
    this.#context = context;
    this.rules = new PacketFilter(context);
    const { sas, ...rest } = context;
    this.#packetLog = new FilterLog({ ...rest, sas, filterOf: (dvipa) => this.rules.filterOf(dvipa) });
  }

  /** Before the kernel gets a state: what comes through it is filtered from its first packet on. */
  async cover(options: Parameters<PacketFilter["cover"]>[1]): Promise<void> {
    const { sas, onTableGone, log } = this.#context;
    if (this.rules.isNeeded) {
      this.#tableWatch ??= watchDeletedTables(FILTER_TABLE_PREFIX, onTableGone, (error) =>
        log.error("an nftables event could not be handled", { reason: messageOf(error) }),
      );
      await this.#packetLog.open();
    } else this.#packetLog.close();
    await this.rules.cover(sas(), options);
  }

  /** Leaves nothing in the kernel. */
  async clear(): Promise<void> {
    this.#packetLog.close();
    this.#tableWatch?.close();
    await this.rules.clear();
  }
}
