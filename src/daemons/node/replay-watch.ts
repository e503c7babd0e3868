import { MAX_ASKED_SAS } from "../../bus/messages.ts";
import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import type { StateReceived } from "../../sa/received-numbers.ts";
import type { SharedSa } from "../../sa/spec.ts";
import type { InboundReplay } from "../../steer/inbound-replay.ts";

/** How often it is looked whom to ask. Our choice. */
const ASK_MS = 100;
/** A node is asked again after so many times what its last answers took: reading windows takes no more than that part of its time. */
const PAUSE_TIMES = 10;
/** But no later than this, however slow it was and whatever that takes: what it has not answered for is given up after 6 s. Our choice. */
const MAX_PAUSE_MS = 2_000;
/** Reports that were refused and are logged, in each second. */
const LOGS_PER_SECOND = 1;

export interface ReplayWatchContext {
  readonly sas: Iterable<{ readonly sa: SharedSa; readonly replay: InboundReplay }>;
  /** True while the node, this one or a target, can be asked. */
  readonly isReachable: (node: string) => boolean;
  /** What the node's kernel has received on the inbound states of these SAs; null for one that it does not have. */
  readonly ask: (node: string, saIds: readonly string[]) => Promise<readonly (StateReceived | null)[]>;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

interface Asked {
  isWaiting: boolean;
  /** Not before. */
  nextMs: number;
}

/**
 * Asks the nodes what their kernels have received of what was passed to them, while there is traffic, and tells the SAs' replay
 * protection (R15).
 */
export class ReplayWatch {
  readonly #context: ReplayWatchContext;
  readonly #asked = new Map<string, Asked>();
  readonly #logs = new RateLimit(LOGS_PER_SECOND);
  #timer: Timer | null = null;

  constructor(context: ReplayWatchContext) {
    this.#context = context;
  }

  /** Begins to ask. A second call does nothing. */
  start(): void {
    if (this.#timer === null) this.#schedule();
  }

  /** Asks nobody any more. */
  stop(): void {
    this.#timer?.cancel();
  }

  /** A node is out of reach, or came back: what it was passed before, it will not tell. */
  lost(node: string): void {
    const nowMs = this.#context.clock.nowMs();
    for (const { replay } of this.#context.sas) replay.abandon(node, nowMs);
  }

  #schedule(): void {
    this.#timer = this.#context.clock.after(ASK_MS, () => {
      this.#askAll();
      this.#schedule();
    });
  }

  #askAll(): void {
    const { sas, isReachable, clock } = this.#context;
    const nowMs = clock.nowMs();
    const byNode = new Map<string, Map<string, InboundReplay>>();
    for (const { sa, replay } of sas) {
      if (!replay.isBusy) continue;
      replay.giveUp(nowMs);
      replay.close(nowMs);
      for (const node of replay.toAsk()) {
        if (!isReachable(node)) {
          replay.abandon(node, nowMs);
          continue;
        }
        const ofNode = byNode.get(node) ?? new Map<string, InboundReplay>();
        byNode.set(node, ofNode.set(sa.id, replay));
      }
    }
    for (const [node, replays] of byNode) this.#askNode(node, replays);
  }

  #askNode(node: string, replays: ReadonlyMap<string, InboundReplay>): void {
    const { clock, counters, log } = this.#context;
    const asked = this.#asked.get(node) ?? { isWaiting: false, nextMs: 0 };
    this.#asked.set(node, asked);
    const startMs = clock.nowMs();
    if (asked.isWaiting || startMs < asked.nextMs) return;
    asked.isWaiting = true;
    this.#askInParts(node, [...replays])
      .catch((error: unknown) => {
        counters.add("replay.questionFailed");
        log.debug("a node did not say what it has received", { node, reason: messageOf(error) });
      })
      .finally(() => {
        asked.isWaiting = false;
        const endMs = clock.nowMs();
        asked.nextMs = endMs + Math.min(MAX_PAUSE_MS, PAUSE_TIMES * (endMs - startMs));
      });
  }

  async #askInParts(node: string, replays: readonly (readonly [string, InboundReplay])[]): Promise<void> {
    const { ask, clock } = this.#context;
    for (let at = 0; at < replays.length; at += MAX_ASKED_SAS) {
      const part = replays.slice(at, at + MAX_ASKED_SAS);
      const askedMs = clock.nowMs();
      const answers = await ask(
        node,
        part.map(([saId]) => saId),
      );
      part.forEach(([saId, replay], index) => this.#take(node, saId, replay, askedMs, answers[index] ?? null));
    }
  }

  #take(node: string, saId: string, replay: InboundReplay, askedMs: number, answer: StateReceived | null): void {
    const { clock, counters, log } = this.#context;
    const forgotten = replay.forgotten;
    // Whether the state is not there yet, or not any more: what it received, if anything, nobody can tell.
    if (answer === null) replay.abandon(node, clock.nowMs());
    else {
      const taken = replay.answered(node, askedMs, answer);
      counters.add(`replay.${taken}`);
      if (taken === "ahead" && this.#logs.take(clock.nowMs())) {
        const { highest } = answer;
        log.warn("a node says that it has received numbers that were never passed to it", { node, sa: saId, highest });
      }
    }
    if (replay.forgotten > forgotten) counters.add("replay.forgotten", replay.forgotten - forgotten);
  }
}
