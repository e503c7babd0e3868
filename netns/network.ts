import { readdir } from "node:fs/promises";
import { runCommand, tryCommand, type CommandResult } from "./command.ts";
import {
  CLIENT_IDENTITY,
  DVIPA_IDENTITY,
  PRIVATE_SUBNET,
  PRIVATE_SUBNET6,
  SERVICE_ADDRESSES,
  type IpVersion,
  type LabVersions,
  type LabInterface,
  type LabNode,
  type NetworkName,
} from "./layout.ts";
import { until } from "./until.ts";

/** The namespace that holds the bridges, beside those of the nodes. */
const BRIDGES = "net";
const KILL_LIMIT_MS = 10_000;

/** The lab's namespaces, links and bridges. Every name carries `prefix`, so that labs do not meet. */
export class LabNetwork {
  readonly prefix: string;
  readonly nodes: readonly LabNode[];
  readonly #versions: LabVersions;

  private constructor(prefix: string, nodes: readonly LabNode[], versions: Partial<LabVersions>) {
    this.prefix = prefix;
    this.nodes = nodes;
    this.#versions = { service: 4, bus: 4, ...versions };
  }

  /** Builds it all. When a step fails, what was built is taken down again. */
  static async create(
    prefix: string,
    nodes: readonly LabNode[],
    versions: Partial<LabVersions> = {},
  ): Promise<LabNetwork> {
    const network = new LabNetwork(prefix, nodes, versions);
    try {
      await network.#build();
      return network;
    } catch (error) {
      await network.destroy();
      throw error;
    }
  }

  /** A network that `create` made in another process. */
  static existing(prefix: string, nodes: readonly LabNode[]): LabNetwork {
    return new LabNetwork(prefix, nodes, {});
  }

  /** Of client and DVIPA. */
  get ipVersion(): IpVersion {
    return this.#versions.service;
  }

  /** Where `node` listens on the bus. */
  busAddressOf(node: string): string {
    const { address, address6 } = this.interfaceOf(node, "trust");
    return this.#versions.bus === 4 ? address : address6;
  }

  /** The virtual address that this lab's cluster serves. */
  get dvipa(): string {
    return SERVICE_ADDRESSES[this.ipVersion].dvipa;
  }

  /** d1's own address on the client network, of the same version. */
  get gatewayAddress(): string {
    const { address, address6 } = this.interfaceOf("d1", "client");
    return this.ipVersion === 4 ? address : address6;
  }

  /** What a NAT is known by on the client network; null in a lab without one. */
  get natAddress(): string | null {
    return this.#router === "nat" ? this.interfaceOf("nat", "client").address : null;
  }

  /** Behind the router of a lab with one. */
  get hasSecondClient(): boolean {
    return this.#router !== null;
  }

  get #router(): string | null {
    return this.nodes.find(({ role }) => role === "router")?.name ?? null;
  }

  /** The client's address of that IP version. */
  get clientAddress(): string {
    return this.addressOfClient("client");
  }

  addressOfClient(node: string): string {
    if (this.#router !== null) {
      const { address, address6 } = this.interfaceOf(node, "private");
      return this.ipVersion === 4 ? address : address6;
    }
    return SERVICE_ADDRESSES[this.ipVersion].client;
  }

  /** The kernel's name of a node's namespace, as `ip netns` shows it. */
  namespaceOf(node: string): string {
    return `${this.prefix}-${node}`;
  }

  /** The interface of `node` on `network`. Fails when there is none. */
  interfaceOf(node: string, network: NetworkName): LabInterface {
    const owner = this.nodes.find((candidate) => candidate.name === node);
    const found = owner?.interfaces.find((candidate) => candidate.network === network);
    if (found === undefined) throw new RangeError(`${node} is not on the ${network} network of this lab`);
    return found;
  }

  /** Identities in IKE_AUTH: names, and in an IPv6 lab the addresses themselves (ID_FQDN, ID_IPV6_ADDR; RFC 7296 §3.5). */
  get identities(): { readonly client: string; readonly dvipa: string } {
    if (this.ipVersion === 6) return { client: this.clientAddress, dvipa: this.dvipa };
    return { client: CLIENT_IDENTITY, dvipa: DVIPA_IDENTITY };
  }

  /** The command line that runs `command` inside a node, for `execa` or `spawn`. */
  inside(node: string, command: readonly string[]): [string, ...string[]] {
    return ["ip", "netns", "exec", this.namespaceOf(node), ...command];
  }

  /** Runs a command that must succeed in a node, or in `net`; returns its stdout. */
  async run(
    node: string,
    command: readonly string[],
    options: { input?: string; limitMs?: number } = {},
  ): Promise<string> {
    const [file, ...args] = this.inside(node, command);
    return runCommand(file, args, options);
  }

  /** Like `run`, but a command that fails is a result too. */
  async try(node: string, command: readonly string[], options: { limitMs?: number } = {}): Promise<CommandResult> {
    const [file, ...args] = this.inside(node, command);
    return tryCommand(file, args, options);
  }

  /** Cuts or mends a node's link, at the bridge: the node itself sees the carrier go. */
  async setLink(node: string, network: NetworkName, state: "up" | "down"): Promise<void> {
    await this.#ip(BRIDGES, [`link set dev ${this.interfaceOf(node, network).port} ${state}`]);
  }

  /** Ends every process inside the namespaces and removes them. Works on half-built networks, and twice. */
  async destroy(): Promise<void> {
    const wanted = [...this.nodes.map((node) => node.name), BRIDGES].map((name) => this.namespaceOf(name));
    const present = await readdir("/run/netns").catch((): string[] => []);
    await Promise.all(wanted.filter((name) => present.includes(name)).map(removeNamespace));
  }

  async #build(): Promise<void> {
    await Promise.all([BRIDGES, ...this.nodes.map((node) => node.name)].map((name) => this.#addNamespace(name)));
    await this.#ip(
      BRIDGES,
      [...new Set(this.nodes.flatMap(({ interfaces }) => interfaces.map(({ network }) => network)))].flatMap((name) => [
        `link add name ${name} type bridge`,
        `link set dev ${name} up`,
      ]),
    );
    for (const node of this.nodes) {
      for (const link of node.interfaces) await this.#attach(node, link);
    }
    if (this.#router !== null) await this.#startRouter(this.#router);
    if (this.natAddress !== null) await this.#startNat();
  }

  /** Passes packets on between the clients behind it and the client network. */
  async #startRouter(router: string): Promise<void> {
    await this.run(router, ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
    const inner = this.interfaceOf(router, "private");
    const outer = this.interfaceOf(router, "client");
    const hasIpv6 = this.ipVersion === 6;
    for (const { name: node, role } of this.nodes) {
      if (role === "client") {
        await this.#ip(node, [`route add default via ${inner.address}`]);
        if (hasIpv6) await this.#ip(node, [`route add default via ${inner.address6}`]);
      }
      // In place of a default route: the kernel looks for a way to a packet's inner destination before it protects it.
      if (role === "distributor" || role === "target") {
        await this.#ip(node, [`route add ${PRIVATE_SUBNET} via ${outer.address}`]);
        if (hasIpv6) await this.#ip(node, [`route add ${PRIVATE_SUBNET6} via ${outer.address6}`]);
      }
    }
  }

  /** Everything from behind it gets another source port, so that nobody's IKE comes from 4500. */
  async #startNat(): Promise<void> {
    const { name } = this.interfaceOf("nat", "client");
    await this.run("nat", ["nft", "-f", "-"], {
      input: `table ip nat { chain out { type nat hook postrouting priority srcnat; policy accept;
        oifname ${name} meta l4proto { tcp, udp } masquerade to :20000-30000 random
        oifname ${name} masquerade
      }\n}\n`,
    });
  }

  async #addNamespace(name: string): Promise<void> {
    await runCommand("ip", ["netns", "add", this.namespaceOf(name)]);
    // Duplicate address detection would keep addresses unusable for a second; nothing else is changed here.
    await this.run(name, [
      "sysctl",
      "-q",
      "-w",
      "net.ipv6.conf.default.accept_dad=0",
      "net.ipv6.conf.all.accept_dad=0",
    ]);
    await this.#ip(name, ["link set dev lo up"]);
  }

  async #attach(node: LabNode, link: LabInterface): Promise<void> {
    const peer = `peer name ${link.name} netns ${this.namespaceOf(node.name)} address ${link.mac}`;
    await this.#ip(BRIDGES, [
      `link add name ${link.port} type veth ${peer}`,
      `link set dev ${link.port} master ${link.network}`,
      `link set dev ${link.port} up`,
    ]);
    const { service, bus } = this.#versions;
    const hasIpv6 = (link.network === "trust" ? bus : service) === 6;
    await this.#ip(node.name, [
      `address add ${link.address}/24 dev ${link.name}`,
      `link set dev ${link.name} up`,
      ...(hasIpv6 ? [`address add ${link.address6}/64 dev ${link.name} nodad`] : []),
    ]);
  }

  async #ip(node: string, lines: readonly string[]): Promise<void> {
    await runCommand("ip", ["-netns", this.namespaceOf(node), "-batch", "-"], { input: `${lines.join("\n")}\n` });
  }
}

async function removeNamespace(namespace: string): Promise<void> {
  await until(`the processes in ${namespace} are gone`, KILL_LIMIT_MS, async () => {
    const pids = (await runCommand("ip", ["netns", "pids", namespace])).split("\n").filter((line) => line !== "");
    for (const pid of pids) kill(Number(pid));
    return pids.length === 0;
  });
  await runCommand("ip", ["netns", "delete", namespace]);
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended between the list and the signal.
  }
}
