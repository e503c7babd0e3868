import { toHex } from "../core/bytes.ts";
import { Deadlines } from "../core/deadlines.ts";
import { localEndOf, type SharedSa } from "../sa/spec.ts";
import type { Path } from "./events.ts";
import { isNatted } from "./nat.ts";
import type { Established, IkeSession, SessionDatagram } from "./session.ts";

/** An IKE SA that is up. */
export type EstablishedSession = IkeSession & { state: Established };

/** True when the IKE SA is up. */
export function isEstablished(session: IkeSession): session is EstablishedSession {
  return session.state.kind === "established";
}

/**
 * All IKE SAs: by our SPI, by the IKE_SA_INIT that made them, by their addresses and peers, by the time at which each has something
 * to do; and how many of them have not authenticated. No event looks at all of them, only commands of an operator do, and a
 * Child SA of a peer behind a NAT.
 */
export class SessionTable {
  /** When each has something to do; kept by `timers.ts`. */
  readonly deadlines = new Deadlines<IkeSession>();
  /** An authentic request that came while the one before it is worked on; kept by `receiving.ts`. */
  readonly early = new Map<IkeSession, SessionDatagram>();
  readonly #bySpi = new Map<string, IkeSession>();
  readonly #byInit = new Map<string, IkeSession>();
  readonly #initKeys = new Map<IkeSession, string>();
  /** Sessions that never authenticated, with their source address. */
  readonly #unproven = new Map<IkeSession, string>();
  readonly #unprovenBySource = new Map<string, number>();
  readonly #closed = new Set<IkeSession>();
  readonly #byEnds = new Groups();
  readonly #byPeer = new Groups();
  readonly #byIdentity = new Groups();
  readonly #natted = new Set<IkeSession>();
  /** Where to look for the IKE SA of a Child SA, by the ID of that one. */
  readonly #endsOfSa = new Map<string, string>();
  /** Sessions that this event may have changed. */
  readonly #touched = new Set<IkeSession>();

  get all(): Iterable<IkeSession> {
    return this.#bySpi.values();
  }

  /** The session may change now: its deadline is looked at again when the event is over, and those of its relatives. */
  touch(session: IkeSession): void {
    this.#touched.add(session);
    const { state } = session;
    const relative = state.kind === "rekeyed" ? state.heir : state.kind === "established" ? state.undecided : null;
    if (relative !== null) this.#touched.add(relative);
  }

  /** The sessions that were touched, with those that are their relatives by now; forgets them. */
  takeTouched(): IkeSession[] {
    for (const session of [...this.#touched]) this.touch(session);
    const touched = [...this.#touched];
    this.#touched.clear();
    return touched;
  }

  has(session: IkeSession): boolean {
    return this.#bySpi.get(toHex(session.localSpi)) === session;
  }

  get unproven(): number {
    return this.#unproven.size;
  }

  unprovenFrom(address: string): number {
    return this.#unprovenBySource.get(address) ?? 0;
  }

  /** By our own SPI. Touches it. */
  bySpi(localSpi: Uint8Array): IkeSession | undefined {
    const session = this.#bySpi.get(toHex(localSpi));
    if (session !== undefined) this.touch(session);
    return session;
  }

  /** IKE SAs that are up between these addresses, to look at. */
  at(local: string, remote: string): EstablishedSession[] {
    return this.#byEnds.of(`${local} ${remote}`).filter(isEstablished);
  }

  /** IKE SAs that are up with this peer of the cluster file, to look at. */
  ofPeer(peerName: string): EstablishedSession[] {
    return this.#byPeer.of(peerName).filter(isEstablished);
  }

  /** Those with this identity. */
  ofIdentity(peerName: string, remoteIdentity: string): EstablishedSession[] {
    return this.#byIdentity.of(`${peerName} ${remoteIdentity}`).filter(isEstablished);
  }

  /** All that are up, or those of them that have a NAT on their way, to look at. */
  up(only: "all" | "natted"): EstablishedSession[] {
    return [...(only === "all" ? this.all : this.#natted)].filter(isEstablished);
  }

  /** IKE SAs that are up, one of which has this Child SA, or waits for its installation. Touches them: they are few. */
  aroundSa(saId: string): EstablishedSession[] {
    const found = this.#byEnds.of(this.#endsOfSa.get(saId) ?? "").filter(isEstablished);
    for (const session of found) this.touch(session);
    return found;
  }

  /** A Child SA is being installed. */
  installs(sa: SharedSa): void {
    this.#endsOfSa.set(sa.id, `${localEndOf(sa)} ${sa.peer}`);
  }

  /** A Child SA is being removed. */
  removes(saId: string): void {
    this.#endsOfSa.delete(saId);
  }

  /** The session that this very IKE_SA_INIT made: `key` as given to {@link addHalfOpen}. */
  byInit(key: string): IkeSession | undefined {
    return this.#byInit.get(key);
  }

  addHalfOpen(session: IkeSession, initKey: string): void {
    const source = session.path.remote.address;
    this.add(session);
    this.#byInit.set(initKey, session);
    this.#initKeys.set(session, initKey);
    this.#unproven.set(session, source);
    this.#unprovenBySource.set(source, this.unprovenFrom(source) + 1);
  }

  /** One that we have asked for, or that replaces another and is authenticated by it. */
  add(session: IkeSession): void {
    this.#bySpi.set(toHex(session.localSpi), session);
    this.#byEnds.add(endsOf(session.path), session);
    this.touch(session);
  }

  /** It is up: we know whom with. */
  know(session: EstablishedSession): void {
    const { peer, remoteIdentity } = session.state;
    this.#byPeer.add(peer.name, session);
    this.#byIdentity.add(`${peer.name} ${remoteIdentity}`, session);
    if (isNatted(session.nat)) this.#natted.add(session);
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
    this.#natted.delete(session);
    this.#bySpi.delete(toHex(session.localSpi));
    for (const groups of [this.#byEnds, this.#byPeer, this.#byIdentity]) groups.remove(session);
    this.deadlines.delete(session);
    this.early.delete(session);
    const initKey = this.#initKeys.get(session);
    if (initKey !== undefined) this.#byInit.delete(initKey);
    this.#initKeys.delete(session);
  }
}

/** The addresses of an IKE SA never change: a peer cannot move, only its port may. */
function endsOf({ local, remote }: Path): string {
  return `${local.address} ${remote.address}`;
}

/** Sessions in groups by a key, each in one group at most. */
class Groups {
  readonly #groups = new Map<string, Set<IkeSession>>();
  readonly #keys = new Map<IkeSession, string>();

  of(key: string): IkeSession[] {
    return [...(this.#groups.get(key) ?? [])];
  }

  add(key: string, session: IkeSession): void {
    this.remove(session);
    this.#keys.set(session, key);
    const group = this.#groups.get(key);
    if (group === undefined) this.#groups.set(key, new Set([session]));
    else group.add(session);
  }

  remove(session: IkeSession): void {
    const key = this.#keys.get(session);
    if (key === undefined) return;
    this.#keys.delete(session);
    const group = this.#groups.get(key);
    group?.delete(session);
    if (group?.size === 0) this.#groups.delete(key);
  }
}
