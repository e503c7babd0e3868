import { randomBytes } from "node:crypto";
import type { QueueCounters } from "../../net/nfqueue.ts";
import type { BusConnection, BusHandlers } from "../../bus/connection.ts";
import type { RequestBody, ResponseBody } from "../../bus/messages.ts";
import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import type { IkeSaSummary } from "../../ike/events.ts";
import { IkeCore } from "../../ike/core.ts";
import { tunnelReqid } from "../../net/ids.ts";
import type { SharedSa } from "../../sa/spec.ts";
import { ConnectionTable } from "../../steer/connection-table.ts";
import { LeaseGate } from "../../steer/lease-gate.ts";
import { OutboundSas } from "../../steer/outbound-sas.ts";
import { InboundSas } from "../../steer/verdict.ts";
import type { CouplingLink } from "./coupling-link.ts";
import { Demands } from "./demands.ts";
import type { FilterRules } from "./filter-rules.ts";
import type { HostNetworkState } from "./host-network.ts";
import type { IkeConfiguration } from "./ike-configuration.ts";
import { IcmpErrors } from "./icmp-errors.ts";
import { IkeRunner } from "./ike-runner.ts";
import { OpenedConnections, type OpenedConnectionsContext } from "./opened-connections.ts";
import { gatewaysOf, networkOf, TargetNumbers, type OwnDvipa } from "./own-dvipas.ts";
import type { SaKeeper } from "./sa-keeper.ts";
import { ReplayWatch } from "./replay-watch.ts";
import { SaRollout } from "./sa-rollout.ts";
import { OWN_IKE } from "./sa-table.ts";
import type { ConnectionStatus, TargetStatus } from "./status.ts";
import { Steering } from "./steering.ts";
import { TargetChoice } from "./target-choice.ts";
import { TargetSockets } from "./target-sockets.ts";
import { UseBook } from "./use-book.ts";
import { isTargetOf, Targets, type DistributedDvipa } from "./targets.ts";
import type { Acquire } from "./traps.ts";

/** A node keeps its lease when packets came through for it within this time; our choice. */
const QUIET_BEFORE_PARK_MS = 250;
const EXPIRE_CONNECTIONS_MS = 1_000;

export interface DistributorContext {
  readonly nodeName: string;
  readonly dvipas: readonly OwnDvipa[];
  /** Peers and keys as they are now: asked for each negotiation. */
  readonly ike: () => IkeConfiguration;
  /** The filters of the DVIPAs as they are now. */
  readonly filters: () => FilterRules;
  readonly keeper: SaKeeper;
  readonly coupling: CouplingLink;
  /** Makes the host's network what this role needs. */
  readonly setNetwork: (wanted: HostNetworkState) => Promise<void>;
  /** Which of these connections this node's own programs have. */
  readonly ownSockets: OpenedConnectionsContext["ownSockets"];
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * The role of a node that owns DVIPAs: runs IKE for them, mirrors the SAs to the targets, and steers inbound packets.
 * It starts when the coupling service has given it the ownership epochs, and holds them as long as it lives.
 */
export class Distributor {
  readonly #context: DistributorContext;
  readonly #targets: Targets;
  readonly #gate: LeaseGate;
  readonly #ike: IkeRunner;
  readonly #demands: Demands;
  readonly #steering: Steering;
  readonly #icmpErrors: IcmpErrors;
  readonly #use: UseBook;
  readonly #inbound = new InboundSas();
  readonly #outbound = new OutboundSas();
  readonly #rollout: SaRollout;
  readonly #replay: ReplayWatch;
  readonly #connections = new ConnectionTable();
  readonly #sockets: TargetSockets;
  readonly #opened: OpenedConnections;
  readonly #choice: TargetChoice;
  readonly #epochs = new Map<string, bigint>();
  /** The DVIPA of each. */
  readonly #gateways: ReadonlyMap<string, string>;
  readonly #numbers = new TargetNumbers();
  #expire: Timer | null = null;
  #evicted = 0;

  constructor(context: DistributorContext) {
    this.#context = context;
    const { clock, counters, log, nodeName, ike, dvipas } = context;
    this.#gateways = gatewaysOf(dvipas);
    this.#use = new UseBook({
      serves: (node, { dvipa }) => node === nodeName || this.#targets.serves(node, dvipa),
      onUse: (saId, carried) => this.#ike.childUsed(saId, carried),
      ...{ clock, counters },
    });
    this.#replay = new ReplayWatch({
      sas: this.#inbound,
      isReachable: (node) => node === nodeName || this.#targets.isConnected(node),
      ask: (node, saIds) =>
        node === nodeName ? context.keeper.received(OWN_IKE, saIds) : this.#targets.received(node, saIds),
      ...{ clock, counters, log },
    });
    this.#gate = new LeaseGate((node, tunnel) => this.#wantLease(node, tunnel), counters);
    this.#sockets = new TargetSockets({
      connections: this.#connections,
      serves: (name, dvipa) => this.#targets.serves(name, dvipa),
      isDistributed: (dvipa, port) => this.#isDistributed(dvipa, port),
      enterOpened: (name, connections) => this.#opened.enter(name, connections),
      isConnected: (name) => this.#targets.isConnected(name),
      ask: (name, connections) => this.#targets.haveConnections(name, connections),
      onConnections: (name) => this.#resume(name),
      clock,
      counters,
    });
    this.#opened = new OpenedConnections({
      connections: this.#connections,
      serves: (name, dvipa) => this.#targets.serves(name, dvipa),
      sas: () => this.#rollout.all(),
      ownSockets: context.ownSockets,
      self: nodeName,
      lease: (name, tunnel) =>
        new Promise((resolve) => this.#gate.enter(name, tunnel, clock.nowMs(), (pass) => resolve(pass === "forward"))),
      clock,
      counters,
    });
    this.#choice = new TargetChoice(new Map(dvipas.map(({ address, distribution }) => [address, distribution])), {
      reachable: (dvipa) => this.#reachable(dvipa),
      loadOf: (name, dvipa, port) => this.#sockets.loadOf(name, dvipa, port),
      connectionsOf: (name) => this.#connections.openOn(name),
    });
    this.#targets = new Targets({
      dvipas: () => this.#distributed(),
      sas: () => this.#rollout.all(),
      sa: (saId) => this.#rollout.get(saId),
      filters: () => context.filters().filters(),
      onChange: () => this.#applyNetwork(),
      received: (sa) => this.#inbound.replayOf(sa)?.received() ?? null,
      onJoin: (name) => {
        this.#gate.forgetNode(name);
        this.#replay.lost(name);
      },
      onSynced: (name) => this.#resume(name),
      mayPark: (name, saId) => this.#mayPark(name, saId),
      traps: () => this.#demands.traps(),
      onAcquire: (name, acquire) => this.#demands.acquire(name, acquire),
      onOpening: (name, connection) => this.#opened.open(name, connection),
      takeUse: (name, body) => this.takeUse(name, body),
      onLeave: (name) => {
        this.#use.left(name);
        this.#replay.lost(name);
      },
      sockets: this.#sockets,
      clock,
      counters,
      log,
    });
    this.#rollout = new SaRollout({
      ...{
        keeper: context.keeper,
        coupling: context.coupling,
        targets: this.#targets,
        use: this.#use,
        gate: this.#gate,
        inbound: this.#inbound,
        outbound: this.#outbound,
      },
      epochOf: (dvipa) => this.epochOf(dvipa),
      filtered: (sa) => context.filters().applied(sa),
      onHeard: (saId) => this.#ike.childHeard(saId),
      onInstalled: (sa) => this.#demands.installed(sa),
      ...{ clock, counters, log },
    });
    const core = new IkeCore({
      randomBytes: (lengthBytes) => new Uint8Array(randomBytes(lengthBytes)),
      newSpi: () => this.#rollout.newSpi(),
      // Every SA gets the reqid of its tunnel when it is installed.
      newReqid: () => tunnelReqid(1),
      dvipas: () => dvipas.map(({ address }) => address),
      gateways: () => this.#gateways,
      peers: () => ike().peers,
      credentials: (local) => ike().credentials.get(this.#gateways.get(local) ?? local) ?? [],
      wallClockMs: () => Date.now(),
    });
    this.#ike = new IkeRunner(core, this.#rollout, clock, counters, log);
    this.#demands = new Demands({
      nodeName,
      onDemand: () => core.onDemand(),
      serves: (name, dvipa) => this.#targets.serves(name, dvipa),
      demand: (dvipa, destination) => this.#ike.command({ kind: "demand", dvipa, destination }),
      lease: (name, tunnel) => this.#gate.enter(name, tunnel, clock.nowMs(), () => {}),
      clock,
      counters,
    });
    // Without a next hop the mark would lead nowhere, and the packet into this node's own kernel.
    const targetIndex = (target: string, dvipa: string): number | null =>
      this.#targets.reaches(target, dvipa) ? this.#numbers.of(target) : null;
    this.#icmpErrors = new IcmpErrors({
      ...{ nodeName, sas: this.#outbound, connections: this.#connections, targetIndex },
      holderOf: async ({ id: sa, dvipa }, sequence) =>
        (await context.coupling.request("holderOf", { sa, dvipa, sequence })).node,
      ...{ clock, counters, log },
    });
    this.#steering = new Steering({
      nodeName,
      tables: {
        sas: this.#inbound,
        connections: this.#connections,
        isDistributed: (dvipa, port) => this.#isDistributed(dvipa, port),
        isOpenedHere: (dvipa) => context.filters().isAtDistributor(dvipa),
        chooseTarget: (connection, nowMs) => this.#choice.choose(connection, nowMs),
      },
      gate: this.#gate,
      targetIndex,
      sas: this.#rollout,
      onUnknownSpi: (esp) => this.#ike.unknownEsp(esp),
      clock,
      counters,
      log,
    });
  }

  /** True when the DVIPAs are owned and IKE answers. */
  get isServing(): boolean {
    return this.#ike.isOpen;
  }

  epochOf(dvipa: string): bigint | null {
    return this.#epochs.get(dvipa) ?? null;
  }

  /**
   * Takes the DVIPAs under new epochs and begins to serve. The coupling service must be in reach; when the start fails
   * half-way it may be called again.
   */
  async start(): Promise<void> {
    const { coupling, dvipas, keeper, log } = this.#context;
    for (const { address } of dvipas) {
      const { epoch } = await coupling.request("own", { dvipa: address });
      this.#epochs.set(address, epoch);
      log.info("owns DVIPA", { dvipa: address, epoch });
    }
    const addresses = dvipas.map(({ address }) => address);
    keeper.wantFilters(OWN_IKE, this.#context.filters().filters());
    await keeper.setDvipas(OWN_IKE, addresses, "distributor");
    await keeper.setTraps(OWN_IKE, this.#demands.traps());
    await this.#steering.start();
    await this.#icmpErrors.start();
    await this.#applyNetwork();
    await this.#ike.start([...addresses, ...this.#gateways.keys()]);
    this.initiateAll();
    this.#sockets.start();
    this.#replay.start();
    if (this.#expire === null) this.#scheduleExpiry();
  }

  /** Says goodbye to the peers, which removes the SAs everywhere, and stops serving. */
  async stop(): Promise<void> {
    this.#demands.stop();
    this.#expire?.cancel();
    this.#sockets.stop();
    this.#replay.stop();
    await this.#ike.stop();
    await this.#rollout.removeAll("the distributor stops");
    this.#targets.close();
    await this.#steering.stop();
    await this.#icmpErrors.stop();
  }

  accept(connection: BusConnection): BusHandlers | null {
    const { peer } = connection;
    if (peer.kind !== "node" || peer.name === this.#context.nodeName) return null;
    return this.#targets.accept(connection);
  }

  /** True when another holder of a DVIPA's ownership has been given a newer epoch than ours. */
  isFencedBy(dvipa: string, epoch: bigint): boolean {
    const own = this.#epochs.get(dvipa);
    return own !== undefined && epoch > own;
  }

  ikeSas(): readonly IkeSaSummary[] {
    return this.#ike.summaries();
  }

  /** Replaces an SA by an heir; false when this node's IKE does not have it. */
  rekeyChild(saId: string): boolean {
    if (this.#rollout.get(saId) === undefined) return false;
    this.#ike.command({ kind: "rekeyChild", saId });
    return true;
  }

  /** Replaces an IKE SA; false when there is none of this ID. */
  rekeyIke(ikeSaId: string): boolean {
    if (!this.ikeSas().some(({ id, state }) => id === ikeSaId && state === "established")) return false;
    this.#ike.command({ kind: "rekeyIke", ikeSaId });
    return true;
  }

  /** Agrees with the peer of an IKE SA on message IDs; false when there is none of this ID. */
  synchroniseIke(ikeSaId: string): boolean {
    if (!this.ikeSas().some(({ id, state }) => id === ikeSaId && state === "established")) return false;
    this.#ike.command({ kind: "synchroniseIke", ikeSaId });
    return true;
  }

  /** Reaches out to a peer of the cluster file; what comes of it is in `ikeSas`. */
  initiate(peerName: string, dvipa: string | null): void {
    this.#ike.command({ kind: "initiate", peerName, dvipa });
  }

  /** Reaches out to the peers that the cluster file wants at the start; those that are there are left alone. */
  initiateAll(): void {
    this.#ike.command({ kind: "initiateAll" });
  }

  /** Peers may have changed: reaches out anew, and tells every node which traffic is to bring an SA up; and what is filtered, where that is new. */
  async reload(hasNewFilters: boolean): Promise<void> {
    const { keeper, filters } = this.#context;
    this.initiateAll();
    this.#targets.updateTraps();
    await keeper.setTraps(OWN_IKE, this.#demands.traps());
    if (!hasNewFilters) return;
    for (const entry of this.#rollout.all()) entry.sa = filters().applied(entry.sa);
    keeper.wantFilters(OWN_IKE, filters().filters());
    this.#targets.sendSnapshots();
    await keeper.refilter(new Map([...this.#rollout.all()].map(({ sa }) => [sa.id, sa.filterRules])));
  }

  /** This node's own kernel needs an SA. */
  acquire(acquire: Acquire): void {
    this.#demands.acquire(this.#context.nodeName, acquire);
  }

  /** May this node park its own lease on the SA? Targets may have something to send on one that ends here at any time. */
  mayParkOwn({ reqid, gateway }: SharedSa): boolean {
    const { nodeName, clock } = this.#context;
    if (gateway !== undefined && this.#connections.size > 0) return false;
    return this.#gate.close(nodeName, reqid, clock.nowMs(), QUIET_BEFORE_PARK_MS);
  }

  /** What a node, this one or a target, has carried on the SAs; the answer is when to report again. */
  takeUse(node: string, body: RequestBody<"saUse">): ResponseBody<"saUse"> {
    return this.#use.take(node, body);
  }

  /** Whether a target gets no new connections. Forgotten when this daemon ends. */
  drain(target: string, isDraining: boolean): void {
    this.#choice.drain(target, isDraining);
    this.#context.log.info(isDraining ? "target drains" : "target drains no more", { target });
  }

  targetStatus(): TargetStatus[] {
    const names = new Set(this.#numbers.names());
    for (const { targets } of this.#context.dvipas) if (targets !== "ALL") for (const name of targets) names.add(name);
    return [...names].map((name) => ({
      name,
      connected: this.#targets.isConnected(name),
      draining: this.#choice.isDraining(name),
      listening: this.#sockets.listenersOf(name),
      connections: this.#connections.openOn(name),
    }));
  }

  /** For status: what waits in the kernel to be steered, and what it had to drop. */
  queueCounters(): QueueCounters | null {
    return this.#steering.queueCounters();
  }

  connectionStatus(): ConnectionStatus[] {
    return this.#connections.list().map(({ client, clientPort, dvipa, port, target, state }) => ({
      client,
      clientPort,
      dvipa,
      port,
      target,
      state,
    }));
  }

  /**
   * A target is back with connections that may have something to send at any time, to a client that waits in silence: it
   * gets its leases at once, or its next packet would find a parked state and kill it.
   */
  #resume(name: string): void {
    if (this.#connections.openOn(name) === 0) return;
    const { nodeName, clock } = this.#context;
    const served = [...this.#rollout.all()].filter(({ sa }) => this.#targets.serves(name, sa.dvipa));
    const senders = new Map(served.map(({ sa }) => [sa.reqid, sa.gateway === undefined ? name : nodeName]));
    for (const [tunnel, sender] of senders) this.#gate.enter(sender, tunnel, clock.nowMs(), () => {});
  }

  async #wantLease(node: string, tunnel: number): Promise<void> {
    const { nodeName, keeper } = this.#context;
    if (node === nodeName) return keeper.wantLease(tunnel);
    const saId = keeper.currentOutbound(tunnel);
    if (saId === null) throw new EsplexError("cluster.unknownSa", "the tunnel has no outbound SA");
    return this.#targets.wantLease(node, saId);
  }

  #mayPark(name: string, saId: string): boolean {
    const entry = this.#rollout.get(saId);
    if (entry === undefined) return true;
    if (this.#connections.openOn(name) > 0) return false;
    return this.#gate.close(name, entry.sa.reqid, this.#context.clock.nowMs(), QUIET_BEFORE_PARK_MS);
  }

  #isDistributed(dvipa: string, port: number): boolean {
    const own = this.#context.dvipas.find(({ address }) => address === dvipa);
    return own !== undefined && (own.ports === "ALL" || own.ports.includes(port));
  }

  #reachable(dvipa: string): string[] {
    const own = this.#context.dvipas.find(({ address }) => address === dvipa);
    if (own === undefined) return [];
    const isAvailable = (name: string): boolean =>
      isTargetOf(own, name) && this.#targets.isConnected(name) && this.#targets.reaches(name, dvipa);
    const available = this.#numbers.names().filter(isAvailable).sort();
    const synced = available.filter((name) => this.#targets.isSynced(name));
    return synced.length > 0 ? synced : available;
  }

  #distributed(): DistributedDvipa[] {
    return this.#context.dvipas.map(({ address, ports, targets }) => ({
      address,
      ports,
      targets,
      handsOver: this.#context.filters().handsOver(address),
      epoch: this.#epochs.get(address) ?? 0n,
    }));
  }

  async #applyNetwork(): Promise<void> {
    const { dvipas, filters, setNetwork } = this.#context;
    const handsOver = (dvipa: string): boolean => filters().handsOver(dvipa);
    await setNetwork(networkOf(dvipas, this.#targets.addresses(), this.#numbers, handsOver));
  }

  #scheduleExpiry(): void {
    this.#expire = this.#context.clock.after(EXPIRE_CONNECTIONS_MS, () => {
      const { clock, counters } = this.#context;
      const expired = this.#connections.expire(clock.nowMs());
      if (expired > 0) counters.add("steer.connectionsExpired", expired);
      const { evicted } = this.#connections;
      if (evicted > this.#evicted) counters.add("steer.connectionsEvicted", evicted - this.#evicted);
      this.#evicted = evicted;
      this.#scheduleExpiry();
    });
  }
}
