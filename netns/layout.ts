/**
 * The lab's plan: which namespaces there are, their links and addresses. Data only; `network.ts` builds it.
 *
 *                        client .10  (strongSwan)
 *                           │ cli0
 *   ════════════════════════╪═══════════════ client network 192.0.2.0/24 (bridge `client`) ═══
 *        │ cli0 .1          │ cli0 .11      │ cli0 .12      │ cli0 .13
 *      ┌─┴──┐             ┌─┴──┐          ┌─┴──┐          ┌─┴──┐      ┌────┐
 *      │ d1 │             │ t1 │          │ t2 │          │ t3 │      │ cf │
 *      └─┬──┘             └─┬──┘          └─┬──┘          └─┬──┘      └─┬──┘
 *        │ trust0 .1        │ trust0 .11    │ trust0 .12    │ trust0 .13│ trust0 .9
 *   ═════╧══════════════════╧═══════════════╧═══════════════╧═══════════╧ trusted link 198.51.100.0/24 (bridge `trust`)
 *
 * A lab with a NAT has its client, and a second one, behind it instead:
 *
 *      client 10.0.0.10 ──┬── 10.0.0.1 nat 192.0.2.9 ── client network
 *     client2 10.0.0.11 ──┘   prv0         cli0
 *
 * One with a plain router has a `router` in the NAT's place, which translates nothing; the cluster's hosts have a route to it.
 *
 * A lab with an IPv6 service has the same hosts on 2001:db8:1::/64 of the client network as well; one with its bus on IPv6
 * has them on 2001:db8:2::/64 of the trusted link, others only link-local IPv6 addresses there.
 *
 * DVIPA 192.0.2.100 or 2001:db8:1::100: put up by the node daemons, never by the lab. Both bridges live in the namespace `net`, so that
 * the host stays as it was. Each link end in `net` is named after its node: `c-t1` on the client network, `t-t1` on
 * the trusted link.
 */

/** The virtual address that the lab's cluster serves, unless it is one for IPv6. */
export const DVIPA = "192.0.2.100";
/** Port of the DVIPA whose connections are distributed. */
export const APPLICATION_PORT = 80;
/** The client's own address, likewise. */
export const CLIENT_ADDRESS = "192.0.2.10";

/** The IP version that client and DVIPA speak. */
export type IpVersion = 4 | 6;
/** What a lab speaks where. IPv4 is on both networks always. */
export interface LabVersions {
  /** Client and DVIPA. */
  readonly service: IpVersion;
  /** The cluster bus. */
  readonly bus: IpVersion;
}
/** The DVIPA and the client's address of a lab. */
export const SERVICE_ADDRESSES = {
  4: { dvipa: DVIPA, client: CLIENT_ADDRESS },
  6: { dvipa: onV6(1, 100), client: onV6(1, 10) },
} as const;
/** Where the coupling service listens for the cluster bus. */
export const BUS_PORT = 7600;
/** Most targets a lab may have: our choice, the plan has addresses for them. */
const MAX_TARGETS = 8;

/** Identities in IKE_AUTH (RFC 7296 §3.5, ID_FQDN) of an IPv4 lab. */
export const CLIENT_IDENTITY = "client.lab.example";
export const CLIENT2_IDENTITY = "client2.lab.example";
export const DVIPA_IDENTITY = "dvipa.lab.example";

/** The names of the lab's networks, also the names of their bridges and, with `0`, of the nodes' interfaces. */
export type NetworkName = "client" | "trust" | "private";
/** What is behind the router of a lab with one, which may translate addresses or just pass packets on. */
export const PRIVATE_SUBNET = "10.0.0.0/24";
export const PRIVATE_SUBNET6 = "2001:db8:3::/64";
export type RouterName = "nat" | "router";

/** One end of a link: the interface of a node on one of the two networks. */
export interface LabInterface {
  readonly network: NetworkName;
  /** Interface name inside the node. */
  readonly name: "cli0" | "trust0" | "prv0";
  /** IPv4 address; the prefix length is 24. */
  readonly address: string;
  /** IPv6 address, where the lab has IPv6 on that network; the prefix length is 64. */
  readonly address6: string;
  /** Locally administered MAC address: says in a capture who sent a frame. */
  readonly mac: string;
  /** Interface name of the other end, in the namespace `net`. */
  readonly port: string;
}

/** One host of the lab. */
export interface LabNode {
  readonly name: string;
  readonly role: "client" | "distributor" | "target" | "coupling" | "router";
  readonly interfaces: readonly LabInterface[];
}

/** Client, d1, cf and `targets` targets (1 to 8), in that order; the router and a second client as well where there is one. */
export function planNodes(targets: number, router: RouterName | null = null): readonly LabNode[] {
  if (!Number.isInteger(targets) || targets < 1 || targets > MAX_TARGETS) {
    throw new RangeError(`a lab has 1 to ${MAX_TARGETS} targets, not ${targets}`);
  }
  const ranks = Array.from({ length: targets }, (_, index) => index + 1);
  return [
    {
      name: "client",
      role: "client",
      interfaces: [router === null ? onClientNetwork("client", 10) : onPrivate("client", 10)],
    },
    ...(router === null ? [] : behind(router)),
    { name: "d1", role: "distributor", interfaces: [onClientNetwork("d1", 1), onTrustedLink("d1", 1)] },
    { name: "cf", role: "coupling", interfaces: [onTrustedLink("cf", 9)] },
    ...ranks.map((rank): LabNode => {
      const name = `t${rank}`;
      return { name, role: "target", interfaces: [onClientNetwork(name, 10 + rank), onTrustedLink(name, 10 + rank)] };
    }),
  ];
}

function behind(router: RouterName): readonly LabNode[] {
  return [
    { name: "client2", role: "client", interfaces: [onPrivate("client2", 11)] },
    {
      name: router,
      role: "router",
      interfaces: [onClientNetwork(router, 9), { ...onPrivate(router, 1), name: "prv0" }],
    },
  ];
}

function onPrivate(node: string, host: number): LabInterface {
  return {
    network: "private",
    name: "cli0",
    address: `10.0.0.${host}`,
    address6: onV6(3, host),
    mac: macOf(3, host),
    port: `p-${node}`,
  };
}

function onClientNetwork(node: string, host: number): LabInterface {
  return {
    network: "client",
    name: "cli0",
    address: `192.0.2.${host}`,
    address6: onV6(1, host),
    mac: macOf(1, host),
    port: `c-${node}`,
  };
}

function onTrustedLink(node: string, host: number): LabInterface {
  return {
    network: "trust",
    name: "trust0",
    address: `198.51.100.${host}`,
    address6: onV6(2, host),
    mac: macOf(2, host),
    port: `t-${node}`,
  };
}

function onV6(network: 1 | 2 | 3, host: number): string {
  return `2001:db8:${network}::${host}`;
}

function macOf(network: number, host: number): string {
  return `02:e5:00:00:0${network}:${host.toString(16).padStart(2, "0")}`;
}
