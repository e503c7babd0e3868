import type { BusConnection, BusHandlers } from "../../bus/connection.ts";
import { digestOfSas } from "../../bus/sa-wire.ts";
import type { RequestBody, ResponseBody } from "../../bus/messages.ts";
import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import { ipVersion } from "../../core/ip.ts";
import type { Log } from "../../core/log.ts";
import type { ReceivedNumbers, StateReceived } from "../../sa/received-numbers.ts";
import type { DvipaFilter } from "../../sa/filter.ts";
import type { SharedSa } from "../../sa/spec.ts";
import type { ConnectionKey, Presence } from "../../steer/connection-table.ts";
import type { TargetSockets } from "./target-sockets.ts";
import { TargetFeed } from "./target-feed.ts";
import type { Trap } from "../../xfrm/shadow.ts";
import type { Acquire } from "./traps.ts";

/**
 * An answer to an SA message takes longer only from a target that is in trouble; it is then cut off and resynchronised. A switch to
 * an heir takes up to two seconds by design (`HandOver`), and messages are handled one after the other.
 */
const SA_MESSAGE_MS = 6_000;
/** A SYN waits this long for its target's lease; the client's own retransmission comes after 1 s (RFC 6298 §2.1). */
const LEASE_WANT_MS = 1_000;
/** How often the sets are compared (C10: a lost message is noticed in seconds). */
const DIGEST_MS = 3_000;
/** SAs in one part of a snapshot: with 1 kB each this stays well below a frame. */
const SNAPSHOT_PART_SAS = 256;
/** Selectors in one part of the traps: with 150 bytes each, likewise. */
const TRAPS_PART_SELECTORS = 1024;

/** An SA of a DVIPA that this node distributes. */
export interface DistributedSa {
  /** Its peer's port may change. */
  sa: SharedSa;
  readonly epoch: bigint;
  outbound: "now" | "hold";
}

/** A DVIPA as its targets are told of it. */
export interface DistributedDvipa {
  readonly address: string;
  readonly epoch: bigint;
  readonly ports: "ALL" | readonly number[];
  /** Names of nodes; `ALL`: every node but the distributor. */
  readonly targets: "ALL" | readonly string[];
  /** This node decrypts what goes to the targets, or some of it. */
  readonly handsOver: boolean;
}

/** True when `node` may be a target of `dvipa`. */
export function isTargetOf({ targets }: Pick<DistributedDvipa, "targets">, node: string): boolean {
  return targets === "ALL" || targets.includes(node);
}

export interface TargetsContext {
  readonly dvipas: () => readonly DistributedDvipa[];
  readonly sas: () => Iterable<DistributedSa>;
  /** One of them; undefined when it is gone. */
  readonly sa: (saId: string) => DistributedSa | undefined;
  /** What all nodes have authenticated of the SA; null for nothing. */
  readonly received: (sa: SharedSa) => ReceivedNumbers | null;
  /** By DVIPA. */
  readonly filters: () => ReadonlyMap<string, DvipaFilter>;
  /** A target has joined, from addresses that are new: routes change. */
  readonly onChange: () => Promise<void>;
  /** A target joined without memory of the leases that the distributor knew of. */
  readonly onJoin: (name: string) => void;
  /** The target has everything that it should. */
  readonly onSynced: (name: string) => void;
  /** May this target park its lease on the SA's tunnel? */
  readonly mayPark: (name: string, saId: string) => boolean;
  /** Traffic that is to bring an SA up, of all targets. */
  readonly traps: () => readonly Trap[];
  /** A target asks for an SA. */
  readonly onAcquire: (name: string, acquire: Acquire) => void;
  /** A target opens a connection: true once its answers reach it and it can send. */
  readonly onOpening: (name: string, connection: ConnectionKey) => Promise<boolean>;
  /** What a target has carried on the SAs. */
  readonly takeUse: (name: string, body: RequestBody<"saUse">) => ResponseBody<"saUse">;
  /** The target is out of reach. */
  readonly onLeave: (name: string) => void;
  /** Hears what targets say of their sockets. */
  readonly sockets: Pick<TargetSockets, "handlers" | "joined" | "left">;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

interface Target {
  readonly name: string;
  readonly connection: BusConnection;
  readonly feed: TargetFeed;
}

/**
 * The distributor's side of its targets: who is connected, and that each has exactly the SAs of the DVIPAs it serves
 * (R2). A target that joins gets a snapshot; then changes in order; digests are compared, a difference means a snapshot.
 */
export class Targets {
  readonly #context: TargetsContext;
  readonly #joined = new Map<string, Target>();
  /**
   * The last trusted-link addresses of each target, at most one per IP version: packets of its connections still go there
   * while its agent restarts.
   */
  readonly #addresses = new Map<string, readonly string[]>();
  /** Targets whose addresses have routes. */
  readonly #routed = new Set<string>();
  #compare: Timer | null = null;

  constructor(context: TargetsContext) {
    this.#context = context;
    this.#scheduleCompare();
  }

  /** Handlers for a connection that was accepted on the bus; null for a peer that is no target of ours. */
  accept(connection: BusConnection): BusHandlers | null {
    const { peer } = connection;
    if (peer.kind !== "node") return null;
    const { name } = peer;
    const sockets = this.#context.sockets.handlers(name, () => this.#joined.get(name)?.connection === connection);
    void connection.closed.then((reason) => this.#left(name, connection, reason));
    return {
      requests: {
        ...sockets.requests,
        join: (body) => this.#join(name, connection, body),
        saUse: (body) => this.#takeUse(name, connection, body),
        leaseIdle: ({ sa }) => ({ ok: this.#context.mayPark(name, sa) }),
        openConnection: async (body) => {
          const isCurrent = this.#joined.get(name)?.connection === connection;
          return { ok: isCurrent && (await this.#context.onOpening(name, body.connection)) };
        },
      },
      notices: {
        ...sockets.notices,
        resync: () => {
          const target = this.#joined.get(name);
          if (target?.connection === connection) this.#tellAll(target);
        },
        acquire: (body) => {
          if (this.#joined.get(name)?.connection === connection) this.#context.onAcquire(name, body);
        },
      },
    };
  }

  isConnected(name: string): boolean {
    return this.#joined.has(name);
  }

  /** False while the target is being told everything: the newest SAs may be missing there. */
  isSynced(name: string): boolean {
    return this.#joined.get(name)?.feed.isSynced === true;
  }

  /** True when packets to the DVIPA can be sent on to the target: both have the IP version on the trusted link. */
  reaches(name: string, dvipa: string): boolean {
    return this.#addresses.get(name)?.some((address) => ipVersion(address) === ipVersion(dvipa)) ?? false;
  }

  /** Every target seen since the start, with its addresses on the trusted link, in the order of their first join. */
  addresses(): readonly { readonly name: string; readonly addresses: readonly string[] }[] {
    return [...this.#addresses].map(([name, addresses]) => ({ name, addresses }));
  }

  /**
   * Resolves once every connected target of the DVIPA has the SA, but for those that are still being told everything; a target that
   * fails is cut off and will resynchronise.
   */
  async install({ sa: { id, dvipa } }: DistributedSa): Promise<void> {
    await this.#toTargetsOf(dvipa, async (connection) => {
      // It may be gone, with its keys, when a target's turn comes.
      const entry = this.#context.sa(id);
      if (entry === undefined) return;
      const { sa, epoch, outbound } = entry;
      await connection.request("saInstall", { sa, epoch, outbound }, SA_MESSAGE_MS);
    });
  }

  async useOutbound(sa: SharedSa): Promise<void> {
    await this.#toTargetsOf(sa.dvipa, (connection) =>
      connection.request("saUseOutbound", { id: sa.id }, SA_MESSAGE_MS),
    );
  }

  async movePeer({ id, dvipa, peerUdpPort }: SharedSa): Promise<void> {
    if (peerUdpPort === null) return;
    await this.#toTargetsOf(dvipa, (connection) => connection.request("saMove", { id, peerUdpPort }, SA_MESSAGE_MS));
  }

  async remove(sa: SharedSa): Promise<void> {
    await this.#toTargetsOf(sa.dvipa, (connection) => connection.request("saRemove", { id: sa.id }, SA_MESSAGE_MS));
  }

  /** What traffic may bring up has changed. */
  updateTraps(): void {
    for (const target of this.#joined.values()) this.#sendTraps(target);
  }

  /** In parts; a failure ends the connection, and the next one tries again. */
  #sendTraps({ name, connection }: Target): void {
    const parts = inParts(this.#context.traps().filter(({ dvipa }) => this.serves(name, dvipa)));
    for (const [part, traps] of parts.entries()) {
      const body = traps.map(({ dvipa, peer, mode, local, remote }) => {
        return { dvipa, peer, mode, local: [...local], remote: [...remote] };
      });
      connection
        .request("traps", { part, last: part === parts.length - 1, traps: body })
        .catch((error: unknown) => connection.close(`traps failed: ${messageOf(error)}`));
    }
  }

  /** Resolves once the target's kernel holds a lease on the SA. */
  async wantLease(name: string, saId: string): Promise<void> {
    const target = this.#joined.get(name);
    if (target === undefined) throw new EsplexError("bus.closed", `target ${name} is not connected`);
    const { ok } = await target.connection.request("leaseWant", { sa: saId }, LEASE_WANT_MS);
    if (!ok) throw new EsplexError("cluster.notServing", `target ${name} got no lease`);
  }

  /** Which of these connections the target has, one answer for each. */
  async haveConnections(name: string, connections: readonly ConnectionKey[]): Promise<readonly Presence[]> {
    const target = this.#joined.get(name);
    if (target === undefined) throw new EsplexError("bus.closed", `target ${name} is not connected`);
    const { presences } = await target.connection.request("haveConnections", { connections: [...connections] });
    return presences;
  }

  /** What the target's kernel has received on these SAs, one answer for each. */
  async received(name: string, saIds: readonly string[]): Promise<readonly (StateReceived | null)[]> {
    const target = this.#joined.get(name);
    if (target === undefined) throw new EsplexError("bus.closed", `target ${name} is not connected`);
    return (await target.connection.request("received", { sas: [...saIds] })).received;
  }

  /** Tells every connected target everything anew: what SAs do not show has changed. */
  sendSnapshots(): void {
    for (const target of this.#joined.values()) this.#tellAll(target);
  }

  close(): void {
    this.#compare?.cancel();
    for (const { connection } of this.#joined.values()) connection.close("the distributor stops");
  }

  async #join(name: string, connection: BusConnection, body: RequestBody<"join">): Promise<Record<string, never>> {
    const { counters, log, onJoin, onChange } = this.#context;
    if (body.node !== name) {
      counters.add("bus.joinRefused");
      throw new EsplexError("bus.unauthorised", `the certificate names ${name}, the join says ${body.node}`);
    }
    const address = connection.remoteAddress;
    const { otherAddress } = body;
    if (otherAddress !== null && ipVersion(otherAddress) === ipVersion(address)) {
      throw new EsplexError("bus.protocol", `${name} joins from ${address} and names ${otherAddress} besides`);
    }
    const before = this.#joined.get(name);
    before?.connection.close("replaced by a newer connection");
    const feed = new TargetFeed({
      connection,
      parts: () => this.#snapshotFor(name),
      onSynced: () => this.#context.onSynced(name),
      clock: this.#context.clock,
    });
    const target = { name, connection, feed };
    this.#joined.set(name, target);
    const addresses = otherAddress === null ? [address] : [address, otherAddress];
    if (this.#addresses.get(name)?.join() !== addresses.join()) this.#routed.delete(name);
    this.#addresses.set(name, addresses);
    this.#context.sockets.joined(name);
    onJoin(name);
    log.info("target joined", { target: name, address, otherAddress, shadowSas: body.shadow.length });
    this.#warnOfUnreachable(name);
    if (!this.#routed.has(name)) {
      await onChange();
      this.#routed.add(name);
    }
    // Ahead of the snapshot: with that the target removes what nobody has spoken of.
    this.#sendTraps(target);
    this.#tellAll(target);
    return {};
  }

  /** Reports of a connection that a newer one has replaced are out of order: the newer one says more. */
  #takeUse(name: string, connection: BusConnection, body: RequestBody<"saUse">): ResponseBody<"saUse"> {
    if (this.#joined.get(name)?.connection === connection) return this.#context.takeUse(name, body);
    this.#context.counters.add("use.lateReport", body.sas.length);
    return { shares: [] };
  }

  #warnOfUnreachable(name: string): void {
    for (const { address } of this.#context.dvipas()) {
      if (!this.serves(name, address) || this.reaches(name, address)) continue;
      this.#context.counters.add("targets.unreachable");
      this.#context.log.warn(
        `the target has no IPv${ipVersion(address)} address on the trusted link: it gets no connections of this DVIPA`,
        { target: name, dvipa: address },
      );
    }
  }

  #left(name: string, connection: BusConnection, reason: string): void {
    if (this.#joined.get(name)?.connection !== connection) return;
    this.#joined.delete(name);
    this.#context.onLeave(name);
    this.#context.sockets.left(name);
    this.#context.log.warn("target left; it gets no new connections", { target: name, reason });
  }

  /** True when `name` may be a target of the DVIPA. */
  serves(name: string, dvipa: string): boolean {
    return this.#context.dvipas().some((entry) => entry.address === dvipa && isTargetOf(entry, name));
  }

  #sasOf(name: string): DistributedSa[] {
    return [...this.#context.sas()].filter(({ sa }) => this.serves(name, sa.dvipa));
  }

  #tellAll({ feed }: Target): void {
    this.#context.counters.add("targets.snapshots");
    feed.tellAll();
  }

  /** Everything that this target should have, in parts. What comes to be after the first of them comes as a change. */
  *#snapshotFor(name: string): Generator<RequestBody<"snapshot">> {
    const { received } = this.#context;
    const ids = this.#sasOf(name).map(({ sa }) => sa.id);
    const dvipas = this.#context
      .dvipas()
      .filter((entry) => isTargetOf(entry, name))
      .map(({ address, epoch, ports, handsOver }) => {
        return { address, epoch, ports: ports === "ALL" ? ports : [...ports], handsOver };
      });
    const filters = this.#filtersOf(name);
    const parts = Math.max(1, Math.ceil(ids.length / SNAPSHOT_PART_SAS));
    for (let part = 0; part < parts; part++) {
      const sas = ids.slice(part * SNAPSHOT_PART_SAS, (part + 1) * SNAPSHOT_PART_SAS).flatMap((id) => {
        const entry = this.#context.sa(id);
        return entry === undefined ? [] : [{ sa: entry.sa, outbound: entry.outbound, received: received(entry.sa) }];
      });
      yield { part, last: part === parts - 1, dvipas, sas, filters: part === 0 ? filters : [] };
    }
  }

  #filtersOf(name: string): { dvipa: string; filter: DvipaFilter }[] {
    const filters = [...this.#context.filters()].filter(([dvipa]) => this.serves(name, dvipa));
    return filters.map(([dvipa, filter]) => ({ dvipa, filter }));
  }

  async #toTargetsOf(dvipa: string, send: (connection: BusConnection) => Promise<unknown>): Promise<void> {
    const targets = [...this.#joined.values()].filter(({ name }) => this.serves(name, dvipa));
    await Promise.all(
      targets.map(({ name, connection, feed }) =>
        feed
          .deliver(() => send(connection))
          .catch((error: unknown) => {
            this.#context.counters.add("targets.saMessageFailed");
            this.#context.log.warn("a target did not take an SA message; it is cut off to resynchronise", {
              target: name,
              reason: messageOf(error),
            });
            connection.close("an SA message failed");
          }),
      ),
    );
  }

  #scheduleCompare(): void {
    this.#compare = this.#context.clock.after(DIGEST_MS, () => {
      for (const target of this.#joined.values()) this.#compareWith(target);
      this.#scheduleCompare();
    });
  }

  #compareWith({ name, connection, feed }: Target): void {
    if (!feed.isSynced) return;
    connection.request("digest", { digest: digestOfSas(this.#sasOf(name)) }).then(
      ({ ok }) => {
        if (!ok) this.#context.counters.add("targets.digestDiffers");
      },
      () => {}, // the connection tells by itself when it is dead
    );
  }
}

/** At least one part, with at least one trap in each but the only one. */
function inParts(traps: readonly Trap[]): readonly (readonly Trap[])[] {
  const parts: Trap[][] = [[]];
  let selectors = 0;
  for (const trap of traps) {
    const own = trap.local.length + trap.remote.length;
    if (selectors > 0 && selectors + own > TRAPS_PART_SELECTORS) {
      parts.push([]);
      selectors = 0;
    }
    parts.at(-1)?.push(trap);
    selectors += own;
  }
  return parts;
}
