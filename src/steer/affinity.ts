/** Clients that are remembered, for each DVIPA; the one that was longest away makes room. Our choice. */
const MAX_CLIENTS = 65_536;

/**
 * Where each client's last connection went, for a while (the seeds' cluster calls it timed affinity). Made from SYNs that were
 * peeked, so anybody may have made an entry: all it can do is to send that client's next connection to a target of ours.
 */
export class Affinity {
  readonly #lastsMs: number;
  readonly #maxClients: number;
  /** In the order of their last connection. */
  readonly #clients = new Map<string, { readonly target: string; readonly untilMs: number }>();

  constructor(lastsMs: number, maxClients = MAX_CLIENTS) {
    this.#lastsMs = lastsMs;
    this.#maxClients = maxClients;
  }

  get size(): number {
    return this.#clients.size;
  }

  /** Null when it is over, or there was none. */
  of(client: string, nowMs: number): string | null {
    const known = this.#clients.get(client);
    return known === undefined || known.untilMs <= nowMs ? null : known.target;
  }

  /** The client has just been given a connection to `target`: the time begins anew. */
  set(client: string, target: string, nowMs: number): void {
    this.#clients.delete(client);
    this.#clients.set(client, { target, untilMs: nowMs + this.#lastsMs });
    for (const [name, { untilMs }] of this.#clients) {
      if (untilMs > nowMs && this.#clients.size <= this.#maxClients) break;
      this.#clients.delete(name);
    }
  }
}
