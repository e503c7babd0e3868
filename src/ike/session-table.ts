import { toHex } from "../core/bytes.ts";
import type { Established, IkeSession } from "./session.ts";

/** An IKE SA that is up. */
export type EstablishedSession = IkeSession & { state: Established };

/** True when the IKE SA is up. */
export function isEstablished(session: IkeSession): session is EstablishedSession {
  return session.state.kind === "established";
}

/** All IKE SAs: by our SPI, by the IKE_SA_INIT that made them, and how many of them have not authenticated. */
export class SessionTable {
  readonly #bySpi = new Map<string, IkeSession>();
  readonly #byInit = new Map<string, IkeSession>();
  readonly #initKeys = new Map<IkeSession, string>();
  /** Sessions that never authenticated, with their source address. */
  readonly #unproven = new Map<IkeSession, string>();
  readonly #unprovenBySource = new Map<string, number>();
  readonly #closed = new Set<IkeSession>();

  get all(): Iterable<IkeSession> {
    return this.#bySpi.values();
  }

  get unproven(): number {
    return this.#unproven.size;
  }

  unprovenFrom(address: string): number {
    return this.#unprovenBySource.get(address) ?? 0;
  }

  /** By our own SPI. */
  bySpi(localSpi: Uint8Array): IkeSession | undefined {
    return this.#bySpi.get(toHex(localSpi));
  }

  /** The session that this very IKE_SA_INIT made: `key` as given to {@link addHalfOpen}. */
  byInit(key: string): IkeSession | undefined {
    return this.#byInit.get(key);
  }

  *established(): Iterable<EstablishedSession> {
    for (const session of this.#bySpi.values()) {
      if (isEstablished(session)) yield session;
    }
  }

  addHalfOpen(session: IkeSession, initKey: string): void {
    const source = session.path.remote.address;
    this.#bySpi.set(toHex(session.localSpi), session);
    this.#byInit.set(initKey, session);
    this.#initKeys.set(session, initKey);
    this.#unproven.set(session, source);
    this.#unprovenBySource.set(source, this.unprovenFrom(source) + 1);
  }

  /** One that we have asked for, or that replaces another and is authenticated by it. */
  add(session: IkeSession): void {
    this.#bySpi.set(toHex(session.localSpi), session);
  }

  /** The peer has authenticated. */
  prove(session: IkeSession): void {
    const source = this.#unproven.get(session);
    if (source === undefined) return;
    this.#unproven.delete(session);
    const left = this.unprovenFrom(source) - 1;
    if (left > 0) this.#unprovenBySource.set(source, left);
    else this.#unprovenBySource.delete(source);
  }

  /** The session only repeats its last answer now. Returns the oldest such one when there are more than `limit`. */
  close(session: IkeSession, limit: number): IkeSession | null {
    this.#closed.add(session);
    const [oldest] = this.#closed;
    return this.#closed.size > limit && oldest !== undefined ? oldest : null;
  }

  remove(session: IkeSession): void {
    this.prove(session);
    this.#closed.delete(session);
    this.#bySpi.delete(toHex(session.localSpi));
    const initKey = this.#initKeys.get(session);
    if (initKey !== undefined) this.#byInit.delete(initKey);
    this.#initKeys.delete(session);
  }
}
