import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Member, RequestBody, ResponseBody } from "../../bus/messages.ts";
import { loadCredentials } from "../../bus/credentials.ts";
import { listenBus, type BusOptions, type BusServer } from "../../bus/server.ts";
import type { ClusterConfig } from "../../config/cluster-schema.ts";
import { readClusterFile } from "../../config/cluster-file.ts";
import { systemClock } from "../../core/clock.ts";
import { runUntilSignal, type Part } from "../parts.ts";
import { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import { createLog, type Log, type LogLevel } from "../../core/log.ts";
import { listAddresses } from "../../net/addresses.ts";
import { NETLINK_ROUTE, NetlinkSocket } from "../../net/netlink-socket.ts";
import type { SharedSa } from "../../sa/spec.ts";
import type { ConnectionKey } from "../../steer/connection-table.ts";
import { readXfrmStatistics } from "../../xfrm/statistics.ts";
import { serveControl, type ControlArguments, type ControlHandlers, type ControlServer } from "../control.ts";
import { CouplingLink } from "./coupling-link.ts";
import { Distributor } from "./distributor.ts";
import { drainControls } from "./drain-controls.ts";
import { explainDrops, type Drop } from "./drops.ts";
import { ikeControls } from "./ike-controls.ts";
import type { FilterRules } from "./filter-rules.ts";
import { HostNetwork, NO_NETWORK_STATE, type HostDvipa, type HostNetworkState } from "./host-network.ts";
import { loadIkeConfiguration, type IkeConfiguration } from "./ike-configuration.ts";
import { probeKernel, withoutSuites } from "./kernel-suites.ts";
import { NetworkWatch } from "./network-watch.ts";
import { Openings } from "./openings.ts";
import { ownDvipas, ownFilters, requireSamePlaces, type OwnDvipa } from "./own-dvipas.ts";
import type { ReturnPath } from "./return-ways.ts";
import { SaKeeper } from "./sa-keeper.ts";
import { OWN_IKE, type SaSource } from "./sa-table.ts";
import { endsOf, SocketReporter } from "./socket-reporter.ts";
import { SocketWatch } from "./socket-watch.ts";
import { ShadowLink, type ShadowDvipa } from "./shadow-link.ts";
import type { DvipaStatus, NodeStatus } from "./status.ts";
import { addressTowards } from "./trusted-address.ts";
import { otherAddressOnLink, requireNextHops } from "./trusted-link.ts";

/** What a node is started with: its name, where the cluster is, and its key pair. */
export interface NodeOptions {
  readonly name: string;
  readonly clusterFile: string;
  readonly certificate: string;
  readonly key: string;
  readonly ca: string;
  /** Directory for the control socket and what must outlive a crash; on a file system that a reboot clears. */
  readonly run: string;
  readonly logLevel: LogLevel;
}

/** Runs a node until SIGTERM. Rejects with `config.*` and `kernel.*` before anything was changed. */
export async function runNode(options: NodeOptions): Promise<void> {
  const counters = new Counters();
  const log = createLog("node", options.name, options.logLevel, counters);
  const config = await readClusterFile(options.clusterFile);
  const own = ownDvipas(config, options.name);
  const ike = await loadIke(options, config, log);
  const filters = ownFilters(config, options.name);
  const credentials = await loadCredentials(options);
  const bus: BusOptions = {
    cluster: config.cluster,
    self: options.name,
    credentials,
    clock: systemClock,
    counters,
    log,
  };
  mkdirSync(options.run, { recursive: true, mode: 0o700 });
  const { host, port } = config.bus.coupling;
  const trustedAddress = await addressTowards(host, port);
  await requireNextHops(trustedAddress, own);
  const node = new Node({ options, config, own, ike, filters, bus, trustedAddress });
  await runUntilSignal(node.parts(), log, node.failed);
}

interface NodeContext {
  readonly options: NodeOptions;
  readonly config: ClusterConfig;
  readonly own: readonly OwnDvipa[];
  readonly ike: IkeConfiguration;
  readonly filters: FilterRules;
  readonly bus: BusOptions;
  readonly trustedAddress: string;
}

/** Joins the roles of one node: distributor of its own DVIPAs, target of others'. */
class Node {
  readonly #context: NodeContext;
  readonly #log: Log;
  readonly #keeper: SaKeeper;
  readonly #route = NetlinkSocket.open(NETLINK_ROUTE);
  readonly #network: HostNetwork;
  readonly #networkWatch: NetworkWatch;
  readonly #distributor: Distributor | null;
  readonly #coupling: CouplingLink;
  readonly #sockets: SocketWatch;
  readonly #openings: Openings;
  readonly #shadows = new Map<string, ShadowLink>();
  readonly #shadowDvipas = new Map<string, readonly ShadowDvipa[]>();
  #ownNetwork: HostNetworkState = NO_NETWORK_STATE;
  #ike: IkeConfiguration;
  #filters: FilterRules;
  /** Those that every node was told of. */
  #appliedFilters: FilterRules;
  #networkTail: Promise<unknown> = Promise.resolve();
  #networkQueued: Promise<void> | null = null;
  #server: BusServer | null = null;
  /** The start of the distributor's role, under way or done. */
  #serving: Promise<void> | null = null;
  #stopping = false;
  /** Resolves with the reason when the node cannot go on. */
  readonly failed: Promise<string>;
  #fail: (reason: string) => void = () => {};

  constructor(context: NodeContext) {
    const { options, config, own, bus, trustedAddress } = context;
    this.#context = context;
    this.#ike = context.ike;
    this.#filters = context.filters;
    this.#appliedFilters = context.filters;
    this.#log = bus.log;
    this.#sockets = new SocketWatch(bus);
    this.#openings = new Openings({ ask: (connection) => this.#askToOpen(connection), ...bus });
    this.failed = new Promise((resolve) => (this.#fail = resolve));
    this.#keeper = new SaKeeper({
      coupling: () => this.#coupling,
      mayPark: (source, sa) => this.#mayPark(source, sa),
      onAcquire: (source, acquire) => {
        if (source === OWN_IKE) this.#distributor?.acquire(acquire);
        else this.#shadows.get(source)?.acquire(acquire);
      },
      reportUse: (source, body) => this.#reportUse(source, body),
      clock: bus.clock,
      counters: bus.counters,
      log: bus.log,
    });
    this.#network = new HostNetwork(this.#route, trustedAddress, join(options.run, "sysctls.json"), bus.log);
    this.#networkWatch = new NetworkWatch({
      missing: () => this.#serialNetwork(() => this.#network.missing()),
      restore: () => this.#applyNetwork(),
      ...{ clock: bus.clock, counters: bus.counters, log: bus.log },
    });
    this.#coupling = new CouplingLink({
      bus,
      host: config.bus.coupling.host,
      port: config.bus.coupling.port,
      instance: randomUUID(),
      listen: own.length === 0 ? null : { address: trustedAddress, port: config.bus.port },
      distributes: own.map(({ address }) => address),
      onOpen: () => this.#couplingOpened(),
      onMembers: (members) => this.#followMembers(members),
      onRecall: ({ sa, holders }) => this.#keeper.recalled(sa, holders),
      onFenced: ({ dvipa, epoch }) => this.#fenced(dvipa, epoch),
      onRekeySoon: ({ sa }) => {
        bus.counters.add("lease.rekeySoon");
        const isOurs = this.#distributor?.rekeyChild(sa) ?? false;
        bus.log.info("an SA comes to the end of its sequence numbers: it is rekeyed", { sa, isOurs });
      },
    });
    this.#distributor =
      own.length === 0
        ? null
        : new Distributor({
            nodeName: options.name,
            dvipas: own,
            ike: () => this.#ike,
            filters: () => this.#filters,
            keeper: this.#keeper,
            coupling: this.#coupling,
            setNetwork: (wanted) => this.#setOwnNetwork(wanted),
            ownSockets: (connections) => this.#sockets.sockets.find(connections.map(endsOf)),
            clock: bus.clock,
            counters: bus.counters,
            log: bus.log,
          });
  }

  /** In the order of their start: addresses go before the guards that keep them out of the clear. */
  parts(): Part[] {
    const started = (): Promise<void> => Promise.resolve();
    let control: ControlServer | null = null;
    const onHangup = (): void => {
      this.#reload().catch(() => {});
    };
    return [
      { name: "coupling link", start: started, stop: synchronous(() => this.#coupling.close()) },
      { name: "routing socket", start: started, stop: synchronous(() => this.#route.close()) },
      { name: "kernel SAs", start: started, stop: () => this.#keeper.stop() },
      { name: "openings", start: started, stop: () => this.#openings.close() },
      {
        name: "host network",
        start: synchronous(() => this.#networkWatch.start()),
        stop: () => {
          this.#networkWatch.close();
          return this.#serialNetwork(() => this.#network.clear());
        },
      },
      { name: "roles", start: started, stop: () => this.#stopRoles() },
      {
        name: "control socket",
        start: async () => {
          const path = join(this.#context.options.run, "control.sock");
          control = await serveControl(path, this.#controls(), this.#log);
        },
        stop: async () => control?.close(),
      },
      {
        name: "reload on SIGHUP",
        start: () => Promise.resolve(void process.on("SIGHUP", onHangup)),
        stop: synchronous(() => process.off("SIGHUP", onHangup)),
      },
    ];
  }

  /**
   * Reads peers, keys, certificates and revocation lists anew, for the negotiations from now on, and the filters of DVIPAs, for
   * all SAs; SAs stay. When anything is wrong, all of the old ones stay. DVIPAs, bus and roles want a restart.
   */
  async #reload(): Promise<{ readonly peers: number; readonly warnings: readonly string[] }> {
    const { options } = this.#context;
    try {
      const config = await readClusterFile(options.clusterFile);
      const filters = ownFilters(config, options.name);
      requireSamePlaces(this.#context.own, this.#filters, filters);
      this.#ike = await loadIke(options, config, this.#log);
      this.#filters = filters;
    } catch (error) {
      this.#log.error("reload failed, everything stays as it was", { reason: messageOf(error) });
      throw error;
    }
    const filters = this.#filters;
    await this.#distributor?.reload(!filters.isSame(this.#appliedFilters));
    this.#appliedFilters = filters;
    const { peers, warnings } = this.#ike;
    this.#log.info("peers and credentials read anew", { peers: peers.length });
    return { peers: peers.length, warnings };
  }

  async #stopRoles(): Promise<void> {
    this.#stopping = true;
    for (const link of this.#shadows.values()) link.close();
    this.#sockets.close();
    await this.#distributor?.stop();
    await this.#server?.close();
  }

  /** Once in the life of the node; when it fails, the link is dialled again and this is tried again. */
  async #couplingOpened(): Promise<void> {
    const distributor = this.#distributor;
    if (distributor === null || this.#stopping) return;
    this.#serving ??= this.#serve(distributor).catch((error: unknown) => {
      this.#serving = null;
      throw error;
    });
    await this.#serving;
  }

  async #serve(distributor: Distributor): Promise<void> {
    await distributor.start();
    this.#server ??= await listenBus({
      ...this.#context.bus,
      host: this.#context.trustedAddress,
      port: this.#context.config.bus.port,
      accept: (connection) => distributor.accept(connection),
    });
    await this.#settle();
  }

  /** One link to every other node that distributes something. */
  #followMembers(members: readonly Member[]): void {
    const { options, bus } = this.#context;
    if (this.#stopping) return;
    for (const { name, listen, distributes } of members) {
      if (name === options.name || listen === null || distributes.length === 0 || this.#shadows.has(name)) continue;
      const link = new ShadowLink({
        bus,
        distributor: { name, ...listen, distributes },
        keeper: this.#keeper,
        reporter: new SocketReporter({ ...bus, watch: this.#sockets }),
        otherAddress: async () => otherAddressOnLink(await listAddresses(this.#route), this.#context.trustedAddress),
        onSnapshot: (dvipas) => this.#shadowed(name, dvipas),
        onReturnPath: () => this.#applyNetwork(),
      });
      this.#shadows.set(name, link);
    }
  }

  async #shadowed(distributor: string, dvipas: readonly ShadowDvipa[]): Promise<void> {
    this.#shadowDvipas.set(distributor, dvipas);
    if (dvipas.length > 0) await this.#openings.start();
    await this.#applyNetwork();
    await this.#settle();
  }

  /** When everybody who may speak for SAs has spoken, what nobody spoke of is a dead run's litter. */
  async #settle(): Promise<void> {
    const heard = [...this.#shadows.keys()].every((name) => this.#shadowDvipas.has(name));
    const isOwnerUp = this.#distributor === null || this.#distributor.isServing;
    if (heard && isOwnerUp) await this.#keeper.settle();
  }

  async #setOwnNetwork(wanted: HostNetworkState): Promise<void> {
    this.#ownNetwork = wanted;
    await this.#applyNetwork();
  }

  /** Calls that wait for their turn share one run. */
  #applyNetwork(): Promise<void> {
    this.#networkQueued ??= this.#serialNetwork(async () => {
      this.#networkQueued = null;
      if (this.#stopping) return;
      const shadowed = [...this.#shadowDvipas.values()].flat();
      const targets = shadowed.map(({ address }): HostDvipa => ({ address, role: "target", interfaceName: null }));
      const handedOver = shadowed.flatMap(({ address, handedOverBy }) =>
        handedOverBy === null ? [] : [{ dvipa: address, distributor: handedOverBy }],
      );
      const { dvipas } = this.#ownNetwork;
      const returnPaths = this.#returnPaths();
      await this.#network.apply({ ...this.#ownNetwork, dvipas: [...dvipas, ...targets], handedOver, returnPaths });
    });
    return this.#networkQueued;
  }

  /** Where the SAs lead that distributors keep for themselves. */
  #returnPaths(): ReturnPath[] {
    return [...this.#shadowDvipas].flatMap(([name, dvipas]) =>
      [...this.#keeper.returnPathsTo(name)].flatMap((path) => {
        const distributor = dvipas.find(({ address }) => address === path.dvipa)?.handedOverBy ?? null;
        return distributor === null ? [] : [{ ...path, distributor }];
      }),
    );
  }

  #serialNetwork<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#networkTail.then(work);
    this.#networkTail = run.catch(() => {});
    return run;
  }

  async #mayPark(source: SaSource, sa: SharedSa): Promise<boolean> {
    if (source === OWN_IKE) return this.#distributor?.mayParkOwn(sa) ?? true;
    return (await this.#shadows.get(source)?.mayPark(sa.id)) ?? false;
  }

  /** The distributor of the DVIPA knows whose answers come. */
  async #askToOpen(connection: ConnectionKey): Promise<boolean> {
    const serves = (dvipas: readonly ShadowDvipa[]): boolean =>
      dvipas.some(({ address }) => address === connection.dvipa);
    const [name] = [...this.#shadowDvipas].find(([, dvipas]) => serves(dvipas)) ?? [];
    return name === undefined ? false : ((await this.#shadows.get(name)?.openConnection(connection)) ?? false);
  }

  async #reportUse(source: SaSource, body: RequestBody<"saUse">): Promise<ResponseBody<"saUse"> | null> {
    if (source === OWN_IKE) return this.#distributor?.takeUse(this.#context.options.name, body) ?? null;
    return (await this.#shadows.get(source)?.reportUse(body)) ?? null;
  }

  #fenced(dvipa: string, epoch: bigint): void {
    if (this.#distributor?.isFencedBy(dvipa, epoch) !== true) return;
    this.#fail(`another node owns ${dvipa} now (epoch ${epoch.toString()})`);
  }

  #controls(): ControlHandlers {
    const distributor = this.#distributor;
    const peerNames = (): string[] => this.#ike.peers.map(({ name }) => name);
    const always = {
      status: ({ brief }: ControlArguments) => this.#status(brief === true),
      drops: () => this.#drops(),
      reload: () => this.#reload(),
    };
    return distributor === null
      ? always
      : { ...always, ...ikeControls(distributor, peerNames), ...drainControls(distributor) };
  }

  async #status(isBrief: boolean): Promise<NodeStatus> {
    const waitingFor = [
      ...(this.#coupling.isOpen ? [] : ["the coupling service"]),
      ...(this.#distributor === null || this.#distributor.isServing ? [] : ["the ownership of its DVIPAs"]),
      ...[...this.#shadows].flatMap(([name, link]) => (link.isSynced ? [] : [`the distributor ${name}`])),
      ...(this.#distributor === null && this.#shadows.size === 0 ? ["a distributor"] : []),
    ];
    const connections = this.#distributor?.connectionStatus() ?? [];
    return {
      daemon: "node",
      node: this.#context.options.name,
      ready: waitingFor.length === 0,
      waitingFor,
      dvipas: [...this.#ownDvipaStatus(), ...this.#shadowDvipaStatus()],
      targets: this.#distributor?.targetStatus() ?? [],
      totals: { ...this.#keeper.totals(), connections: connections.length },
      sas: isBrief ? [] : await this.#keeper.status(),
      filters: await this.#keeper.filterStatus(),
      connections: isBrief ? [] : connections,
      steeringQueue: this.#distributor?.queueCounters() ?? null,
      counters: this.#context.bus.counters.snapshot(),
    };
  }

  async #drops(): Promise<readonly Drop[]> {
    return explainDrops({
      counters: this.#context.bus.counters.snapshot(),
      queue: this.#distributor?.queueCounters() ?? null,
      filters: await this.#keeper.filterStatus(),
      rulesets: await this.#network.dropped(),
      xfrm: await readXfrmStatistics(),
    });
  }

  #ownDvipaStatus(): DvipaStatus[] {
    return this.#context.own.map(({ address }) => ({
      address,
      role: "distributor",
      epoch: (this.#distributor?.epochOf(address) ?? 0n).toString(),
    }));
  }

  #shadowDvipaStatus(): DvipaStatus[] {
    const all = [...this.#shadowDvipas.values()].flat();
    return all.map(({ address, epoch }) => ({ address, role: "target", epoch: epoch.toString() }));
  }
}

/** A node that distributes nothing speaks with no peer. Nobody gets a suite that this kernel lacks. */
async function loadIke(options: NodeOptions, config: ClusterConfig, log: Log): Promise<IkeConfiguration> {
  if (ownDvipas(config, options.name).length === 0) {
    await probeKernel([], log);
    return { peers: [], credentials: new Map(), warnings: [] };
  }
  const loaded = await loadIkeConfiguration(config, options.clusterFile, options.name, Date.now());
  for (const warning of loaded.warnings) log.warn(warning);
  return { ...loaded, peers: withoutSuites(loaded.peers, await probeKernel(loaded.peers, log)) };
}

/** A start or stop that has nothing to wait for. */
function synchronous(work: () => void): () => Promise<void> {
  return () => {
    work();
    return Promise.resolve();
  };
}
