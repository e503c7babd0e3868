import type { BusHandlers } from "../../bus/connection.ts";
import { MAX_ASKED_CONNECTIONS, type NoticeBody, type RequestBody } from "../../bus/messages.ts";
import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError } from "../../core/errors.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import type { Connection, ConnectionKey, ConnectionTable, Presence } from "../../steer/connection-table.ts";

/** How often it is looked whom to ask for what; our choice. */
const ASK_MS = 100;
/** Questions in one look, over all targets. */
const MAX_QUESTIONS = 4_096;
/** Questions' messages that wait for one target's answer. */
const MAX_UNANSWERED = 8;
/** Reports of one target in a second; it looks four times. */
const REPORTS_PER_SECOND = 20;
/** Connections that one snapshot may name: as many as the table has room for. */
const MAX_SNAPSHOT = 65_536;

export interface TargetSocketsContext {
  readonly connections: ConnectionTable;
  readonly serves: (target: string, dvipa: string) => boolean;
  /** True when connections to this port of the DVIPA are distributed. From any other port they are a target's that opened them. */
  readonly isDistributed: (dvipa: string, port: number) => boolean;
  /** Enters connections that the target has opened; one answer for each. */
  readonly enterOpened: (target: string, connections: readonly ConnectionKey[]) => Promise<readonly boolean[]>;
  readonly isConnected: (target: string) => boolean;
  readonly ask: (target: string, connections: readonly ConnectionKey[]) => Promise<readonly Presence[]>;
  /** The target has told of all its connections. */
  readonly onConnections: (target: string) => void;
  readonly clock: Clock;
  readonly counters: Counters;
}

/** What is known of one target since it joined. */
interface Told {
  /** Fill of the accept queue by `DVIPA PORT`. */
  readonly listeners: Map<string, number>;
  cpuLoad: number;
  readonly reports: RateLimit;
  unanswered: number;
  snapshot: { parts: number; connections: number; sinceMs: number };
}

/**
 * What targets say of their own sockets: who listens where, and which connections are there. A target is believed about the
 * DVIPAs that it serves and about its own connections, never about another's; everything else is counted and left out.
 */
export class TargetSockets {
  readonly #context: TargetSocketsContext;
  readonly #told = new Map<string, Told>();
  #timer: Timer | null = null;

  constructor(context: TargetSocketsContext) {
    this.#context = context;
  }

  /** Begins to ask. A second call does nothing. */
  start(): void {
    if (this.#timer === null) this.#schedule();
  }

  stop(): void {
    this.#timer?.cancel();
  }

  /** A target that joins has told nothing yet. */
  joined(target: string): void {
    const snapshot = { parts: 0, connections: 0, sinceMs: 0 };
    const reports = new RateLimit(REPORTS_PER_SECOND);
    this.#told.set(target, { listeners: new Map(), cpuLoad: 0, reports, unanswered: 0, snapshot });
  }

  left(target: string): void {
    this.#told.delete(target);
  }

  /** The target's load for this port, 0 to 1; null when nothing listens there. */
  loadOf(target: string, dvipa: string, port: number): number | null {
    const told = this.#told.get(target);
    const queue = told?.listeners.get(`${dvipa} ${port}`);
    return told === undefined || queue === undefined ? null : Math.max(told.cpuLoad, queue);
  }

  /** For status. */
  listenersOf(target: string): { readonly dvipa: string; readonly port: number }[] {
    const names = [...(this.#told.get(target)?.listeners.keys() ?? [])];
    return names.map((name) => {
      const [dvipa = "", port = ""] = name.split(" ");
      return { dvipa, port: Number(port) };
    });
  }

  /** Handlers for the messages of one connection; `isCurrent` is false for one that has been replaced or not joined. */
  handlers(target: string, isCurrent: () => boolean): Required<BusHandlers> {
    return {
      requests: {
        connections: async (body) => {
          if (!isCurrent()) throw new EsplexError("bus.protocol", `${target} has not joined on this connection`);
          await this.#connections(target, body);
          return {};
        },
      },
      notices: {
        listeners: (body) => {
          if (isCurrent()) this.#listeners(target, body);
        },
        closed: ({ connections }) => {
          if (isCurrent()) this.#closed(target, connections);
        },
      },
    };
  }

  #listeners(target: string, { listeners, cpuLoad }: NoticeBody<"listeners">): void {
    const { clock, counters } = this.#context;
    const told = this.#told.get(target);
    if (told === undefined) return;
    if (!told.reports.take(clock.nowMs())) {
      counters.add("targets.reportsTooOften");
      return;
    }
    told.cpuLoad = cpuLoad;
    told.listeners.clear();
    for (const { dvipa, port, load } of listeners) {
      if (this.#mayTell(target, dvipa, port)) told.listeners.set(`${dvipa} ${port}`, load);
    }
  }

  #closed(target: string, connections: readonly ConnectionKey[]): void {
    const { connections: table, clock, counters } = this.#context;
    for (const key of connections) {
      if (!this.#mayTell(target, key.dvipa)) continue;
      if (table.closed(key, target, clock.nowMs())) counters.add("steer.connectionsClosed");
    }
  }

  async #connections(target: string, { part, last, connections }: RequestBody<"connections">): Promise<void> {
    const { connections: table, isDistributed, enterOpened, clock, counters, onConnections } = this.#context;
    const snapshot = this.#told.get(target)?.snapshot;
    if (snapshot === undefined) return;
    const nowMs = clock.nowMs();
    if (part === 0) Object.assign(snapshot, { parts: 0, connections: 0, sinceMs: nowMs });
    if (part !== snapshot.parts) throw new EsplexError("bus.protocol", "a part of the connections is missing");
    snapshot.parts += 1;
    snapshot.connections += connections.length;
    if (snapshot.connections > MAX_SNAPSHOT) throw new EsplexError("bus.protocol", "more connections than a table has");
    const told = (isTaken: boolean): void =>
      counters.add(isTaken ? "steer.connectionsReported" : "targets.connectionRefused");
    const opened: ConnectionKey[] = [];
    for (const key of connections) {
      if (!this.#mayTell(target, key.dvipa)) continue;
      if (isDistributed(key.dvipa, key.port)) told(table.reported(key, target, nowMs));
      else opened.push(key);
    }
    for (const isTaken of await enterOpened(target, opened)) told(isTaken);
    // A newer connection may have begun to tell meanwhile.
    if (!last || this.#told.get(target)?.snapshot !== snapshot) return;
    table.recheck(target, snapshot.sinceMs, clock.nowMs());
    onConnections(target);
  }

  /** `port`: where an application listens. */
  #mayTell(target: string, dvipa: string, port: number | null = null): boolean {
    const { serves, isDistributed } = this.#context;
    if (serves(target, dvipa) && (port === null || isDistributed(dvipa, port))) return true;
    this.#context.counters.add("targets.reportRefused");
    return false;
  }

  #schedule(): void {
    this.#timer = this.#context.clock.after(ASK_MS, () => {
      this.#askAll();
      this.#schedule();
    });
  }

  /** What cannot be asked now comes again by itself. */
  #askAll(): void {
    const { connections, clock, isConnected } = this.#context;
    const byTarget = new Map<string, Connection[]>();
    for (const connection of connections.questions(clock.nowMs(), MAX_QUESTIONS)) {
      const list = byTarget.get(connection.target);
      if (list === undefined) byTarget.set(connection.target, [connection]);
      else list.push(connection);
    }
    for (const [target, list] of byTarget) {
      if (!isConnected(target)) continue;
      for (let at = 0; at < list.length; at += MAX_ASKED_CONNECTIONS) {
        this.#ask(target, list.slice(at, at + MAX_ASKED_CONNECTIONS));
      }
    }
  }

  #ask(target: string, asked: readonly Connection[]): void {
    const { connections, ask, clock, counters } = this.#context;
    const told = this.#told.get(target);
    if (told === undefined || told.unanswered >= MAX_UNANSWERED) return;
    told.unanswered += 1;
    const askedMs = clock.nowMs();
    const keys = asked.map(({ client, clientPort, dvipa, port }) => ({ client, clientPort, dvipa, port }));
    ask(target, keys)
      .then((presences) => {
        if (presences.length !== keys.length) throw new EsplexError("bus.protocol", "not one answer for each question");
        keys.forEach((key, at) => {
          const presence = presences[at] ?? "halfOpen";
          connections.answered(key, { target, presence, askedMs }, clock.nowMs());
        });
      })
      .catch(() => counters.add("targets.questionFailed"))
      .finally(() => (told.unanswered -= 1));
  }
}
