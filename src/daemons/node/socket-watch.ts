import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import type { DestroyedOptions, TcpEnds, TcpListener } from "../../net/socket-diagnostics.ts";
import { openKernelSockets, type HostSockets } from "./kernel-sockets.ts";

/**
 * How often the listening sockets are listed: the kernel does not tell when a program begins to listen (it does tell the end).
 * Our choice; what it costs is in `docs/operations.md`.
 */
const POLL_MS = 250;
/** How often the CPU's load is read, with every so-manieth poll. */
const POLLS_A_LOAD = 4;

/** Who wants to know of this node's TCP sockets. */
export interface SocketObserver {
  /** All that listen, at each look; `cpuLoad` is a second old at most. */
  onListeners(listeners: readonly TcpListener[], cpuLoad: number): void;
  onDestroyed(ends: TcpEnds): void;
  /** Ends were missed. */
  onMissed(): void;
}

export interface SocketWatchContext {
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
  readonly open?: (onDestroyed: DestroyedOptions) => HostSockets;
}

/**
 * Watches the TCP sockets of this host for those who report them to distributors: one for the node, opened with the first
 * observer, so that a node that is no target pays nothing.
 */
export class SocketWatch {
  readonly #context: SocketWatchContext;
  readonly #observers = new Set<SocketObserver>();
  #sockets: HostSockets | null = null;
  #timer: Timer | null = null;
  #looking = false;
  #lookAgain = false;
  #looks = 0;
  #cpuLoad = 0;
  #isUnreadable = false;
  #isClosed = false;

  constructor(context: SocketWatchContext) {
    this.#context = context;
  }

  /** From now on it hears of everything; a second call makes it hear of the listeners at once. */
  add(observer: SocketObserver): void {
    this.#observers.add(observer);
    this.#look();
  }

  remove(observer: SocketObserver): void {
    this.#observers.delete(observer);
  }

  /** The sockets, for questions. Throws `kernel.refused` where the kernel cannot answer them. */
  get sockets(): HostSockets {
    this.#sockets ??= (this.#context.open ?? openKernelSockets)({
      onConnection: (ends) => {
        for (const observer of this.#observers) observer.onDestroyed(ends);
      },
      onOther: () => this.#look(),
      onOverrun: () => {
        this.#context.counters.add("sockets.eventsLost");
        for (const observer of this.#observers) observer.onMissed();
      },
      onFault: (error) => this.#context.log.error("a socket's end could not be handled", { reason: messageOf(error) }),
    });
    return this.#sockets;
  }

  close(): void {
    this.#isClosed = true;
    this.#timer?.cancel();
    this.#observers.clear();
    this.#sockets?.close();
  }

  /** One look at a time; who asks meanwhile gets one more. */
  #look(): void {
    if (this.#isClosed) return;
    if (this.#looking) {
      this.#lookAgain = true;
      return;
    }
    this.#looking = true;
    this.#timer?.cancel();
    this.#lookNow()
      .then(
        () => (this.#isUnreadable = false),
        (error: unknown) => this.#failed(error),
      )
      .finally(() => {
        this.#looking = false;
        const isDue = this.#lookAgain;
        this.#lookAgain = false;
        if (isDue) this.#look();
        else this.#schedule();
      });
  }

  /** Said once, until it works again. */
  #failed(error: unknown): void {
    const { counters, log } = this.#context;
    counters.add("sockets.unreadable");
    if (!this.#isUnreadable) {
      log.error("the listening sockets cannot be read: this node gets no connections", { reason: messageOf(error) });
    }
    this.#isUnreadable = true;
  }

  async #lookNow(): Promise<void> {
    const { sockets } = this;
    const listeners = await sockets.listeners();
    if (this.#looks++ % POLLS_A_LOAD === 0) this.#cpuLoad = sockets.cpuLoad();
    for (const observer of this.#observers) observer.onListeners(listeners, this.#cpuLoad);
  }

  #schedule(): void {
    if (this.#isClosed || this.#observers.size === 0) return;
    this.#timer = this.#context.clock.after(POLL_MS, () => this.#look());
  }
}
