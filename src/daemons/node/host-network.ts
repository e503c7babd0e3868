import { EsplexError } from "../../core/errors.ts";
import { ipToBytes } from "../../core/ip.ts";
import type { Log } from "../../core/log.ts";
import {
  addAddress,
  deleteAddress,
  listAddresses,
  listOurAddresses,
  type InterfaceAddress,
  type NewAddress,
} from "../../net/addresses.ts";
import { addressBits, AF_INET, FAMILIES, familyOf, type AddressFamily } from "../../net/inet-address.ts";
import { linkByName, linkOwning, listLinks } from "../../net/links.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import { applyRuleset, deleteTable, listCounters, listTables } from "../../net/nftables.ts";
import { readSysctl, type SysctlName } from "../../net/sysctl.ts";
import { EncapsulationSockets } from "./encapsulation-sockets.ts";
import { addGreLinks, greLinks, greName, removeOtherGreLinks } from "./gre-links.ts";
import { greRuleset, type GreTraffic, type HandedOver } from "./gre-ruleset.ts";
import { applyHostRoutes, hostRoutes, missingHostRoutes, type HostRoutes, type SteeringTarget } from "./host-routes.ts";
import { ICMP_QUEUE } from "./icmp-errors.ts";
import { OPENINGS_QUEUE } from "./openings.ts";
import { RecordedSysctls } from "./recorded-sysctls.ts";
import { returnWays, type ReturnPath } from "./return-ways.ts";
import { steeringRuleset, targetRuleset } from "./steering-ruleset.ts";

/** What the names of our nftables tables begin with. */
export const NFT_PREFIX = "esplex";
/** The nftables tables of a distributor and of a target; one node per network namespace. */
const NFT_TABLE = NFT_PREFIX;
const NFT_TARGET_TABLE = `${NFT_PREFIX}-target`;
/** Of a node to or from which packets go in GRE. */
const GRE_TABLE = `${NFT_PREFIX}-gre`;
/** RFC 7600: an address that is never a destination, for interfaces that need one. */
const DUMMY_ADDRESS = "192.0.0.8";
/** Number of the packet queue between the kernel and the steering; our choice. */
export const STEERING_QUEUE = 4550;
const LOOPBACK = "lo";
/** A virtual address on this host. */
export interface HostDvipa {
  readonly address: string;
  readonly role: "distributor" | "target";
  /** Distributor only: the interface that answers ARP or neighbour discovery for it; null: the one whose subnet holds it. */
  readonly interfaceName: string | null;
}

/** What this host's network should look like, apart from IPsec. */
export interface HostNetworkState {
  readonly dvipas: readonly HostDvipa[];
  /** Addresses of this host, besides its DVIPAs, at which SAs for these end. */
  readonly gateways: readonly string[];
  /** The DVIPAs that have such SAs: their targets send in clear what this node protects. */
  readonly returned: readonly string[];
  readonly targets: readonly SteeringTarget[];
  readonly handedOver: readonly HandedOver[];
  readonly returnPaths: readonly ReturnPath[];
}

export const NO_NETWORK_STATE: HostNetworkState = {
  ...{ dvipas: [], gateways: [], returned: [], targets: [] },
  ...{ handedOver: [], returnPaths: [] },
};

/**
 * Addresses, sysctls, ip rules, routes and the nftables tables of a node, as a reconciler: `apply` makes the kernel what
 * is wanted, whatever an earlier run left behind, and touches nothing that does not carry our protocol number or name.
 */
export class HostNetwork {
  readonly #route: NetlinkSocket;
  readonly #sysctls: RecordedSysctls;
  readonly #encapsulation: EncapsulationSockets;
  readonly #trustedAddress: string;
  readonly #log: Log;
  #wanted: HostNetworkState | null = null;
  /** Null: not looked for yet. */
  #hasGreTable: boolean | null = null;

  /** `trustedAddress` is this node's own on the trusted link; `recordPath` keeps the sysctls' first values over a crash. */
  constructor(route: NetlinkSocket, trustedAddress: string, recordPath: string, log: Log) {
    this.#route = route;
    this.#trustedAddress = trustedAddress;
    this.#encapsulation = new EncapsulationSockets(log);
    this.#sysctls = new RecordedSysctls(recordPath, log);
    this.#log = log;
  }

  /** Converges. Order: nobody answers for an address before its guards stand, nobody steers before routes are there. */
  async apply(wanted: HostNetworkState): Promise<void> {
    this.#wanted = wanted;
    const { distributes, targetOf } = byRole(wanted);
    if (targetOf.some(isIpv4)) await this.#prepareTarget();
    if (distributes.some(isIpv4)) await this.#prepareDistributor(distributes.filter(isIpv4));
    if (!distributes.every(isIpv4)) await this.#forwardIpv6();
    const tunnels = await this.#applyTunnels(wanted);
    for (const routes of await this.#routesFor(wanted, tunnels)) await applyHostRoutes(this.#route, routes);
    await removeOtherGreLinks(this.#route, this.#trustedAddress, new Set(tunnels.keys()));
    await this.#applyQueue(distributes, wanted.gateways);
    await this.#applyTargetRules(targetOf);
    await this.#applyAddresses(await this.#addressesFor(wanted, tunnels));
    await this.#encapsulation.apply(targetOf.map(({ address }) => address));
  }

  /**
   * What is not there any more of what `apply` has made, in words: another program has taken it, or an interface that was down
   * (the kernel then forgets routes, and addresses of IPv6). Sysctls are their administrator's, and not looked at.
   */
  async missing(): Promise<string[]> {
    const wanted = this.#wanted;
    if (wanted === null) return [];
    const remotes = remotesOf(wanted);
    const tunnels = await greLinks(this.#route, this.#trustedAddress, remotes);
    const lostTunnels = [...remotes].filter((remote) => !tunnels.has(remote));
    const tables = new Set(await listTables("inet"));
    const lostRoutes: string[] = [];
    for (const routes of await this.#routesFor(wanted, tunnels)) {
      lostRoutes.push(...(await missingHostRoutes(this.#route, routes)));
    }
    const addresses = await listOurAddresses(this.#route);
    const lostAddresses = (await this.#addressesFor(wanted, tunnels)).filter(
      (entry) => !addresses.some((other) => sameAddress(entry, other)),
    );
    return [
      ...tablesOf(wanted).flatMap((name) => (tables.has(name) ? [] : [`table inet ${name}`])),
      ...lostTunnels.map((remote) => `interface ${greName(this.#trustedAddress, remote)}`),
      ...lostRoutes,
      ...lostAddresses.map(({ address }) => `address ${address}`),
    ];
  }

  /** Packets that our rulesets dropped since they were last written, by `TABLE.COUNTER`. */
  async dropped(): Promise<ReadonlyMap<string, number>> {
    const dropped = new Map<string, number>();
    const tables = await this.#tables();
    for (const table of [NFT_TABLE, NFT_TARGET_TABLE, GRE_TABLE]) {
      if (!tables.has(table)) continue;
      for (const [name, { packets }] of (await listCounters("inet", table)) ?? [])
        dropped.set(`${table}.${name}`, packets);
    }
    return dropped;
  }

  /** Removes everything of ours and puts the sysctls back. */
  async clear(): Promise<void> {
    this.#wanted = null;
    await this.#encapsulation.apply([]);
    await this.#applyAddresses([]);
    await this.#applyQueue([], []);
    await this.#applyTargetRules([]);
    for (const routes of await this.#routesFor(NO_NETWORK_STATE, new Map())) await applyHostRoutes(this.#route, routes);
    await this.#applyTunnels(NO_NETWORK_STATE);
    await removeOtherGreLinks(this.#route, this.#trustedAddress, new Set());
    this.#sysctls.restore();
  }

  /** The interface that stands on the trusted link. */
  async #trustedLink(): Promise<{ readonly index: number; readonly name: string }> {
    const link = await linkOwning(this.#route, this.#trustedAddress);
    if (link === null) {
      throw new EsplexError("config.invalid", `no interface has the trusted-link address ${this.#trustedAddress}`);
    }
    return link;
  }

  /**
   * A target keeps quiet about an IPv4 address, and takes packets for it from the trusted link. IPv6 needs neither: a host
   * answers neighbour solicitations only for the addresses of the interface that was asked (ndisc_recv_ns), and checks
   * no reverse path.
   */
  async #prepareTarget(): Promise<void> {
    const { name } = await this.#trustedLink();
    this.#sysctls.set(["net", "ipv4", "conf", "all", "arp_ignore"], "1");
    this.#sysctls.set(["net", "ipv4", "conf", "all", "arp_announce"], "2");
    // Loose: the client's packets come in where no route to the client leads (RFC 3704 §2.4).
    this.#sysctls.set(["net", "ipv4", "conf", name, "rp_filter"], "2");
  }

  /** A distributor forwards, and tells nobody of a shorter way (the client would then pass it by). */
  async #prepareDistributor(dvipas: readonly HostDvipa[]): Promise<void> {
    this.#sysctls.set(["net", "ipv4", "ip_forward"], "1");
    this.#sysctls.set(["net", "ipv4", "conf", "all", "send_redirects"], "0");
    for (const dvipa of dvipas) {
      const { name } = await this.#clientLink(dvipa);
      this.#sysctls.set(["net", "ipv4", "conf", name, "send_redirects"], "0");
    }
  }

  /**
   * Forwarding is one switch for all interfaces; each interface's own is set first, so that it comes back as it was. A
   * host that forwards ignores router advertisements unless told otherwise (`accept_ra` 2): it would lose its default route.
   */
  async #forwardIpv6(): Promise<void> {
    const all: SysctlName = ["net", "ipv6", "conf", "all", "forwarding"];
    if (readSysctl(all) === "1") return;
    for (const name of ["default", ...(await listLinks(this.#route)).map((link) => link.name)]) {
      const setting = (key: string): SysctlName => ["net", "ipv6", "conf", name, key];
      if (!hasIpv6(name)) continue;
      if (readSysctl(setting("accept_ra")) === "1") this.#sysctls.set(setting("accept_ra"), "2");
      this.#sysctls.set(setting("forwarding"), "1");
    }
    this.#sysctls.set(all, "1");
  }

  /** GRE to and from targets and distributors, and what is taken out of it. Returns the interfaces by the other end's address. */
  async #applyTunnels(wanted: HostNetworkState): Promise<ReadonlyMap<string, number>> {
    const { handedOver, returned } = wanted;
    const toTargets = tunnelEnds(wanted);
    const remotes = remotesOf(wanted);
    const nameOf = (remote: string): string => greName(this.#trustedAddress, remote);
    if (remotes.size > 0) {
      const { name } = await this.#trustedLink();
      const traffic: GreTraffic = {
        peers: [...remotes],
        handedOver: handedOver.map(({ dvipa, distributor }) => ({ dvipa, interfaceName: nameOf(distributor) })),
        returned: returned.flatMap((dvipa) => toTargets.map((target) => ({ dvipa, interfaceName: nameOf(target) }))),
      };
      await applyRuleset(greRuleset(GRE_TABLE, { name, address: this.#trustedAddress }, traffic));
    }
    const links = await addGreLinks(this.#route, this.#trustedAddress, remotes);
    // Loose, as on the trusted link itself.
    for (const remote of remotes) this.#sysctls.set(["net", "ipv4", "conf", nameOf(remote), "rp_filter"], "2");
    // What comes back has an address of this host.
    for (const remote of returned.some((dvipa) => familyOf(dvipa) === AF_INET) ? toTargets : []) {
      this.#sysctls.set(["net", "ipv4", "conf", nameOf(remote), "accept_local"], "1");
    }
    if (remotes.size === 0 && this.#hasGreTable !== false) {
      if ((await this.#tables()).has(GRE_TABLE)) await deleteTable("inet", GRE_TABLE);
    }
    this.#hasGreTable = remotes.size > 0;
    return links;
  }

  /** Names of tables; none where nftables does not answer, too: nobody has made one there. */
  async #tables(): Promise<ReadonlySet<string>> {
    try {
      return new Set(await listTables("inet"));
    } catch (error) {
      if (error instanceof EsplexError) return new Set();
      throw error;
    }
  }

  async #clientLink(dvipa: HostDvipa): Promise<{ readonly index: number; readonly name: string }> {
    if (dvipa.interfaceName !== null) return linkByName(this.#route, dvipa.interfaceName);
    const addresses = await listAddresses(this.#route);
    const hostBits = addressBits(familyOf(dvipa.address));
    const neighbour = addresses.find((entry) => entry.prefixBits < hostBits && inSubnet(dvipa.address, entry));
    const link = (await listLinks(this.#route)).find((candidate) => candidate.index === neighbour?.interfaceIndex);
    if (link === undefined) {
      throw new EsplexError(
        "config.invalid",
        `no interface has a subnet that holds ${dvipa.address}: name one with \`interface\` under this DVIPA`,
      );
    }
    return link;
  }

  /** The DVIPAs, and what GRE interfaces need. */
  async #addressesFor(wanted: HostNetworkState, tunnels: ReadonlyMap<string, number>): Promise<NewAddress[]> {
    const { dvipas, handedOver, returned } = wanted;
    const isInClear = handedOver.length > 0 || returned.length > 0;
    // A loose reverse path check still drops what comes by an interface without an IPv4 address (measured).
    const addresses: NewAddress[] = (isInClear ? [...tunnels.values()] : []).map((interfaceIndex) => ({
      ...{ address: DUMMY_ADDRESS, prefixBits: addressBits(AF_INET), interfaceIndex },
    }));
    for (const dvipa of dvipas) {
      const { index } =
        dvipa.role === "target" ? await linkByName(this.#route, LOOPBACK) : await this.#clientLink(dvipa);
      const prefixBits = addressBits(familyOf(dvipa.address));
      addresses.push({ address: dvipa.address, prefixBits, interfaceIndex: index });
    }
    return addresses;
  }

  async #applyAddresses(wanted: readonly NewAddress[]): Promise<void> {
    const current = await listOurAddresses(this.#route);
    for (const entry of current)
      if (!wanted.some((other) => sameAddress(entry, other))) await deleteAddress(this.#route, entry);
    for (const entry of wanted)
      if (!current.some((other) => sameAddress(entry, other))) await addAddress(this.#route, entry);
  }

  /** Rules and routes of each IP version. */
  async #routesFor(wanted: HostNetworkState, tunnels: ReadonlyMap<string, number>): Promise<HostRoutes[]> {
    const { distributes } = byRole(wanted);
    const trustedLink = wanted.targets.length === 0 ? null : (await this.#trustedLink()).index;
    return families().map((family) => {
      const isServed = distributes.some(({ address }) => familyOf(address) === family);
      const back = returnWays(wanted.returnPaths, family, tunnels);
      return hostRoutes(family, isServed ? wanted.targets : [], { trustedLink, tunnels }, back);
    });
  }

  /** ESP to a DVIPA waits for the steering. */
  async #applyQueue(distributes: readonly HostDvipa[], gateways: readonly string[]): Promise<void> {
    if (distributes.length === 0) {
      if ((await listTables("inet")).includes(NFT_TABLE)) await deleteTable("inet", NFT_TABLE);
      return;
    }
    const ends = { dvipas: distributes.map((dvipa) => dvipa.address), gateways };
    const verdicts = { ipsec: `queue num ${STEERING_QUEUE}`, icmpErrors: `queue num ${ICMP_QUEUE}` };
    await applyRuleset(steeringRuleset(NFT_TABLE, ends, verdicts));
    this.#log.debug("ESP to the DVIPAs goes through the steering queue", { ...ends, queue: STEERING_QUEUE });
  }

  /** ESP comes from the trusted link alone; the first segments of connections that are opened here wait for their distributor. */
  async #applyTargetRules(targetOf: readonly HostDvipa[]): Promise<void> {
    if (targetOf.length === 0) {
      if ((await listTables("inet")).includes(NFT_TARGET_TABLE)) await deleteTable("inet", NFT_TARGET_TABLE);
      return;
    }
    const { name } = await this.#trustedLink();
    const addresses = targetOf.map(({ address }) => address);
    await applyRuleset(targetRuleset(NFT_TARGET_TABLE, addresses, name, `queue num ${OPENINGS_QUEUE}`));
  }
}

function byRole({ dvipas }: HostNetworkState): {
  readonly distributes: readonly HostDvipa[];
  readonly targetOf: readonly HostDvipa[];
} {
  return {
    distributes: dvipas.filter(({ role }) => role === "distributor"),
    targetOf: dvipas.filter(({ role }) => role === "target"),
  };
}

/** Addresses of targets that get in GRE what this node has decrypted. */
function tunnelEnds({ targets }: HostNetworkState): string[] {
  return targets.flatMap(({ tunnel }) => tunnel ?? []);
}

/** The other ends of all GRE of this node. */
function remotesOf(wanted: HostNetworkState): ReadonlySet<string> {
  return new Set([...tunnelEnds(wanted), ...wanted.handedOver.map(({ distributor }) => distributor)]);
}

function tablesOf(wanted: HostNetworkState): string[] {
  const { distributes, targetOf } = byRole(wanted);
  return [
    ...(distributes.length > 0 ? [NFT_TABLE] : []),
    ...(targetOf.length > 0 ? [NFT_TARGET_TABLE] : []),
    ...(remotesOf(wanted).size > 0 ? [GRE_TABLE] : []),
  ];
}

function isIpv4({ address }: HostDvipa): boolean {
  return familyOf(address) === AF_INET;
}

/** A kernel that was started without IPv6 does not know its rules either (EAFNOSUPPORT). */
function families(): readonly AddressFamily[] {
  return FAMILIES.filter((family) => family === AF_INET || hasIpv6("all"));
}

/** An interface with a small MTU, or without IPv6, has no settings for it. */
function hasIpv6(interfaceName: string): boolean {
  try {
    readSysctl(["net", "ipv6", "conf", interfaceName, "forwarding"]);
    return true;
  } catch (error) {
    if (error instanceof EsplexError && error.code === "kernel.missing") return false;
    throw error;
  }
}

function sameAddress(a: NewAddress, b: NewAddress): boolean {
  return a.address === b.address && a.prefixBits === b.prefixBits && a.interfaceIndex === b.interfaceIndex;
}

function inSubnet(address: string, { address: own, prefixBits }: InterfaceAddress): boolean {
  const a = ipToBytes(address);
  const b = ipToBytes(own);
  if (a.length !== b.length) return false;
  return a.every((byte, i) => {
    const bits = Math.max(0, Math.min(8, prefixBits - 8 * i));
    const mask = (0xff << (8 - bits)) & 0xff;
    return (byte & mask) === ((b[i] ?? 0) & mask);
  });
}
