/** Why packets are dropped on a node, in words: what a counter means, and what whoever wonders about it should look at. */
import type { DropReason } from "../../steer/verdict.ts";

import type { IcmpDrop } from "./icmp-errors.ts";

export interface Explanation {
  readonly why: string;
  readonly advice: string;
}

/** Each is the counter `steer.drop.NAME` of a distributor. */
export type SteeringDrop = DropReason | "noRoute" | "noLease" | "leaseQueueFull" | "queueOverrun";

const NO_PEER =
  "no peer of ours sends this: a stranger, a broken network, or an attack; tcpdump on the client network shows who";
const RETRIED =
  "the client repeats its SYN; if it goes on, `esplex status` shows which targets are connected, drain and listen";

export const STEERING_DROPS: Readonly<Record<SteeringDrop, Explanation>> = {
  unknownSpi: {
    why: "ESP or AH to a DVIPA that belongs to no SA",
    advice:
      "after a restart of the distributor clients notice by their liveness checks; else a stranger, or an SA that is long over",
  },
  wrongSource: { why: "the SA is another peer's, by its source address", advice: NO_PEER },
  notIp: { why: "not an IP packet as it says it is", advice: NO_PEER },
  notEsp: { why: "neither ESP nor AH, or in UDP without an SPI", advice: NO_PEER },
  tooShort: { why: "it ends before its ESP or AH header, IV or ICV does", advice: NO_PEER },
  extensionHeaders: {
    why: "an IPv6 header chain without end, with repeated headers, or with a detour (RFC 8200 §4.1)",
    advice: NO_PEER,
  },
  udpLength: { why: "ESP in UDP whose UDP header does not fit its packet", advice: NO_PEER },
  fragment: {
    why: "a fragment, though the kernel reassembles them before the queue",
    advice: "another program on this host takes fragments out of the way (nft rules with a priority below -400?)",
  },
  unexpectedUdp: {
    why: "ESP in UDP for an SA that was negotiated without",
    advice: "a NAT that came up after IKE_SA_INIT; the client must negotiate anew",
  },
  missingUdp: {
    why: "bare ESP for an SA that was negotiated in UDP",
    advice: "a NAT that went away, or someone beside it; the client must negotiate anew",
  },
  nested: { why: "AH in front of ESP, or of AH again", advice: "no peer has negotiated that (RFC 7296 §1.7)" },
  replayed: {
    why: "a node has authenticated its number already, or the very packet was passed on",
    advice: "recorded and sent again, or doubled by a network",
  },
  tooOld: {
    why: "its number lies left of the SA's replay window",
    advice: "recorded and sent again, or reordered by more than `peers[].inboundReplayWindow`: make that larger",
  },
  forged: {
    why: "another packet with its number was passed on a moment ago, and its ICV is wrong",
    advice: "somebody forges packets of this SA; they only cost time",
  },
  noTarget: { why: "a SYN while no target was connected that does not drain", advice: RETRIED },
  noListener: { why: "a SYN to a port on which no target's application listens", advice: RETRIED },
  tableFull: {
    why: "a SYN while the connection table was full of confirmed connections",
    advice: "more connections than one distributor has room for, or a flood through a peer's SA",
  },
  tooManyHalfOpen: {
    why: "the first SYN of a connection of a peer of whose connections 256 have not come about: their targets wait for the end of the handshake",
    advice:
      "a flood through that peer's SA (`tcpdump` behind it), or targets that answer nobody: their applications' accept queues are full",
  },
  noRoute: {
    why: "its target has no address of the DVIPA's IP version on the trusted link",
    advice: "give the target's interface on the trusted link an address of that version",
  },
  noLease: {
    why: "its node got no lease of sequence numbers in time",
    advice: "`esplex status` shows whether the coupling service is reached, and each SA's lease and window rule",
  },
  leaseQueueFull: {
    why: "too many packets waited for leases",
    advice: "as for noLease: leases come too slowly, or a flood came before them",
  },
  queueOverrun: {
    why: "packets for steering were lost between kernel and daemon",
    advice: "more packets than this host steers: look at its processor time, and at the bursts of the peers",
  },
};

/** Each is the counter `icmp.drop.NAME` of a distributor: ICMP errors that came to a DVIPA in clear. */
export const ICMP_DROPS: Readonly<Record<IcmpDrop, Explanation>> = {
  malformed: { why: "an ICMP error that quotes no packet of the DVIPA", advice: NO_PEER },
  other: {
    why: "an ICMP error about neither ESP nor AH",
    advice:
      "about IKE, which repeats its requests and gives up by itself; else a stranger: nothing else leaves a DVIPA",
  },
  shortQuote: {
    why: "an ICMP error that quotes no sequence number: nobody knows whose packet it is about",
    advice: "a router that quotes 8 bytes of UDP or AH; set the MTU on the targets' route to its clients, or TCP's MSS",
  },
  unknownSa: { why: "an ICMP error about a packet of no SA", advice: "about an SA that is over; else forged" },
  tooMany: {
    why: "more ICMP errors in a second than the coupling service is asked about",
    advice: "forged with the SPI of a real SA, or a network that has lost its routes",
  },
  unanswered: {
    why: "the coupling service did not say who sent the packet",
    advice: "`esplex status` shows whether it is reached; the router sends the next error when the target tries again",
  },
  unknownNumber: {
    why: "an ICMP error about a sequence number that was not granted a moment ago",
    advice: "about a packet from before a restart of the coupling service; else forged",
  },
  noRoute: {
    why: "an ICMP error about a packet of a target that cannot be reached now",
    advice: "`esplex status` shows which targets are connected",
  },
};

/** Counters with names of their own. */
export const OTHER_DROPS: Readonly<Record<string, Explanation>> = {
  "steer.earlyFull": {
    why: "too many packets came on SAs that were not installed on all nodes yet",
    advice: "targets take SAs too slowly: look at their processor time and at `targets.saMessageFailed`",
  },
  "steer.aheadFull": {
    why: "too many packets waited for the switch to an heir that a peer has begun to use",
    advice: "as for steer.earlyFull",
  },
  "opening.refused": {
    why: "on a target: the first segment of a connection that it may not open",
    advice: "`steer.openRefused.*` at the distributor says why",
  },
  "opening.unanswered": {
    why: "on a target: the distributor did not say whether a connection may be opened",
    advice: "the program tries again; `esplex status` shows whether the distributor is reached",
  },
  "opening.tooMany": {
    why: "on a target: too many connections are opened at once",
    advice: "the programs try again; a flood from a program on this host, if it goes on",
  },
  "opening.repeated": {
    why: "on a target: a first segment came again while the distributor was still asked about it",
    advice: "harmless: the answer decides about the next one",
  },
  "opening.unreadable": {
    why: "on a target: the first segment of a connection that is no whole TCP header",
    advice: "a program on this host sends such packets from a DVIPA",
  },
  "ike.drop.linkLocal": { why: "IKE from a link-local IPv6 address", advice: "peers must use routable addresses" },
  "ike.drop.shortDatagram": { why: "a datagram to port 4500 that is too short for anything", advice: NO_PEER },
  "ike.drop.udpEncapsulatedEsp": {
    why: "ESP in UDP that nobody steered came to the IKE socket",
    advice: "another program on this host has changed our nftables rules: `nft list ruleset`",
  },
};

/** Of our nftables rulesets (`steering-ruleset.ts`, `init-ruleset.ts`, `gre-ruleset.ts`), by `TABLE.COUNTER`. */
export const RULESET_DROPS: Readonly<Record<string, Explanation>> = {
  "esplex.init_withheld": {
    why: "at a distributor: an IKE_SA_INIT request beyond 100 new ones in a second (1,000 at once) that did not come again, came again within 0.4 s, or was one of more than 1,000 in a second that did",
    advice:
      "a flood from spoofed addresses, or very many clients that begin at once; clients get in, since they repeat their requests",
  },
  "esplex-target.stray_ipsec": {
    why: "on a target: ESP or AH to a DVIPA that did not come over the trusted link",
    advice:
      "it passed no distributor: somebody on the client network takes this host for the DVIPA's owner (`ip neighbour` there), or sends recorded packets",
  },
  "esplex-gre.spoofed": {
    why: "GRE with our key from none of this node's distributors or targets, or not over the trusted link",
    advice: "somebody forges what these hand over in clear: find the host with tcpdump on the trusted link",
  },
  "esplex-gre.unasked": {
    why: "out of another node's GRE: neither TCP to a DVIPA that it hands over, nor TCP from one that it has protected here",
    advice:
      "the nodes do not agree on who protects a DVIPA (`dvipas[].filter`, `gateways`), or a target sends more than TCP",
  },
  "esplex-gre.stray_clear": {
    why: "on a target: TCP from a DVIPA whose distributor protects it, on another way than the one back to that",
    advice:
      "another program has changed this host's `ip rule` or routes of `proto 155`: `ip rule`, `ip route show table all`",
  },
};

/** The kernel's own (Documentation/networking/xfrm_proc.rst): of all IPsec on the host, ours or not. */
export const XFRM_DROPS: Readonly<Record<string, Explanation>> = {
  XfrmInError: { why: "an inbound error that has no counter of its own", advice: "look at the kernel's log" },
  XfrmInBufferError: { why: "no memory for an inbound packet", advice: "look at the host's memory" },
  XfrmInHdrError: { why: "an inbound header that cannot be read", advice: NO_PEER },
  XfrmInNoStates: {
    why: "no SA for the packet's SPI here",
    advice:
      "an SA that is over, or one that this node does not have yet; a stranger, where it did not come from the distributor",
  },
  XfrmInStateProtoError: {
    why: "the packet's ICV is wrong, or it cannot be decrypted",
    advice: "forged or damaged; when all of a peer's packets do, the two ends have different keys",
  },
  XfrmInStateModeError: {
    why: "tunnel and transport mode do not fit",
    advice: "the peer uses another mode than it negotiated",
  },
  XfrmInStateSeqError: {
    why: "replayed, or left of the replay window",
    advice: "as steer.drop.replayed and .tooOld: for this kernel's share of the numbers",
  },
  XfrmInStateExpired: { why: "its SA has expired", advice: "the peer goes on using an SA that is over" },
  XfrmInStateMismatch: {
    why: "the packet is outside of its SA's selector, or in another encapsulation",
    advice: NO_PEER,
  },
  XfrmInStateInvalid: { why: "its SA is going", advice: "the peer goes on using an SA that is over" },
  XfrmInTmplMismatch: {
    why: "a policy wants other protection than the packet had",
    advice: "another program's policies (`ip xfrm policy`), or an SA used for addresses that it is not for",
  },
  XfrmInNoPols: {
    why: "no policy for a packet that came protected",
    advice: "an SA used for addresses that it is not for",
  },
  XfrmInPolBlock: {
    why: "in clear, where a policy wants protection",
    advice: "somebody sends to a DVIPA without IPsec: that is what the guard is for",
  },
  XfrmInPolError: { why: "an inbound policy is going", advice: "at a change of SAs now and then" },
  XfrmOutError: { why: "an outbound error that has no counter of its own", advice: "look at the kernel's log" },
  XfrmOutBundleGenError: { why: "no outbound bundle could be made", advice: "look at the host's memory" },
  XfrmOutBundleCheckError: {
    why: "an outbound bundle did not fit its route",
    advice: "look at the routes to the client",
  },
  XfrmOutNoStates: {
    why: "nothing to send on: no SA, or one that has just run out",
    advice:
      "`esplex status`: lease, `lease.ranOut` and `lease.refused.CODE`; traffic that brings an SA up waits here too",
  },
  XfrmOutStateProtoError: { why: "a packet could not be protected", advice: "look at the kernel's log" },
  XfrmOutStateModeError: {
    why: "tunnel and transport mode do not fit",
    advice: "look at the MTU on the way to the client",
  },
  XfrmOutStateSeqError: {
    why: "the SA's numbers are used up",
    advice: "the peer does not answer rekeys: its log says why",
  },
  XfrmOutStateExpired: {
    why: "a sender was faster than its lease was refilled",
    advice: "`lease.ranOut`, and what `esplex status` says of the window rule and the refill's latency",
  },
  XfrmOutPolBlock: {
    why: "from a DVIPA in clear, where a policy wants protection",
    advice: "an answer to a client whose SA is gone: that is what the guard is for",
  },
  XfrmOutPolDead: { why: "an outbound policy is going", advice: "at a change of SAs now and then" },
  XfrmOutPolError: { why: "an outbound policy error", advice: "look at the kernel's log" },
  XfrmFwdHdrError: { why: "a forwarded header that cannot be read", advice: NO_PEER },
  XfrmAcquireError: {
    why: "the kernel could not ask for an SA that a packet wants",
    advice: "no daemon listens for it, or memory is short: is the node's daemon running?",
  },
  XfrmInStateDirError: {
    why: "an outbound SA has the packet's SPI",
    advice: "another program's states with a direction: `ip xfrm state`",
  },
  XfrmOutStateDirError: {
    why: "the SA to send on is an inbound one",
    advice: "another program's states with a direction: `ip xfrm state`",
  },
  XfrmOutStateInvalid: { why: "its SA is going", advice: "at a change of SAs now and then" },
};
