import type { BusConnection } from "../../bus/connection.ts";
import { MAX_LISTENERS, MAX_TOLD_CONNECTIONS, type NoticeBody, type ResponseBody } from "../../bus/messages.ts";
import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import { ipVersion } from "../../core/ip.ts";
import type { Log } from "../../core/log.ts";
import type { TcpEnds, TcpListener } from "../../net/socket-diagnostics.ts";
import type { ConnectionKey } from "../../steer/connection-table.ts";
import type { SocketObserver, SocketWatch } from "./socket-watch.ts";

/** Ends of connections are told together, after this. Our choice. */
const CLOSED_MS = 50;
/** More that wait mean that telling all that is left is shorter. */
const MAX_CLOSED = 16_384;
/** Loads are told at most so often, and in so many steps. Our choice. */
const LOAD_MS = 1_000;
const LOAD_STEPS = 20;
/** After a snapshot that failed, and between two. */
const SNAPSHOT_PAUSE_MS = 5_000;

/** A DVIPA that this node serves for the distributor. */
export interface ReportedDvipa {
  readonly address: string;
  readonly ports: "ALL" | readonly number[];
}

type Listeners = NoticeBody<"listeners">;
type Link = Pick<BusConnection, "request" | "notify" | "isOpen">;

export interface SocketReporterContext {
  readonly watch: SocketWatch;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * Tells one distributor what this target's own sockets say: where applications listen, which connections there are, and the
 * end of each. Everything about the DVIPAs that it serves for this distributor, and nothing else. A connection from another port
 * of a DVIPA than those that are served has been opened here: it is told of like any other.
 */
export class SocketReporter implements SocketObserver {
  readonly #context: SocketReporterContext;
  #link: Link | null = null;
  readonly #dvipas = new Map<string, ReportedDvipa["ports"]>();
  #told: { readonly text: string; readonly ports: string; readonly atMs: number } | null = null;
  #closed = new Map<string, ConnectionKey>();
  #flush: Timer | null = null;
  #snapshot: Timer | null = null;
  /** Where a snapshot is under way. */
  #telling: Link | null = null;

  constructor(context: SocketReporterContext) {
    this.#context = context;
  }

  /** The distributor's snapshot has been applied: it is told everything on a new link, and from then on what changes. */
  begin(link: Link, dvipas: readonly ReportedDvipa[]): void {
    this.#dvipas.clear();
    for (const { address, ports } of dvipas) this.#dvipas.set(address, ports);
    if (this.#link !== link) {
      this.end();
      this.#link = link;
      void this.#tellConnections(link);
    }
    this.#context.watch.add(this);
  }

  /** The link is gone: nothing more is told on it. */
  end(): void {
    this.#context.watch.remove(this);
    this.#link = null;
    this.#told = null;
    this.#closed.clear();
    this.#flush?.cancel();
    this.#flush = null;
    this.#snapshot?.cancel();
    this.#snapshot = null;
  }

  /**
   * The answer to the distributor's question; of a DVIPA that is not its own it learns nothing. Throws `cluster.notServing` before its
   * snapshot has told which those are: a connection that the kernel has must not be called absent.
   */
  async presences(connections: readonly ConnectionKey[]): Promise<ResponseBody<"haveConnections">> {
    if (this.#link === null) throw new EsplexError("cluster.notServing", "the snapshot has not been applied yet");
    const own = connections.filter(({ dvipa }) => this.#dvipas.has(dvipa));
    const found = (await this.#context.watch.sockets.find(own.map(endsOf))).values();
    return {
      presences: connections.map(({ dvipa }) =>
        this.#dvipas.has(dvipa) ? (found.next().value ?? "absent") : "absent",
      ),
    };
  }

  onListeners(all: readonly TcpListener[], cpuLoad: number): void {
    if (this.#link === null) return;
    const { clock, counters } = this.#context;
    const loads = this.#loadsOf(all);
    if (loads.size > MAX_LISTENERS) counters.add("sockets.tooManyListeners");
    const listeners = [...loads.values()].slice(0, MAX_LISTENERS);
    const body: Listeners = { listeners, cpuLoad: stepped(cpuLoad) };
    const ports = JSON.stringify(listeners.map(({ dvipa, port }) => `${dvipa} ${port}`));
    const text = JSON.stringify(body);
    const nowMs = clock.nowMs();
    if (this.#told?.text === text) return;
    if (this.#told?.ports === ports && nowMs - this.#told.atMs < LOAD_MS) return;
    this.#told = { text, ports, atMs: nowMs };
    this.#link.notify("listeners", body);
  }

  onDestroyed(ends: TcpEnds): void {
    if (this.#link === null || !this.#dvipas.has(ends.local)) return;
    const key = keyOf(ends);
    this.#closed.set(`${key.client} ${key.clientPort} ${key.dvipa} ${key.port}`, key);
    if (this.#closed.size > MAX_CLOSED) this.onMissed();
    else this.#flush ??= this.#context.clock.after(CLOSED_MS, () => this.#tellClosed());
  }

  /** The distributor asks for what a new snapshot does not name. */
  onMissed(): void {
    this.#closed.clear();
    this.#context.counters.add("sockets.resynchronised");
    this.#tellLater();
  }

  /** One entry for each port of a DVIPA: the fullest queue when several sockets share it. */
  #loadsOf(all: readonly TcpListener[]): Map<string, Listeners["listeners"][number]> {
    const loads = new Map<string, Listeners["listeners"][number]>();
    for (const { address, port, versions, queued, queueLimit } of all) {
      for (const dvipa of this.#dvipas.keys()) {
        const takes = address === null ? versions.includes(ipVersion(dvipa)) : address === dvipa;
        if (!takes || !this.#isServed(dvipa, port)) continue;
        const name = `${dvipa} ${port}`;
        const load = stepped(Math.max(queued / Math.max(queueLimit, 1), loads.get(name)?.load ?? 0));
        loads.set(name, { dvipa, port, load });
      }
    }
    return loads;
  }

  #isServed(dvipa: string, port: number): boolean {
    const ports = this.#dvipas.get(dvipa);
    return ports !== undefined && (ports === "ALL" || ports.includes(port));
  }

  /** The ends go out behind the snapshot that may still name them, and only those that are not there again by now. */
  #tellClosed(): void {
    this.#flush = null;
    const link = this.#link;
    if (link === null || this.#telling === link) return;
    const keys = [...this.#closed.values()];
    this.#closed.clear();
    this.#context.watch.sockets.find(keys.map(endsOf)).then(
      (presences) => {
        const gone = keys.filter((_, at) => presences[at] === "absent" || presences[at] === "closing");
        for (let at = 0; at < gone.length; at += MAX_TOLD_CONNECTIONS) {
          link.notify("closed", { connections: gone.slice(at, at + MAX_TOLD_CONNECTIONS) });
        }
      },
      (error: unknown) => this.#failed(error),
    );
  }

  async #tellConnections(link: Link): Promise<void> {
    this.#telling = link;
    try {
      const all = await this.#context.watch.sockets.connections(new Set(this.#dvipas.keys()));
      const keys = all.map(keyOf);
      const parts = Math.max(1, Math.ceil(keys.length / MAX_TOLD_CONNECTIONS));
      for (let part = 0; part < parts && this.#link === link; part++) {
        const connections = keys.slice(part * MAX_TOLD_CONNECTIONS, (part + 1) * MAX_TOLD_CONNECTIONS);
        await link.request("connections", { part, last: part === parts - 1, connections });
      }
    } catch (error) {
      if (this.#link === link) this.#failed(error);
    } finally {
      if (this.#telling === link) {
        this.#telling = null;
        if (this.#closed.size > 0) this.#tellClosed();
      }
    }
  }

  #failed(error: unknown): void {
    this.#context.counters.add("sockets.unreadable");
    this.#context.log.error("the connections of this node could not be told", { reason: messageOf(error) });
    this.#tellLater();
  }

  #tellLater(): void {
    const link = this.#link;
    if (link === null) return;
    this.#snapshot ??= this.#context.clock.after(SNAPSHOT_PAUSE_MS, () => {
      this.#snapshot = null;
      void this.#tellConnections(link);
    });
  }
}

function keyOf({ local, localPort, remote, remotePort }: TcpEnds): ConnectionKey {
  return { client: remote, clientPort: remotePort, dvipa: local, port: localPort };
}

/** The connection as this host's kernel names it. */
export function endsOf({ client, clientPort, dvipa, port }: ConnectionKey): TcpEnds {
  return { local: dvipa, localPort: port, remote: client, remotePort: clientPort };
}

function stepped(load: number): number {
  return Math.min(1, Math.round(load * LOAD_STEPS) / LOAD_STEPS);
}
