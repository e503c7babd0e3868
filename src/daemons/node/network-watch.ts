import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { watchNetwork } from "../../net/network-events.ts";
import { watchDeletedTables } from "../../net/nftables.ts";
import { NFT_PREFIX } from "./host-network.ts";

/** Changes come in bunches: the first look comes so long after the first of them. Our choice. */
const BUNCH_MS = 20;
/** And the next one no sooner than this: whoever changes the network all the time does not keep the node busy. Our choice. */
const PAUSE_MS = 1_000;
/** What could not be read or put back is tried again after this long, whether anything changes or not. Our choice. */
const RETRY_MS = 5_000;

/** What tells of changes to the host's network, until it is closed. */
export type NetworkEvents = (onChange: () => void, onFault: (error: unknown) => void) => readonly { close(): void }[];

export interface NetworkWatchContext {
  /** What is not there any more, in words. */
  readonly missing: () => Promise<readonly string[]>;
  /** Puts it back. */
  readonly restore: () => Promise<void>;
  /** The kernel's; tests have their own. */
  readonly events?: NetworkEvents;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * Has this node's part of the host's network put back when it goes: `nft flush ruleset` and `ip rule flush` are what the
 * start of a host's firewall or of its network manager may begin with, and an interface that goes down takes its routes with it.
 */
export class NetworkWatch {
  readonly #context: NetworkWatchContext;
  #open: readonly { close(): void }[] = [];
  #timer: Timer | null = null;
  #isLooking = false;
  #isDue = false;
  #isClosed = false;
  #lastFault = "";

  constructor(context: NetworkWatchContext) {
    this.#context = context;
  }

  /** From now on changes are seen. */
  start(): void {
    const { events = kernelEvents, log } = this.#context;
    const onFault = (error: unknown): void =>
      log.error("a change of the network could not be read", { reason: messageOf(error) });
    this.#open = events(() => this.#changed(), onFault);
  }

  close(): void {
    this.#isClosed = true;
    this.#timer?.cancel();
    for (const socket of this.#open) socket.close();
  }

  #changed(): void {
    this.#isDue = true;
    if (this.#timer === null && !this.#isLooking) this.#wait(BUNCH_MS);
  }

  #wait(pauseMs: number): void {
    if (this.#isClosed) return;
    this.#timer = this.#context.clock.after(pauseMs, () => {
      this.#timer = null;
      if (this.#isDue) void this.#look();
    });
  }

  async #look(): Promise<void> {
    const { missing, restore, counters, log } = this.#context;
    this.#isLooking = true;
    this.#isDue = false;
    let pauseMs = PAUSE_MS;
    try {
      const what = await missing();
      if (what.length > 0 && !this.#isClosed) {
        counters.add("network.foreignChange");
        log.warn("the host's network was changed under this node: it is put back", { missing: what });
        await restore();
      }
      this.#lastFault = "";
    } catch (error) {
      this.#failed(messageOf(error));
      this.#isDue = true;
      pauseMs = RETRY_MS;
    }
    this.#isLooking = false;
    this.#wait(pauseMs);
  }

  /** Said once, for as long as it stays so. */
  #failed(reason: string): void {
    const { counters, log } = this.#context;
    counters.add("network.restoreFailed");
    if (this.#isClosed || reason === this.#lastFault) return;
    this.#lastFault = reason;
    log.error("this node's part of the host's network could not be read or put back: it is tried again", { reason });
  }
}

const kernelEvents: NetworkEvents = (onChange, onFault) => [
  watchNetwork(onChange, onFault),
  watchDeletedTables(NFT_PREFIX, onChange, onFault),
];
