/**
 * Which states and policies a node wants for the SAs of a DVIPA: pure functions.
 *
 * | what | where | why |
 * |---|---|---|
 * | inbound state | every node | its own replay window; the distributor decrypts what it does not forward (ESN: see below) |
 * | outbound state | when told | born parked or with a lease: it never sends without one |
 * | policies in, out | every node | what is not protected by this SA does not pass |
 * | policy fwd | tunnel mode: local selectors beyond the DVIPA, or the distributor hands over | inner packets that are routed on |
 * | allow out TCP | target, for an SA that ends at its distributor | what goes back to that in GRE (`host-network.ts` has the route) |
 * | trap out | `initiate.start: onDemand` | a packet that needs an SA is dropped, and the kernel asks for one |
 * | block in, out, fwd of the DVIPA | every node | nothing in clear when a policy or an SA is missing |
 * | allow fwd ESP, AH to and from the DVIPA | distributor | still-encrypted packets on their way to a target (measured: without it XfrmInTmplMismatch), and back where it is the target's router |
 * | allow fwd UDP 4500 from the DVIPA | distributor | the same in UDP; a target's own block keeps its programs from sending there |
 * | allow UDP 500, 4500 in, out | distributor | IKE |
 * | allow in with a mark | target | TCP that came in GRE from a distributor that hands over (nftables sets the mark) |
 * | allow fwd with a mark | distributor | TCP that came back in GRE from a target (likewise); the SA's policy out is next |
 * | allow in ICMP with a mark | every node | errors about its ESP or AH: the distributor knows that it has sent the packet |
 * | allow fwd ICMP to the DVIPA | distributor | such errors on their way to a target |
 * | allow out ICMP of the DVIPA to itself | distributor | its kernel's errors about what it protects for targets, on their way there |
 * | allow neighbour discovery in, out | distributor, IPv6 | RFC 4861 messages from and to the DVIPA |
 *
 * ESN and many receivers: the high 32 bits do not travel, each kernel infers them from the highest number T that it has
 * itself authenticated (RFC 4303 appendix A2.2), and every node sees only its share. With window W it is right for
 * [T - W + 1, T - W + 2^32]. A node that gets the SA later starts with the T of all nodes. But one that authenticates nothing of
 * an SA while the peer sends 2^32 - W numbers fails each later ICV (`XfrmInStateProtoError`, never a wrong
 * packet let in) until the peer rekeys: a peer that uses ESN must rekey within 2^32 packets (docs/cluster-file.md). The
 * numbers that a distributor peeks cannot help: they are not authenticated, a forged one would make its target deaf. What
 * other nodes authenticated could; nobody moves the window of a state that is there.
 */
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { HANDED_OVER_MARK, ICMP_ERROR_MARK, RETURNED_MARK, TRAP_REQID } from "../net/ids.ts";
import { addressBits, AF_INET6, anyAddress, familyOf } from "../net/inet-address.ts";
import { localEndOf, NAT_T_PORT, type SharedSa, type TrafficSelector } from "../sa/spec.ts";
import { protocolOf, type ChildSuite } from "../sa/suite.ts";
import { IPPROTO_AH, IPPROTO_ESP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP } from "./constants.ts";
import { POLICY_PRIORITY, type PolicySpec, type PolicyTemplate } from "./policies.ts";
import { ANY_PORT, policySelectors, reversed, type PolicySelector, type PortMask, type Prefix } from "./selectors.ts";
import type { Allowance, StateId, StateProtocol, StateSpec } from "./states.ts";

/** What a node does for a DVIPA: its owner, or a host behind it. */
export type NodeRole = "distributor" | "target";

/** States and policies that should be in the kernel. */
export interface Wanted {
  readonly states: readonly StateSpec[];
  readonly policies: readonly PolicySpec[];
}

export interface ShadowOptions {
  /** What the nodes have received already, as it is when the inbound state is made. */
  readonly received?: StateSpec["received"];
  /** Null: not yet. `unlimited` is not possible: a shared SA sends on leases only. */
  readonly outbound: null | {
    readonly allowance: Exclude<Allowance, { kind: "unlimited" }>;
    /** Sequence events after this many packets. */
    readonly eventThresholdPackets: number;
  };
  /** This node hands the inner packets on, to a target: they are forwarded here. */
  readonly routesOn?: boolean;
}

/** ESN needs a window on some kernels, even on a state that only sends; the smallest there is. */
const OUTBOUND_ESN_WINDOW_PACKETS = 32;
const IKE_PORTS = [500, NAT_T_PORT] as const;
/** Neighbour solicitation and advertisement (RFC 4861 §4.3, §4.4). */
const NEIGHBOUR_DISCOVERY_TYPES = [135, 136] as const;
const EXACT_PORT = 0xffff;

export function inboundId(sa: SharedSa): StateId {
  return { destination: canonical(localEndOf(sa)), spi: sa.inbound.spi, protocol: ipProtocolOf(sa.suite) };
}

export function outboundId({ peer, suite, outbound }: SharedSa): StateId {
  return { destination: canonical(peer), spi: outbound.spi, protocol: ipProtocolOf(suite) };
}

/** The IP protocol of states and templates with this suite. */
export function ipProtocolOf(suite: ChildSuite): StateProtocol {
  return protocolOf(suite) === "ah" ? IPPROTO_AH : IPPROTO_ESP;
}

/** States and policies of one SA. Throws `wire.unsupported` when its selectors cannot be expressed. */
export function shadowOf(sa: SharedSa, { outbound, received, routesOn = false }: ShadowOptions): Wanted {
  const states = [inboundState(sa, received)];
  if (outbound !== null) states.push(outboundState(sa, outbound.allowance, outbound.eventThresholdPackets));
  return { states, policies: saPolicies(sa, routesOn) };
}

/**
 * What a target needs of an SA that ends at its distributor: TCP goes back there in clear, over the trusted link. Throws
 * `wire.unsupported` when its selectors cannot be expressed, or have nothing to do with its DVIPA.
 */
export function returnPathOf({ dvipa, localSelectors, remoteSelectors }: SharedSa): Wanted {
  // Of this address alone: another distributor may own the others.
  const own = localSelectors.filter((selector) => isOnly(selector, dvipa));
  const policies = policySelectors(own, remoteSelectors).flatMap((selector) =>
    selector.protocol === 0 || selector.protocol === IPPROTO_TCP
      ? [rule("out", "allow", { ...selector, protocol: IPPROTO_TCP })]
      : [],
  );
  return { states: [], policies };
}

/** Policies that keep a DVIPA out of the clear, whatever SAs there are. */
export function dvipaGuard(dvipa: string, role: NodeRole): readonly PolicySpec[] {
  const own = host(dvipa);
  const any: Prefix = { address: anyAddress(familyOf(dvipa)), prefixBits: 0 };
  const outgoing: PolicySelector = plain(own, any);
  const incoming = reversed(outgoing);
  const icmpErrors = { ...incoming, protocol: icmpOf(dvipa) };
  const always = [
    rule("in", "block", incoming),
    rule("out", "block", outgoing),
    rule("fwd", "block", incoming),
    rule("fwd", "block", outgoing),
    { ...rule("in", "allow", icmpErrors), mark: ICMP_ERROR_MARK },
  ];
  const inGre = { ...rule("in", "allow", { ...incoming, protocol: IPPROTO_TCP }), mark: HANDED_OVER_MARK };
  if (role === "target") return [...always, inGre];
  const backInGre = { ...rule("fwd", "allow", { ...outgoing, protocol: IPPROTO_TCP }), mark: RETURNED_MARK };
  const ownErrors = rule("out", "allow", { ...plain(own, own), protocol: icmpOf(dvipa) });
  return [...always, backInGre, rule("fwd", "allow", icmpErrors), ownErrors, ...exemptions(dvipa, outgoing)];
}

/** Joins wants; when several want the same policy key, the highest precedence (lowest number) wins. */
export function joinWanted(...parts: readonly Wanted[]): Wanted {
  return { states: parts.flatMap((part) => part.states), policies: parts.flatMap((part) => part.policies) };
}

/** Traffic that is to bring an SA up. */
export interface Trap {
  readonly dvipa: string;
  readonly peer: string;
  readonly mode: "transport" | "tunnel";
  readonly local: readonly TrafficSelector[];
  readonly remote: readonly TrafficSelector[];
}

/**
 * Policies that make the kernel ask for an SA (`acquire`) when a packet needs it; the packet itself is dropped. An SA's own policies
 * come first, or take a trap's place while they are there.
 */
export function trapPolicies({ dvipa, peer, mode, local, remote }: Trap): PolicySpec[] {
  const endpoints = mode === "tunnel" ? { source: canonical(dvipa), destination: canonical(peer) } : null;
  return policySelectors(local, remote).map((selector) => ({
    direction: "out",
    action: "allow",
    priority: POLICY_PRIORITY.trap,
    selector,
    // ESP or AH: no state of either has this reqid.
    template: { protocol: IPPROTO_ESP, mode, reqid: TRAP_REQID, endpoints },
  }));
}

function exemptions(dvipa: string, outgoing: PolicySelector): PolicySpec[] {
  const incoming = reversed(outgoing);
  const ike = IKE_PORTS.flatMap((port) => {
    const selector = { ...outgoing, protocol: IPPROTO_UDP, sourcePort: exactly(port) };
    return [rule("out", "allow", selector), rule("in", "allow", reversed(selector))];
  });
  const ciphertext = [IPPROTO_ESP, IPPROTO_AH].flatMap((protocol) => [
    rule("fwd", "allow", { ...incoming, protocol }),
    rule("fwd", "allow", { ...outgoing, protocol }),
  ]);
  const inUdp = rule("fwd", "allow", { ...outgoing, protocol: IPPROTO_UDP, sourcePort: exactly(NAT_T_PORT) });
  const neighbours = familyOf(dvipa) === AF_INET6 ? NEIGHBOUR_DISCOVERY_TYPES : [];
  const discovery = neighbours.flatMap((type) => {
    const selector = { ...outgoing, protocol: IPPROTO_ICMPV6, sourcePort: exactly(type) };
    return [rule("out", "allow", selector), rule("in", "allow", reversed(selector))];
  });
  return [...ike, ...ciphertext, inUdp, ...discovery];
}

function inboundState(sa: SharedSa, received: StateSpec["received"]): StateSpec {
  const { encryptionKey, integrityKey } = sa.inbound;
  return {
    id: inboundId(sa),
    source: canonical(sa.peer),
    ...common(sa),
    encryptionKey,
    integrityKey,
    replayWindowPackets: sa.inboundWindowPackets,
    received,
    encapsulation: null,
    allowance: { kind: "unlimited" },
    eventThresholdPackets: 0,
  };
}

function outboundState(sa: SharedSa, allowance: Allowance, eventThresholdPackets: number): StateSpec {
  const { encryptionKey, integrityKey } = sa.outbound;
  return {
    id: outboundId(sa),
    source: canonical(localEndOf(sa)),
    ...common(sa),
    encryptionKey,
    integrityKey,
    replayWindowPackets: sa.esn ? OUTBOUND_ESN_WINDOW_PACKETS : 0,
    encapsulation: sa.peerUdpPort === null ? null : { sourcePort: NAT_T_PORT, destinationPort: sa.peerUdpPort },
    allowance,
    eventThresholdPackets,
  };
}

function common({ mode, reqid, suite, esn }: SharedSa): Pick<StateSpec, "mode" | "reqid" | "suite" | "esn"> {
  return { mode, reqid, suite, esn };
}

function saPolicies(sa: SharedSa, handsOn: boolean): PolicySpec[] {
  const { dvipa, gateway, peer, mode, reqid, localSelectors, remoteSelectors } = sa;
  const template = { protocol: ipProtocolOf(sa.suite), mode, reqid };
  const isTunnel = mode === "tunnel";
  const outer = { source: canonical(localEndOf(sa)), destination: canonical(peer) };
  const out: PolicyTemplate = { ...template, endpoints: isTunnel ? outer : null };
  const back = { source: outer.destination, destination: outer.source };
  const inward: PolicyTemplate = { ...template, endpoints: isTunnel ? back : null };
  const isHandedOver = handsOn || gateway !== undefined;
  const routesOn = isTunnel && (isHandedOver || localSelectors.some((selector) => !isOnly(selector, dvipa)));
  return policySelectors(localSelectors, remoteSelectors).flatMap((selector) => {
    const base = { action: "allow", priority: saPriority(selector) } as const;
    const incoming = { ...base, selector: reversed(selector), template: inward };
    return [
      { ...base, direction: "out" as const, selector, template: out },
      { ...incoming, direction: "in" as const },
      ...(routesOn ? [{ ...incoming, direction: "fwd" as const }] : []),
    ];
  });
}

/** Narrower selectors come first (RFC 4301 §4.4.1: the SPD is ordered). */
function saPriority({ destination, protocol, sourcePort, destinationPort }: PolicySelector): number {
  const wideBits = addressBits(familyOf(destination.address)) - destination.prefixBits;
  const anyPorts = Number(sourcePort.mask === 0) + Number(destinationPort.mask === 0);
  return POLICY_PRIORITY.sa + Math.min(POLICY_PRIORITY.saSpan, 4 * wideBits + (protocol === 0 ? 3 : anyPorts));
}

function isOnly({ startAddress, endAddress }: TrafficSelector, dvipa: string): boolean {
  return canonical(startAddress) === canonical(dvipa) && canonical(endAddress) === canonical(dvipa);
}

function rule(direction: PolicySpec["direction"], action: PolicySpec["action"], selector: PolicySelector): PolicySpec {
  const priority = action === "block" ? POLICY_PRIORITY.block : POLICY_PRIORITY.exemption;
  return { direction, action, selector, priority, template: null };
}

function icmpOf(dvipa: string): number {
  return familyOf(dvipa) === AF_INET6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
}

function plain(source: Prefix, destination: Prefix): PolicySelector {
  return { source, destination, protocol: 0, sourcePort: ANY_PORT, destinationPort: ANY_PORT };
}

function host(address: string): Prefix {
  return { address: canonical(address), prefixBits: addressBits(familyOf(address)) };
}

function exactly(port: number): PortMask {
  return { port, mask: EXACT_PORT };
}

/** As the kernel's addresses are printed, so that texts compare. */
function canonical(address: string): string {
  return ipFromBytes(ipToBytes(address));
}
