import { dhGroup } from "../../crypto/dh.ts";
import { toHex, u32be } from "../../core/bytes.ts";
import { EsplexError, invariant } from "../../core/errors.ts";
import type { Secret } from "../../core/secret.ts";
import { localEndOf, NAT_T_PORT, type SharedSa, type TrafficSelector } from "../../sa/spec.ts";
import { DEFAULT_ESP_SUITES, protocolOf, type ChildSuite } from "../../sa/suite.ts";
import type { ChildMode, IkePeerConfig } from "../environment.ts";
import { deriveChildKeys } from "../keys.ts";
import { lifesizeOf } from "../lifetime.ts";
import { endsOf, isGateway } from "../local-end.ts";
import { isNatted } from "../nat.ts";
import { refuseOverlap } from "../overlap.ts";
import { chooseEsp, type ChosenEsp } from "../proposal.ts";
import { hostSelector, narrow, sameSelectors, selectorPayload, subnetSelector } from "../selectors.ts";
import type { Child, IkeSession, PendingInstall } from "../session.ts";
import type { EstablishedSession, SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { NOTIFY } from "../wire/constants.ts";
import { notify } from "../wire/notify.ts";
import { findNotify, findPayload, requirePayload, type Payload } from "../wire/payload.ts";

/** Names an SA for all time, see `SharedSa.id`. */
export const SA_ID_BYTES = 16;

/** Which exchange asks for the Child SA. */
export interface ChildRequest {
  readonly payloads: readonly Payload[];
  readonly nonceI: Uint8Array;
  readonly nonceR: Uint8Array;
  /** False in IKE_AUTH, whose Child SA takes its keys from the IKE SA's own exchange (RFC 7296 §1.2). */
  readonly pfs: boolean;
  /** The SA that it replaces. */
  readonly replaces: Child | null;
}

export interface NegotiatedChild {
  readonly sa: SharedSa;
  readonly transportMode: Payload[];
  readonly saPayload: Payload;
  /** Our KE payload with PFS. */
  readonly ke: Payload[];
  readonly selectors: Payload[];
  /** Group of the KE exchange, null without PFS. */
  readonly group: number | null;
  readonly lowestNonce: Uint8Array;
  readonly isTwin: boolean;
}

/** The one that decides between two rekeys of the same SA (RFC 7296 §2.8.1): compared octet by octet, the shorter one is lower. */
export function lowestNonce({ nonceI, nonceR }: Pick<ChildRequest, "nonceI" | "nonceR">): Uint8Array {
  return Buffer.compare(nonceI, nonceR) < 0 ? nonceI : nonceR;
}

/**
 * Negotiates one Child SA as the exchange's responder: suite, mode, selectors, keys (RFC 7296 §1.3.1, §2.9, §2.17).
 * Nothing is installed yet. Throws `peer.*`, and `cluster.*` when the cluster has no SPI or reqid left.
 */
export function negotiateChild(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  request: ChildRequest,
): NegotiatedChild {
  const { payloads } = request;
  const { peer } = session.state;
  const mode = chooseMode(step, session, payloads, request.replaces);
  const peerUdpPort = childBehindNat(step, session, mode);
  const ke = findPayload(payloads, "ke");
  const chosen = chooseEsp(requirePayload(payloads, "sa"), ke?.group ?? null, request.pfs, {
    espSuites: suitesFor(peer, isNatted(session.nat), request.replaces),
    esn: peer.esn,
  });
  const ends = endsOf(step.environment, session.path);
  const { local, remote } = chooseSelectors(ends, peer, mode, payloads);
  refuseOverlap(step, table, session, { local, remote });
  const wanted = { ...ends, mode, suite: chosen.suite, local, remote };
  const { reqid, isTwin } = tunnelFor(step, table, request.replaces, wanted);
  const spi = step.environment.newSpi();
  const { shared, publicValue } = agree(chosen, ke?.value);
  const keys = deriveChildKeys({ suite: session.suite, d: session.keys.d }, chosen.suite, shared, request);
  const sa: SharedSa = {
    id: toHex(step.environment.randomBytes(SA_ID_BYTES)),
    ...ends,
    peerName: peer.name,
    peerIdentity: session.state.remoteIdentity,
    mode,
    suite: chosen.suite,
    reqid,
    inbound: { spi, ...keys.toResponder },
    outbound: { spi: chosen.spi, ...keys.toInitiator },
    localSelectors: local,
    remoteSelectors: remote,
    peerWindowPackets: peer.replayWindowPackets,
    inboundWindowPackets: peer.inboundWindowPackets,
    esn: chosen.esn,
    ...lifesizeOf(peer.childLifetime),
    peerUdpPort,
  };
  return {
    sa,
    transportMode: mode === "transport" ? [notify(NOTIFY.USE_TRANSPORT_MODE)] : [],
    saPayload: { kind: "sa", proposals: [{ ...chosen.answer, spi: u32be(spi) }] },
    ke: publicValue === null || chosen.group === null ? [] : [{ kind: "ke", group: chosen.group, value: publicValue }],
    selectors: [selectorPayload("tsi", remote), selectorPayload("tsr", local)],
    group: chosen.group,
    lowestNonce: lowestNonce(request),
    isTwin,
  };
}

/** What an installation keeps of a Child SA that the peer asked for. */
export function madeByPeer(
  { sa, group, lowestNonce: nonce, isTwin }: NegotiatedChild,
  replaces: Child | null,
): Omit<PendingInstall, "deadlineMs"> {
  return { sa, group, lowestNonce: nonce, replaces: replaces?.sa.id ?? null, isOurs: false, isTwin };
}

/**
 * What a Child SA may have. An heir has the protocol of the old one, for its tunnel's policies name one. AH covers the addresses
 * and has no form in UDP: it does not pass a NAT (RFC 3948 §1).
 */
export function suitesFor(
  { espSuites }: Pick<IkePeerConfig, "espSuites">,
  hasNat: boolean,
  replaces: { readonly sa: Pick<SharedSa, "suite"> } | null,
): readonly ChildSuite[] {
  return (espSuites ?? DEFAULT_ESP_SUITES).filter((suite) => {
    const protocol = protocolOf(suite);
    return (protocol === "esp" || !hasNat) && (replaces === null || protocolOf(replaces.sa.suite) === protocol);
  });
}

/**
 * The peer's UDP port when a NAT is on the way; null when there is none. Throws `peer.noProposalChosen` for what does not work
 * there: IKE that has stayed on port 500, and transport mode, whose TCP checksums are over addresses that the NAT has changed: a
 * kernel lets them pass on states that take the UDP header off themselves alone (`esp_input_done2`), and a target's do not.
 */
export function childBehindNat(step: Step, { nat, path }: IkeSession, mode: ChildMode): number | null {
  if (!isNatted(nat)) return null;
  const problem =
    path.local.port !== NAT_T_PORT ? "IKE is not on port 4500" : mode === "transport" ? "transport mode" : null;
  if (problem === null) return path.remote.port;
  step.count("natRefused");
  throw new EsplexError("peer.noProposalChosen", `a NAT is on the way: ${problem}`);
}

/**
 * Tunnel mode unless the peer asks for transport mode and may have it (RFC 7296 §1.3.1), which it may not behind a NAT, nor with a
 * security gateway (RFC 4301 §4.1). A rekey keeps the mode.
 */
function chooseMode(
  step: Step,
  session: EstablishedSession,
  payloads: readonly Payload[],
  replaces: Child | null,
): ChildMode {
  const { peer } = session.state;
  const asked = findNotify(payloads, NOTIFY.USE_TRANSPORT_MODE) !== undefined;
  const hasGateway = isGateway(step.environment, session.path.local.address);
  const isDeclined = asked && (isNatted(session.nat) || hasGateway);
  if (isDeclined) step.count(hasGateway ? "gatewayTransportDeclined" : "natTransportDeclined");
  const mode = asked && !isDeclined && peer.modes.includes("transport") ? "transport" : "tunnel";
  if (!peer.modes.includes(mode)) {
    throw new EsplexError("peer.noProposalChosen", "tunnel mode is not allowed for this peer");
  }
  if (replaces !== null && replaces.sa.mode !== mode) {
    throw new EsplexError("peer.noProposalChosen", `a rekey from ${replaces.sa.mode} to ${mode} mode`);
  }
  return mode;
}

function chooseSelectors(
  ends: Pick<SharedSa, "dvipa" | "peer">,
  peer: IkePeerConfig,
  mode: ChildMode,
  payloads: readonly Payload[],
): { local: TrafficSelector[]; remote: TrafficSelector[] } {
  const subnets = mode === "tunnel" ? peer.remoteSubnets.map(subnetSelector) : [];
  const remotePolicy = [hostSelector(ends.peer), ...subnets];
  const remote = narrow(requirePayload(payloads, "tsi"), remotePolicy);
  const local = narrow(requirePayload(payloads, "tsr"), [hostSelector(ends.dvipa)]);
  if (remote.length === 0 || local.length === 0) {
    throw new EsplexError("peer.tsUnacceptable", "no traffic selector is allowed");
  }
  return { local, remote };
}

/**
 * A rekeyed SA keeps its reqid. So does one that says the same as a living one, its twin (a peer that reauthenticates makes the
 * new before it breaks the old): the kernel has one policy per selector, and that names one reqid.
 */
export function tunnelFor(
  step: Step,
  table: SessionTable,
  replaces: Child | null,
  wanted: Pick<SharedSa, "dvipa" | "gateway" | "peer" | "mode" | "suite"> & {
    readonly local: readonly TrafficSelector[];
    readonly remote: readonly TrafficSelector[];
  },
): { readonly reqid: number; readonly isTwin: boolean } {
  if (replaces !== null) return { reqid: replaces.sa.reqid, isTwin: false };
  for (const { state } of table.at(localEndOf(wanted), wanted.peer)) {
    const made = [...state.children.values(), state.pending, state.ownPending].filter((one) => one !== null);
    for (const { sa } of made) {
      if (sa.mode !== wanted.mode || protocolOf(sa.suite) !== protocolOf(wanted.suite)) continue;
      if (!sameSelectors(sa.localSelectors, wanted.local)) continue;
      if (sameSelectors(sa.remoteSelectors, wanted.remote)) return { reqid: sa.reqid, isTwin: true };
    }
  }
  return { reqid: step.environment.newReqid(), isTwin: false };
}

function agree(
  chosen: ChosenEsp,
  keValue: Uint8Array | undefined,
): { shared: Secret | null; publicValue: Uint8Array | null } {
  if (chosen.group === null) return { shared: null, publicValue: null };
  const group = dhGroup(chosen.group);
  invariant(group !== undefined && keValue !== undefined, "a chosen group is known and has its KE payload");
  const pair = group.generate();
  return { shared: pair.agree(keValue), publicValue: pair.publicValue };
}
