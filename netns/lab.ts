import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { CouplingStatus } from "../src/daemons/coupling/status.ts";
import type { NodeStatus, TargetStatus } from "../src/daemons/node/status.ts";
import { Capture } from "./capture.ts";
import { createCertificates, credentialArguments } from "./certificates.ts";
import { DVIPA_CERTIFICATES, IKE_PKI_DIRECTORY, writeClusterFiles, type ClusterSettings } from "./cluster-files.ts";
import { IkePki } from "./ike-pki.ts";
import { countCleartext, countDecapsulatedTcp } from "./counters.ts";
import { LabDaemon, START_LIMIT_MS } from "./daemon.ts";
import {
  APPLICATION_PORT,
  DVIPA,
  DVIPA_IDENTITY,
  planNodes,
  type LabNode,
  type LabVersions,
  type RouterName,
} from "./layout.ts";
import { LabNetwork } from "./network.ts";
import { Program } from "./program.ts";
import { createPsk } from "./secrets.ts";
import { dvipaCertificateName, endsOf, type IpsecPeer, type PeerConnection, type PeerKind } from "./ipsec-peer.ts";
import { startPeer } from "./peers.ts";
import { DEFAULT_CLIENT, StrongSwan, type ClientSettings } from "./strongswan.ts";
import { until } from "./until.ts";

const APPLICATION = fileURLToPath(new URL("app.ts", import.meta.url));

/** The product's own defaults, but for the client's window, which is what `DEFAULT_CLIENT` has. */
const DEFAULT_CLUSTER: ClusterSettings = {
  peerWindowPackets: 1024,
  inboundWindowPackets: 1024,
  esn: "allow",
  espProposals: null,
  authentication: "psk",
  connections: null,
};

/** What a lab may be asked for; the defaults are those of the demo. */
export interface LabOptions {
  /** In the name of each namespace; default: `esplex` and the pid, so that labs of several processes do not meet. */
  readonly prefix?: string;
  /** 1 to 8; default 3. */
  readonly targets?: number;
  /** The lab's files; default: a new directory for temporary files. Removed with the lab when it was made here. */
  readonly directory?: string;
  readonly cluster?: Partial<ClusterSettings>;
  /** What client and DVIPA speak, and what the bus uses; default 4. */
  readonly versions?: Partial<LabVersions>;
  /** The client, and a second one, are behind a NAT, or a router that only passes packets on. */
  readonly router?: RouterName;
}

/**
 * A cluster in network namespaces: see `layout.ts` for the picture. `create` lays out namespaces and files and starts
 * nothing; `startCluster` starts coupling service, nodes and applications; `startClient` a stock strongSwan. Disposing
 * of it kills every process in its namespaces and removes everything, whatever state it is in.
 */
export class Lab implements AsyncDisposable {
  readonly network: LabNetwork;
  readonly directory: string;
  readonly coupling: LabDaemon<CouplingStatus>;
  readonly distributor: LabDaemon<NodeStatus>;
  readonly targets: readonly LabDaemon<NodeStatus>[];
  readonly #applications = new Map<string, Program>();
  readonly #psk: string;
  readonly #ownsDirectory: boolean;
  #captures = 0;
  #ikePki: IkePki | null = null;
  #clientLog: string;

  private constructor(network: LabNetwork, directory: string, psk: string, ownsDirectory: boolean) {
    this.network = network;
    this.directory = directory;
    this.#psk = psk;
    this.#ownsDirectory = ownsDirectory;
    this.#clientLog = join(directory, "client", "charon.log");
    this.coupling = this.#daemon("cf", this.#couplingArguments());
    this.distributor = this.#daemon("d1", this.#nodeArguments("d1"));
    this.targets = nodesOf(network, "target").map(({ name }) => this.#daemon(name, this.#nodeArguments(name)));
  }

  /** Makes the namespaces, keys, certificates and cluster files. */
  static async create(options: LabOptions = {}): Promise<Lab> {
    const directory = options.directory ?? (await mkdtemp(join(tmpdir(), "esplex-lab-")));
    await Promise.all(
      ["log", "run", "state"].map((name) => mkdir(join(directory, name), { recursive: true, mode: 0o700 })),
    );
    const nodes = planNodes(options.targets ?? 3, options.router);
    const psk = await createPsk(join(directory, "psk"));
    const network = await LabNetwork.create(options.prefix ?? `esplex${process.pid}`, nodes, options.versions);
    const lab = new Lab(network, directory, psk, options.directory === undefined);
    try {
      if (options.cluster?.authentication === "certificate") lab.#ikePki = await createIkePki(directory);
      await Promise.all([
        writeClusterFiles(directory, network, { ...DEFAULT_CLUSTER, ...options.cluster }),
        createCertificates(join(directory, "pki"), nodes),
        countCleartext(network),
        countDecapsulatedTcp(network, "d1"),
      ]);
    } catch (error) {
      await lab.destroy();
      throw error;
    }
    return lab;
  }

  /** The authority that peers and DVIPA have their certificates from; only in a lab with certificates. */
  get ikePki(): IkePki {
    if (this.#ikePki === null) throw new Error("this lab has no IKE certificates");
    return this.#ikePki;
  }

  /** Every node daemon: d1 first, then the targets. */
  get nodes(): readonly LabDaemon<NodeStatus>[] {
    return [this.distributor, ...this.targets];
  }

  /** Where the coupling service keeps what must outlive it. */
  get stateDirectory(): string {
    return join(this.directory, "state");
  }

  /** The target called `name`. */
  target(name: string): LabDaemon<NodeStatus> {
    const found = this.targets.find((candidate) => candidate.node === name);
    if (found === undefined) throw new RangeError(`this lab has no target ${name}`);
    return found;
  }

  /** Starts coupling service, nodes and applications, but no target in `without`, and waits until all are ready. */
  async startCluster(without: readonly string[] = []): Promise<void> {
    const wanted = this.nodes.filter(({ node }) => !without.includes(node));
    await Promise.all([this.coupling.start(), ...wanted.map((daemon) => daemon.start())]);
    await Promise.all(
      this.targets
        .filter(({ node }) => wanted.some((daemon) => daemon.node === node))
        .map(({ node }) => this.startApplication(node)),
    );
    await Promise.all([this.coupling.ready(), ...wanted.map((daemon) => daemon.ready())]);
    await this.targetsConnected(wanted.map(({ node }) => node).filter((node) => node !== "d1"));
  }

  /** Starts a target that was left out, or restarts one with its application still there, and waits until it is in. */
  async startTarget(name: string): Promise<void> {
    await this.target(name).start();
    if (!this.#applications.has(name)) await this.startApplication(name);
    await this.target(name).ready();
    await this.targetsConnected([name]);
  }

  /** Waits until the distributor is connected with each of these targets and knows that its application listens. */
  async targetsConnected(names: readonly string[] = this.targets.map(({ node }) => node)): Promise<void> {
    const { dvipa } = this.network;
    const listens = (target: TargetStatus): boolean =>
      target.listening.some((one) => one.dvipa === dvipa && one.port === APPLICATION_PORT);
    await this.distributor.waitFor(`can use ${names.join(", ")}`, START_LIMIT_MS, ({ targets }) =>
      names.every((name) => targets.some((target) => target.name === name && target.connected && listens(target))),
    );
  }

  /** Starts the HTTP application on a target and waits until it listens. */
  async startApplication(node: string): Promise<void> {
    const logFile = join(this.directory, "log", `app-${node}.log`);
    const command = [process.execPath, APPLICATION, node, String(APPLICATION_PORT)];
    const program = Program.start({ network: this.network, node, label: `application of ${node}`, command, logFile });
    this.#applications.set(node, program);
    await until(`the application of ${node} listens`, START_LIMIT_MS, async () => {
      await program.assertRunning();
      return (await program.logTail()).includes("listens");
    });
  }

  /** Stops the application on a target: its connections end. */
  async stopApplication(node: string): Promise<void> {
    await this.#applications.get(node)?.stop("SIGKILL");
    this.#applications.delete(node);
  }

  /** Starts the client's strongSwan with the lab's key; nothing is negotiated yet. */
  async startClient(settings: Partial<ClientSettings> = {}, node = "client"): Promise<StrongSwan> {
    return StrongSwan.start(this.network, node, join(this.directory, node), this.clientSettings(settings));
  }

  /**
   * Starts another peer in the client node, or a strongSwan with its default proposals, with the connections that the cluster
   * file was made for. Certificates are made for them.
   */
  async startPeer(kind: PeerKind, connections: readonly PeerConnection[]): Promise<IpsecPeer> {
    for (const key of ["ecdsa", "rsa"] as const) {
      const names = connections.filter(({ auth }) => auth === key).map((connection) => endsOf(connection).identity);
      if (names.length === 0) continue;
      const wish = { subject: `/C=CH/O=Lab/CN=client ${key}`, names: names.map((name) => `DNS:${name}`).join(",") };
      await this.ikePki.issue(`client-${key}`, { key, ...wish });
    }
    const { directory: pki } = this.ikePki;
    const [authority, intermediate] = [this.ikePki.path("ca.pem"), this.ikePki.path("intermediate.pem")];
    const certificates = { authority, intermediate, directory: pki };
    const directory = join(this.directory, "client");
    const peer = await startPeer(kind, {
      network: this.network,
      node: "client",
      directory,
      connections,
      psk: this.#psk,
      certificates,
    });
    this.#clientLog = peer.logFile;
    return peer;
  }

  /** Settings that fit this lab, with changes. */
  clientSettings(changes: Partial<ClientSettings> = {}): ClientSettings {
    const { client, dvipa } = this.network.identities;
    return { ...DEFAULT_CLIENT, localIdentity: client, remoteIdentity: dvipa, psk: this.#psk, ...changes };
  }

  /** Starts a capture of the client's link, in a file of its own. */
  async startCapture(): Promise<Capture> {
    this.#captures += 1;
    return Capture.start(this.network, join(this.directory, `client-link-${this.#captures}.pcap`));
  }

  /** The node whose interface has this MAC address. */
  ownerOfMac(mac: string): string {
    const owner = this.network.nodes.find((node) => node.interfaces.some((link) => link.mac === mac));
    return owner?.name ?? mac;
  }

  /** The end of a node's log: its daemon's, or that of the peer. */
  async logTail(node: string, lines = 40): Promise<string> {
    const file = node.startsWith("client") ? join(node, "charon.log") : join("log", `${node}.log`);
    const path = node === "client" ? this.#clientLog : join(this.directory, file);
    const text = await readFile(path, "utf8").catch(() => "(no log)");
    return text.trimEnd().split("\n").slice(-lines).join("\n");
  }

  /** Kills what runs and removes everything; `keepFiles` leaves the lab's directory. */
  async destroy(options: { readonly keepFiles?: boolean } = {}): Promise<void> {
    await this.network.destroy();
    if (this.#ownsDirectory && options.keepFiles !== true) await rm(this.directory, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.destroy();
  }

  #daemon<Status extends NodeStatus | CouplingStatus>(node: string, args: readonly string[]): LabDaemon<Status> {
    return new LabDaemon<Status>({
      network: this.network,
      node,
      arguments: args,
      runDirectory: join(this.directory, "run", node),
      logFile: join(this.directory, "log", `${node}.log`),
    });
  }

  #couplingArguments(): string[] {
    const files = ["--cluster", join(this.directory, "cluster.yaml"), "--state", this.stateDirectory];
    return ["coupling", ...files, ...credentialArguments(join(this.directory, "pki"), "coupling")];
  }

  #nodeArguments(name: string): string[] {
    const cluster = join(this.directory, name === "d1" ? "cluster.yaml" : "cluster-target.yaml");
    return ["node", "--name", name, "--cluster", cluster, ...credentialArguments(join(this.directory, "pki"), name)];
  }
}

async function createIkePki(directory: string): Promise<IkePki> {
  const pki = await IkePki.create(join(directory, IKE_PKI_DIRECTORY));
  await pki.authority("intermediate", "/C=CH/O=Lab/CN=IKE intermediate");
  const subject = "/C=CH/O=Lab/CN=dvipa";
  for (const [name, key] of Object.entries(DVIPA_CERTIFICATES)) {
    const wish = { subject, names: `DNS:${DVIPA_IDENTITY},DNS:${dvipaCertificateName(key)},IP:${DVIPA}` };
    // The long one: its chain makes IKE_AUTH go in fragments.
    await pki.issue(name, { ...wish, key, ...(key === "rsa" ? { issuer: "intermediate" } : {}) });
  }
  return pki;
}

function nodesOf(network: LabNetwork, role: LabNode["role"]): readonly LabNode[] {
  return network.nodes.filter((node) => node.role === role);
}
