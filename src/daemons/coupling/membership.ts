import type { BusConnection } from "../../bus/connection.ts";
import type { Member, NoticeBody, NoticeType } from "../../bus/messages.ts";
import { EsplexError } from "../../core/errors.ts";

/** Nodes that are remembered, connected or not. */
const MAX_MEMBERS = 256;

interface Entry {
  readonly member: Omit<Member, "connected">;
  connection: BusConnection | null;
}

/** Who has said hello since the service started, and over which connection each node is reached now. */
export class Membership {
  readonly #entries = new Map<string, Entry>();

  list(): Member[] {
    return [...this.#entries.values()].map(({ member, connection }) => ({ ...member, connected: connection !== null }));
  }

  /** A node said hello. An older connection of the same node is closed first: nothing of it is handled after this. */
  join(member: Omit<Member, "connected">, connection: BusConnection): void {
    const known = this.#entries.get(member.name);
    if (known === undefined && this.#entries.size >= MAX_MEMBERS) {
      throw new EsplexError("cluster.notServing", `more than ${MAX_MEMBERS} nodes`);
    }
    if (known?.connection !== connection) known?.connection?.close("the node has a newer connection");
    this.#entries.set(member.name, { member, connection });
  }

  /** A connection has ended. False when it was not the node's current one. */
  leave(name: string, connection: BusConnection): boolean {
    const entry = this.#entries.get(name);
    if (entry?.connection !== connection) return false;
    entry.connection = null;
    return true;
  }

  /** Lost when the node is not connected: it catches up when it says hello. */
  notify<T extends NoticeType>(name: string, type: T, body: NoticeBody<T>): void {
    this.#entries.get(name)?.connection?.notify(type, body);
  }

  notifyAll<T extends NoticeType>(type: T, body: NoticeBody<T>, except: string | null = null): void {
    for (const [name, { connection }] of this.#entries) if (name !== except) connection?.notify(type, body);
  }
}
