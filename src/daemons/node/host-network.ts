import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { EsplexError, messageOf } from "../../core/errors.ts";
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
import { handOverMark, steeringMark, steeringTable } from "../../net/ids.ts";
import { addressBits, AF_INET, FAMILIES, familyOf, type AddressFamily } from "../../net/inet-address.ts";
import { linkByName, linkOwning, listLinks } from "../../net/links.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import { applyRuleset, deleteTable, listCounters, listTable } from "../../net/nftables.ts";
import { deleteRoute, listOurRoutes, replaceRoute, targetRoute, tunnelRoute, type Route } from "../../net/routes.ts";
import {
  addRule,
  deleteRule,
  listOurRules,
  moveLocalRuleBack,
  moveLocalRuleBehindSteering,
  steeringRule,
  type RoutingRule,
} from "../../net/rules.ts";
import { readSysctl, SysctlJournal, type SysctlName } from "../../net/sysctl.ts";
import { EncapsulationSockets } from "./encapsulation-sockets.ts";
import { addGreLinks, greName, removeOtherGreLinks } from "./gre-links.ts";
import { greRuleset, type GreTraffic, type HandedOver } from "./gre-ruleset.ts";
import { ICMP_QUEUE } from "./icmp-errors.ts";
import { OPENINGS_QUEUE } from "./openings.ts";
import { NO_WAYS, placeOf, returnWays, wayOf, type ReturnPath, type ReturnWays } from "./return-ways.ts";
import { steeringRuleset, targetRuleset } from "./steering-ruleset.ts";

/** The nftables tables of a distributor and of a target; one node per network namespace. */
const NFT_TABLE = "esplex";
const NFT_TARGET_TABLE = "esplex-target";
/** The nftables table of a target that gets packets in GRE. */
const GRE_TABLE = "esplex-gre";
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

/** A target that packets may be steered to; `index` makes its mark and its routing table. */
export interface SteeringTarget {
  readonly index: number;
  /** Its addresses on the trusted link, at most one per IP version. */
  readonly gateways: readonly string[];
  /** The one to which GRE with what this node has decrypted goes; null when it decrypts nothing for its targets. */
  readonly tunnel: string | null;
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
 * Addresses, sysctls, ip rules, routes and the nftables table of a node, as a reconciler: `apply` makes the kernel what
 * is wanted, whatever an earlier run left behind, and touches nothing that does not carry our protocol number or name.
 */
export class HostNetwork {
  readonly #route: NetlinkSocket;
  readonly #sysctls: SysctlJournal;
  readonly #encapsulation: EncapsulationSockets;
  readonly #recordPath: string;
  readonly #trustedAddress: string;
  readonly #log: Log;
  /** Null: not looked for yet. */
  #hasGreTable: boolean | null = null;

  /** `trustedAddress` is this node's own on the trusted link; `recordPath` keeps the sysctls' first values over a crash. */
  constructor(route: NetlinkSocket, trustedAddress: string, recordPath: string, log: Log) {
    this.#route = route;
    this.#trustedAddress = trustedAddress;
    this.#encapsulation = new EncapsulationSockets(log);
    this.#recordPath = recordPath;
    this.#sysctls = new SysctlJournal(undefined, loadRecord(recordPath, log));
    this.#log = log;
  }

  /** Converges. Order: nobody answers for an address before its guards stand, nobody steers before routes are there. */
  async apply(wanted: HostNetworkState): Promise<void> {
    const distributes = wanted.dvipas.filter((dvipa) => dvipa.role === "distributor");
    if (wanted.dvipas.some((dvipa) => dvipa.role === "target" && isIpv4(dvipa))) await this.#prepareTarget();
    if (distributes.some(isIpv4)) await this.#prepareDistributor(distributes.filter(isIpv4));
    if (!distributes.every(isIpv4)) await this.#forwardIpv6();
    const tunnels = await this.#applyTunnels(wanted);
    for (const family of families()) {
      const isServed = distributes.some(({ address }) => familyOf(address) === family);
      const ways = returnWays(wanted.returnPaths, family, tunnels);
      await this.#applyRoutes(family, isServed ? wanted.targets : [], tunnels, ways);
    }
    await removeOtherGreLinks(this.#route, this.#trustedAddress, new Set(tunnels.keys()));
    await this.#applyQueue(distributes, wanted.gateways);
    const targetOf = wanted.dvipas.filter(({ role }) => role === "target");
    await this.#applyTargetRules(targetOf);
    const isInClear = wanted.handedOver.length > 0 || wanted.returned.length > 0;
    await this.#applyAddresses(wanted.dvipas, isInClear ? [...tunnels.values()] : []);
    await this.#encapsulation.apply(targetOf.map(({ address }) => address));
  }

  /** Packets that our rulesets dropped since they were last written, by `TABLE.COUNTER`. */
  async dropped(): Promise<ReadonlyMap<string, number>> {
    const dropped = new Map<string, number>();
    for (const table of [NFT_TARGET_TABLE, GRE_TABLE]) {
      const counters = (await this.#isTableThere(table)) ? await listCounters("inet", table) : null;
      for (const [name, { packets }] of counters ?? []) dropped.set(`${table}.${name}`, packets);
    }
    return dropped;
  }

  /** Removes everything of ours and puts the sysctls back. */
  async clear(): Promise<void> {
    await this.#encapsulation.apply([]);
    await this.#applyAddresses([], []);
    await this.#applyQueue([], []);
    await this.#applyTargetRules([]);
    for (const family of families()) await this.#applyRoutes(family, [], new Map(), NO_WAYS);
    await this.#applyTunnels(NO_NETWORK_STATE);
    await removeOtherGreLinks(this.#route, this.#trustedAddress, new Set());
    this.#sysctls.restore();
    rmSync(this.#recordPath, { force: true });
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
    this.#set(["net", "ipv4", "conf", "all", "arp_ignore"], "1");
    this.#set(["net", "ipv4", "conf", "all", "arp_announce"], "2");
    // Loose: the client's packets come in where no route to the client leads (RFC 3704 §2.4).
    this.#set(["net", "ipv4", "conf", name, "rp_filter"], "2");
  }

  /** A distributor forwards, and tells nobody of a shorter way (the client would then pass it by). */
  async #prepareDistributor(dvipas: readonly HostDvipa[]): Promise<void> {
    this.#set(["net", "ipv4", "ip_forward"], "1");
    this.#set(["net", "ipv4", "conf", "all", "send_redirects"], "0");
    for (const dvipa of dvipas) {
      const { name } = await this.#clientLink(dvipa);
      this.#set(["net", "ipv4", "conf", name, "send_redirects"], "0");
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
      if (readSysctl(setting("accept_ra")) === "1") this.#set(setting("accept_ra"), "2");
      this.#set(setting("forwarding"), "1");
    }
    this.#set(all, "1");
  }

  /** GRE to and from targets and distributors, and what is taken out of it. Returns the interfaces by the other end's address. */
  async #applyTunnels({ targets, handedOver, returned }: HostNetworkState): Promise<ReadonlyMap<string, number>> {
    const toTargets = targets.flatMap(({ tunnel }) => tunnel ?? []);
    const remotes = new Set([...toTargets, ...handedOver.map(({ distributor }) => distributor)]);
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
    for (const remote of remotes) this.#set(["net", "ipv4", "conf", nameOf(remote), "rp_filter"], "2");
    // What comes back has an address of this host.
    for (const remote of returned.some((dvipa) => familyOf(dvipa) === AF_INET) ? toTargets : []) {
      this.#set(["net", "ipv4", "conf", nameOf(remote), "accept_local"], "1");
    }
    if (remotes.size === 0 && this.#hasGreTable !== false) {
      if (await this.#isTableThere(GRE_TABLE)) await deleteTable("inet", GRE_TABLE);
    }
    this.#hasGreTable = remotes.size > 0;
    return links;
  }

  /** False where nftables does not answer, too: nobody has made a table there. */
  async #isTableThere(name: string): Promise<boolean> {
    try {
      return (await listTable("inet", name)) !== null;
    } catch (error) {
      if (error instanceof EsplexError) return false;
      throw error;
    }
  }

  #set(name: SysctlName, value: string): void {
    const { length } = this.#sysctls.before;
    this.#sysctls.set(name, value);
    if (this.#sysctls.before.length > length) saveRecord(this.#recordPath, this.#sysctls.before);
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

  async #applyAddresses(dvipas: readonly HostDvipa[], tunnels: readonly number[]): Promise<void> {
    // A loose reverse path check still drops what comes by an interface without an IPv4 address (measured).
    const wanted: NewAddress[] = tunnels.map((interfaceIndex) => ({
      ...{ address: DUMMY_ADDRESS, prefixBits: addressBits(AF_INET), interfaceIndex },
    }));
    for (const dvipa of dvipas) {
      const { index } =
        dvipa.role === "target" ? await linkByName(this.#route, LOOPBACK) : await this.#clientLink(dvipa);
      wanted.push({ address: dvipa.address, prefixBits: addressBits(familyOf(dvipa.address)), interfaceIndex: index });
    }
    const current = await listOurAddresses(this.#route);
    for (const entry of current)
      if (!wanted.some((other) => sameAddress(entry, other))) await deleteAddress(this.#route, entry);
    for (const entry of wanted)
      if (!current.some((other) => sameAddress(entry, other))) await addAddress(this.#route, entry);
  }

  async #applyRoutes(
    family: AddressFamily,
    targets: readonly SteeringTarget[],
    tunnels: ReadonlyMap<string, number>,
    ways: ReturnWays,
  ): Promise<void> {
    const opened = targets.flatMap(({ index, tunnel }) => {
      const interfaceIndex = tunnel === null ? undefined : tunnels.get(tunnel);
      return interfaceIndex === undefined ? [] : [{ mark: handOverMark(index), interfaceIndex }];
    });
    const routes = [
      ...(await this.#wantedRoutes(family, targets)),
      ...opened.map(({ mark, interfaceIndex }) => tunnelRoute(family, mark, interfaceIndex)),
      ...ways.routes,
    ];
    const steeringRules = [
      ...targets.map(({ index }) => steeringRule(family, steeringMark(index), steeringTable(index))),
      ...opened.map(({ mark }) => steeringRule(family, mark, mark)),
    ];
    const rules = [...steeringRules, ...ways.rules];
    const oldRules = await listOurRules(this.#route, family);
    for (const rule of oldRules) if (!rules.some((other) => sameRule(rule, other))) await deleteRule(this.#route, rule);
    const oldRoutes = await listOurRoutes(this.#route, family);
    const places = new Set(routes.map(placeOf));
    for (const entry of oldRoutes) if (!places.has(placeOf(entry))) await deleteRoute(this.#route, entry);
    const there = new Set(oldRoutes.map(wayOf));
    for (const entry of routes) if (!there.has(wayOf(entry))) await replaceRoute(this.#route, entry);
    if (steeringRules.length === 0) await moveLocalRuleBack(this.#route, family);
    else await moveLocalRuleBehindSteering(this.#route, family);
    for (const rule of rules) if (!oldRules.some((other) => sameRule(rule, other))) await addRule(this.#route, rule);
  }

  async #wantedRoutes(family: AddressFamily, targets: readonly SteeringTarget[]): Promise<Route[]> {
    if (targets.length === 0) return [];
    const { index: trustedIndex } = await this.#trustedLink();
    return targets.flatMap(({ index, gateways }) => {
      const gateway = gateways.find((address) => familyOf(address) === family);
      return gateway === undefined ? [] : [targetRoute(steeringTable(index), gateway, trustedIndex)];
    });
  }

  /** ESP to a DVIPA waits for the steering. */
  async #applyQueue(distributes: readonly HostDvipa[], gateways: readonly string[]): Promise<void> {
    if (distributes.length === 0) {
      if ((await listTable("inet", NFT_TABLE)) !== null) await deleteTable("inet", NFT_TABLE);
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
      if ((await listTable("inet", NFT_TARGET_TABLE)) !== null) await deleteTable("inet", NFT_TARGET_TABLE);
      return;
    }
    const { name } = await this.#trustedLink();
    const addresses = targetOf.map(({ address }) => address);
    await applyRuleset(targetRuleset(NFT_TARGET_TABLE, addresses, name, `queue num ${OPENINGS_QUEUE}`));
  }
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

function sameRule(a: RoutingRule, b: RoutingRule): boolean {
  const isFrom = a.from?.address === b.from?.address && a.from?.ipProtocol === b.from?.ipProtocol;
  return isFrom && a.mark?.value === b.mark?.value && a.table === b.table && a.priority === b.priority;
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

type SysctlRecord = SysctlJournal["before"];

/** The first values of an earlier run that did not get to put them back. */
function loadRecord(path: string, log: Log): SysctlRecord {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return [];
  }
  try {
    return (JSON.parse(text) as { name: string[]; value: string }[]).map(({ name, value }) => ({ name, value }));
  } catch (error) {
    log.warn("the record of sysctl values is not readable: they stay as they are when this node stops", {
      path,
      reason: messageOf(error),
    });
    return [];
  }
}

function saveRecord(path: string, record: SysctlRecord): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(`${path}.new`, JSON.stringify(record));
  renameSync(`${path}.new`, path);
}
