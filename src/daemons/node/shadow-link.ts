import { BusClient } from "../../bus/client.ts";
import type { BusConnection, BusHandlers } from "../../bus/connection.ts";
import { MAX_TRAPS, type RequestBody, type ResponseBody } from "../../bus/messages.ts";
import { digestOfSas } from "../../bus/sa-wire.ts";
import type { BusOptions } from "../../bus/server.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import type { ConnectionKey } from "../../steer/connection-table.ts";
import type { DvipaFilter } from "../../sa/filter.ts";
import type { SaKeeper } from "./sa-keeper.ts";
import type { SocketReporter } from "./socket-reporter.ts";
import type { Acquire } from "./traps.ts";

/** Time for a lease to come, asked for by the distributor, which itself waits no longer. */
const LEASE_MS = 1_000;
/** The first segment of a connection is repeated after 1 s (RFC 6298 §2.1); this one is not worth more then. */
const OPENING_MS = 1_000;
/** The distributor makes routes for a new target before it answers; a dead one is noticed by its silence. Our choice. */
const JOIN_MS = 30_000;

/** A distributor as the coupling service announces it. */
export interface ShadowedDistributor {
  readonly name: string;
  readonly address: string;
  readonly port: number;
  /** The DVIPAs that the cluster file gives it: it may speak for no other. */
  readonly distributes: readonly string[];
}

export interface ShadowLinkOptions {
  readonly bus: BusOptions;
  readonly distributor: ShadowedDistributor;
  readonly keeper: SaKeeper;
  /** This node's address on the trusted link of the IP version that the bus does not use. */
  readonly otherAddress: () => Promise<string | null>;
  /** Tells the distributor of this node's sockets. */
  readonly reporter: SocketReporter;
  /** A whole snapshot has been applied: the DVIPAs for which this node is a target of that distributor. */
  readonly onSnapshot: (dvipas: readonly ShadowDvipa[]) => Promise<void>;
  /** An SA that ends at the distributor has come or gone: resolves once there is a way back to that, or no longer. */
  readonly onReturnPath: () => Promise<void>;
}

/** A DVIPA as its distributor announces it. */
export interface ShadowDvipa {
  readonly address: string;
  readonly epoch: bigint;
  /** The distributor's address on the trusted link, when it decrypts what goes to this target, or some of it; else null. */
  readonly handedOverBy: string | null;
}

type Snapshot = RequestBody<"snapshot">;

/**
 * A target's connection to one distributor: joins, and keeps the shadow SAs as the distributor says. When the
 * connection is lost everything stays as it is, for the connections that live here; the next snapshot corrects it.
 */
export class ShadowLink {
  readonly #options: ShadowLinkOptions;
  readonly #client: BusClient;
  #parts: Snapshot[] = [];
  #trapParts: RequestBody<"traps">["traps"][] = [];
  #epochs = new Map<string, bigint>();
  #synced = false;

  constructor(options: ShadowLinkOptions) {
    this.#options = options;
    const { bus, distributor } = options;
    this.#client = new BusClient({
      ...bus,
      host: distributor.address,
      port: distributor.port,
      expect: { kind: "node", cluster: bus.cluster, name: distributor.name },
      handlers: (connection) => this.#handlers(connection),
      onOpen: async (connection) => {
        this.#parts = [];
        this.#trapParts = [];
        const shadow = options.keeper.keptFrom(distributor.name).map(({ sa }) => sa.id);
        const otherAddress = await options.otherAddress();
        await connection.request("join", { node: bus.self, shadow, otherAddress }, JOIN_MS);
      },
      onClose: (_connection, reason) => {
        this.#synced = false;
        options.reporter.end();
        bus.log.warn("the distributor is out of reach; its SAs stay as they are", {
          distributor: distributor.name,
          reason,
        });
      },
    });
  }

  /** True when the distributor's snapshot has been applied on this connection. */
  get isSynced(): boolean {
    return this.#synced;
  }

  /** Asks whether this node may give its lease back. */
  async mayPark(saId: string): Promise<boolean> {
    const { connection } = this.#client;
    if (connection === null) return false;
    const { ok } = await connection.request("leaseIdle", { sa: saId });
    return ok;
  }

  /** Reports what this node has carried; null while the distributor is out of reach. */
  async reportUse(body: RequestBody<"saUse">): Promise<ResponseBody<"saUse"> | null> {
    const { connection } = this.#client;
    return connection === null || !this.#synced ? null : connection.request("saUse", body);
  }

  /** Asks for an SA; the kernel asks again when nothing comes of it. */
  acquire(body: Acquire): void {
    this.#client.connection?.notify("acquire", body);
  }

  /** Tells of a connection that is opened here; true once its answers reach this node, which can send. */
  async openConnection(key: ConnectionKey): Promise<boolean> {
    const { connection } = this.#client;
    if (connection === null || !this.#synced) return false;
    const { ok } = await connection.request("openConnection", { connection: key }, OPENING_MS);
    return ok;
  }

  close(): void {
    this.#options.reporter.end();
    this.#client.close();
  }

  #handlers(connection: BusConnection): BusHandlers {
    const { keeper, distributor, onReturnPath } = this.#options;
    return {
      requests: {
        snapshot: (part) => this.#snapshotPart(connection, part),
        received: async ({ sas }) => ({ received: await keeper.received(distributor.name, sas) }),
        haveConnections: ({ connections }) => this.#options.reporter.presences(connections),
        saInstall: async ({ sa, epoch, outbound }) => {
          this.#checkEpoch(sa.dvipa, epoch);
          await keeper.install(distributor.name, { sa, epoch, outbound });
          if (sa.gateway !== undefined) {
            await onReturnPath();
            await keeper.openReturnPaths(distributor.name);
          }
          return {};
        },
        saUseOutbound: async ({ id }) => {
          await keeper.useOutbound(id);
          return {};
        },
        saMove: async ({ id, peerUdpPort }) => {
          await keeper.movePeer(id, peerUdpPort);
          return {};
        },
        saRemove: async ({ id }) => {
          const isReturnPath = keeper.isReturnPath(id);
          await keeper.remove(distributor.name, id);
          if (isReturnPath) await onReturnPath();
          return {};
        },
        traps: (part) => this.#trapsPart(part),
        leaseWant: ({ sa }) => this.#leaseWant(sa),
        digest: ({ digest }) => {
          const ok = digest === digestOfSas(keeper.keptFrom(distributor.name));
          if (!ok) connection.notify("resync", {});
          return { ok };
        },
      },
    };
  }

  async #snapshotPart(connection: BusConnection, part: Snapshot): Promise<Record<string, never>> {
    if (part.part === 0) this.#parts = [];
    if (part.part !== this.#parts.length) throw new EsplexError("bus.protocol", "a part of the snapshot is missing");
    this.#parts.push(part);
    if (!part.last) return {};
    const parts = this.#parts.splice(0);
    const { keeper, distributor, bus, reporter, onSnapshot } = this.#options;
    const sas = parts.flatMap((piece) => piece.sas);
    this.#checkAuthority(
      part.dvipas.map(({ address }) => address),
      sas.map(({ sa }) => sa.dvipa),
    );
    const before = this.#epochs;
    this.#epochs = new Map(part.dvipas.map(({ address, epoch }) => [address, epoch]));
    // The guard of a DVIPA stands before its address comes, and until after it went.
    await keeper.setDvipas(distributor.name, [...new Set([...before.keys(), ...this.#epochs.keys()])], "target");
    keeper.wantFilters(distributor.name, this.#filtersOf(parts));
    await keeper.replaceAll(
      distributor.name,
      sas.map(({ sa, outbound, received }) => ({ sa, outbound, received, epoch: this.#epochs.get(sa.dvipa) ?? 0n })),
    );
    await onSnapshot(
      part.dvipas.map(({ address, epoch, handsOver }) => ({
        ...{ address, epoch },
        handedOverBy: handsOver ? distributor.address : null,
      })),
    );
    await keeper.openReturnPaths(distributor.name);
    await keeper.setDvipas(distributor.name, [...this.#epochs.keys()], "target");
    this.#synced = true;
    if (connection.isOpen) reporter.begin(connection, part.dvipas);
    bus.counters.add("shadow.snapshots");
    bus.log.info("shadow SAs are those of the distributor", { distributor: distributor.name, sas: sas.length });
    return {};
  }

  /** Of the DVIPAs of the snapshot alone. */
  #filtersOf(parts: readonly Snapshot[]): Map<string, DvipaFilter> {
    const named = parts.flatMap(({ filters }) => filters ?? []).filter(({ dvipa }) => this.#epochs.has(dvipa));
    return new Map(named.map(({ dvipa, filter }) => [dvipa, filter]));
  }

  /** A distributor speaks for the DVIPAs of the cluster file alone, and SAs come with their DVIPA. */
  #checkAuthority(dvipas: readonly string[], ofSas: readonly string[]): void {
    const { name, distributes } = this.#options.distributor;
    const stranger =
      dvipas.find((dvipa) => !distributes.includes(dvipa)) ?? ofSas.find((dvipa) => !dvipas.includes(dvipa));
    if (stranger === undefined) return;
    this.#options.bus.counters.add("shadow.unauthorisedDvipa");
    throw new EsplexError("bus.unauthorised", `${name} may not speak for ${stranger}`);
  }

  /** Only the current owner's SAs are taken (C21). */
  #checkEpoch(dvipa: string, epoch: bigint): void {
    const current = this.#epochs.get(dvipa);
    if (current !== epoch)
      throw new EsplexError(
        "cluster.staleEpoch",
        `${dvipa}: epoch ${epoch.toString()}, not ${current?.toString() ?? "none"}`,
      );
  }

  async #trapsPart({ part, last, traps }: RequestBody<"traps">): Promise<Record<string, never>> {
    if (part === 0) this.#trapParts = [];
    if (part !== this.#trapParts.length) throw new EsplexError("bus.protocol", "a part of the traps is missing");
    this.#trapParts.push(traps);
    const all = this.#trapParts.flat();
    if (all.length > MAX_TRAPS) throw new EsplexError("bus.protocol", "more traps than a cluster file has peers");
    if (!last) return {};
    this.#trapParts = [];
    const dvipas = all.map(({ dvipa }) => dvipa);
    this.#checkAuthority(dvipas, []);
    await this.#options.keeper.setTraps(this.#options.distributor.name, all);
    return {};
  }

  async #leaseWant(saId: string): Promise<ResponseBody<"leaseWant">> {
    const { keeper, bus } = this.#options;
    const tunnel = keeper.tunnelOf(saId);
    if (tunnel === null) return { ok: false };
    try {
      await Promise.race([
        keeper.wantLease(tunnel),
        new Promise<void>((_resolve, reject) =>
          bus.clock.after(LEASE_MS, () => reject(new EsplexError("bus.timeout", "no lease in time"))),
        ),
      ]);
      return { ok: true };
    } catch (error) {
      bus.log.debug("no lease for the distributor", { sa: saId, reason: messageOf(error) });
      return { ok: false };
    }
  }
}
