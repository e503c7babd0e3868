import { DH_GROUPS, dhGroup } from "../../crypto/dh.ts";
import { toHex, u32be } from "../../core/bytes.ts";
import { EsplexError, invariant } from "../../core/errors.ts";
import type { Secret } from "../../core/secret.ts";
import type { SharedSa, TrafficSelector } from "../../sa/spec.ts";
import { suiteName } from "../../sa/suite.ts";
import type { ChildOffer, ChildWish } from "../child-offer.ts";
import { deriveChildKeys } from "../keys.ts";
import { lifesizeOf } from "../lifetime.ts";
import { endsOf } from "../local-end.ts";
import { chooseEsp, espTransforms, type ChosenEsp } from "../proposal.ts";
import { refuseOverlap } from "../overlap.ts";
import { narrow, sameSelectors, selectorPayload } from "../selectors.ts";
import type { Child } from "../session.ts";
import type { EstablishedSession, SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { protocolIdOf } from "../suite.ts";
import { ESN, NOTIFY } from "../wire/constants.ts";
import { notify } from "../wire/notify.ts";
import { findNotify, findPayload, requirePayload, type Payload } from "../wire/payload.ts";
import type { Proposal } from "../wire/security-association.ts";
import type { TrafficSelectorPayload } from "../wire/traffic-selectors.ts";
import { childBehindNat, lowestNonce, SA_ID_BYTES, tunnelFor } from "./child.ts";
import { NONCE_BYTES } from "./init.ts";

/** An heir is what the old one was: a rekey changes keys and SPIs only (RFC 7296 §2.8). */
export function heirOf({ sa }: Child): ChildWish {
  return {
    replaces: sa.id,
    mode: sa.mode,
    suites: [sa.suite],
    numbers: [sa.esn ? ESN.YES : ESN.NO],
    local: sa.localSelectors,
    remote: sa.remoteSelectors,
  };
}

/** The groups that we offer, the one of the KE payload first. */
export function groupsFrom(first: number): number[] {
  return [first, ...DH_GROUPS.map(({ id }) => id).filter((id) => id !== first)];
}

/**
 * Prepares the request for a Child SA. With `groups` (the first is the KE payload's) each suite is offered with PFS and, as
 * second choice, without. Throws `cluster.exhausted` when there is no SPI.
 */
export function offerChild(step: Step, wish: ChildWish, groups: readonly number[], isSecondTry = false): ChildOffer {
  const [first] = groups;
  const group = first === undefined ? undefined : dhGroup(first);
  return {
    wish,
    spi: step.environment.newSpi(),
    nonce: step.environment.randomBytes(NONCE_BYTES),
    groups,
    isSecondTry,
    ke: group === undefined ? null : { group: group.id, pair: group.generate() },
  };
}

/** The payloads that every request for a Child SA has: [N(USE_TRANSPORT_MODE)] SA TSi TSr (RFC 7296 §1.2, §1.3.1). */
export function offerPayloads({ wish, spi, groups }: ChildOffer): Payload[] {
  const offered = (ids: readonly number[] | null): Omit<Proposal, "number">[] =>
    wish.suites.map((suite) => ({
      protocol: protocolIdOf(suite),
      spi: u32be(spi),
      transforms: espTransforms(suite, ids, wish.numbers),
    }));
  const proposals = [...(groups.length === 0 ? [] : offered(groups)), ...offered(null)].map((offer, i): Proposal => {
    return { number: i + 1, ...offer };
  });
  return [
    ...(wish.mode === "transport" ? [notify(NOTIFY.USE_TRANSPORT_MODE)] : []),
    { kind: "sa", proposals },
    selectorPayload("tsi", wish.local),
    selectorPayload("tsr", wish.remote),
  ];
}

/** A Child SA that the peer has agreed to. */
export interface AgreedChild {
  readonly sa: SharedSa;
  readonly group: number | null;
  readonly lowestNonce: Uint8Array;
  readonly isTwin: boolean;
}

/**
 * Reads what the peer chose of our offer. Nothing is installed yet. Throws `peer.*` when it is not what we offered, and
 * `wire.malformed` for a bad KE value: the peer then has an SA that we must delete.
 */
export function readChildAnswer(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  offer: ChildOffer,
  payloads: readonly Payload[],
  nonceR: Uint8Array,
): AgreedChild {
  const { wish } = offer;
  const { peer } = session.state;
  const transport = findNotify(payloads, NOTIFY.USE_TRANSPORT_MODE) !== undefined;
  if (transport !== (wish.mode === "transport")) {
    throw new EsplexError("peer.noProposalChosen", `the peer does not want ${wish.mode} mode`);
  }
  const ke = findPayload(payloads, "ke");
  const chosen = readChosen(offer, requirePayload(payloads, "sa").proposals, ke?.group ?? null);
  const local = readSelectors(requirePayload(payloads, "tsi"), wish.local);
  const remote = readSelectors(requirePayload(payloads, "tsr"), wish.remote);
  const peerUdpPort = childBehindNat(step, session, wish.mode);
  refuseOverlap(step, table, session, { local, remote });
  const ends = endsOf(step.environment, session.path);
  const replaced = wish.replaces === null ? null : (session.state.children.get(wish.replaces) ?? null);
  const wanted = { ...ends, mode: wish.mode, suite: chosen.suite, local, remote };
  const { reqid, isTwin } = tunnelFor(step, table, replaced, wanted);
  const nonces = { nonceI: offer.nonce, nonceR };
  const shared = agree(offer, chosen.group, ke?.value);
  const keys = deriveChildKeys({ suite: session.suite, d: session.keys.d }, chosen.suite, shared, nonces);
  const sa: SharedSa = {
    id: toHex(step.environment.randomBytes(SA_ID_BYTES)),
    ...ends,
    peerName: peer.name,
    peerIdentity: session.state.remoteIdentity,
    mode: wish.mode,
    suite: chosen.suite,
    reqid,
    inbound: { spi: offer.spi, ...keys.toInitiator },
    outbound: { spi: chosen.spi, ...keys.toResponder },
    localSelectors: local,
    remoteSelectors: remote,
    peerWindowPackets: peer.replayWindowPackets,
    inboundWindowPackets: peer.inboundWindowPackets,
    esn: chosen.esn,
    ...lifesizeOf(peer.childLifetime),
    peerUdpPort,
  };
  return { sa, group: chosen.group, lowestNonce: lowestNonce(nonces), isTwin };
}

/** One proposal, one transform of each type, all of them ours (RFC 7296 §3.3.6). */
function readChosen(offer: ChildOffer, proposals: readonly Proposal[], keGroup: number | null): ChosenEsp {
  const { wish, groups } = offer;
  const [proposal, ...others] = proposals;
  if (proposal === undefined || others.length > 0) {
    throw new EsplexError("peer.noProposalChosen", `${proposals.length} proposals where one was to be chosen`);
  }
  const chosen = chooseEsp({ kind: "sa", proposals: [proposal] }, keGroup, true, {
    espSuites: wish.suites,
    esn: "allow",
  });
  const offered =
    chosen.answer.transforms.length === proposal.transforms.length &&
    wish.suites.some((suite) => suiteName(suite) === suiteName(chosen.suite)) &&
    wish.numbers.includes(chosen.esn ? ESN.YES : ESN.NO) &&
    (chosen.group === null || groups.includes(chosen.group));
  if (!offered) throw new EsplexError("peer.noProposalChosen", "the peer chose what was not offered");
  return chosen;
}

function readSelectors(answer: TrafficSelectorPayload, offered: readonly TrafficSelector[]): TrafficSelector[] {
  const found = narrow(answer, offered);
  const whole = answer.selectors.flatMap((entry) => (entry.kind === "range" ? [entry.selector] : []));
  if (found.length === 0 || whole.length !== answer.selectors.length || !sameSelectors(found, whole)) {
    throw new EsplexError("peer.tsUnacceptable", "the peer chose traffic selectors that were not offered");
  }
  return found;
}

function agree(offer: ChildOffer, group: number | null, value: Uint8Array | undefined): Secret | null {
  if (group === null) return null;
  if (offer.ke?.group !== group) {
    throw new EsplexError("peer.invalidKePayload", "the peer chose another group than its KE payload's", { group });
  }
  invariant(value !== undefined, "a chosen group has its KE payload");
  return offer.ke.pair.agree(value);
}
