import { u32be } from "../../core/bytes.ts";
import { EsplexError, unreachable } from "../../core/errors.ts";
import type { ChildOffer, ChildWish } from "../child-offer.ts";
import { mayRekey } from "../lifecycle.ts";
import { postpone } from "../lifetime.ts";
import type { Authenticating, Child, IkeSession } from "../session.ts";
import { isEstablished, type EstablishedSession } from "../session-table.ts";
import type { Step } from "../step.ts";
import { protocolIdOf } from "../suite.ts";
import type { OwnRequest, OwnWish } from "../window.ts";
import { EXCHANGE, NOTIFY, PROTOCOL } from "../wire/constants.ts";
import { syncNotify } from "../wire/message-id-sync.ts";
import { notify } from "../wire/notify.ts";
import type { Payload } from "../wire/payload.ts";
import { newSync } from "./begin-sync.ts";
import { reasonOf } from "./failure.ts";
import { ikeOfferPayloads, offerIkeHeir } from "./offer-ike.ts";
import { ownAuthPayloads } from "./own-auth.ts";
import { groupsFrom, heirOf, offerChild, offerPayloads } from "./offer-child.ts";

/** A request that is ready to be sealed. */
interface BegunExchange {
  readonly exchange: number;
  readonly payloads: readonly Payload[];
  readonly request: OwnRequest;
}

/** Builds the request for a wish; null when there is nothing (any more) to ask for. */
export function beginExchange(step: Step, session: IkeSession, wish: OwnWish): BegunExchange | null {
  switch (wish.kind) {
    case "auth":
      return session.state.kind === "authenticating" ? beginAuth(step, session, session.state, wish) : null;
    case "dpd":
      return informational([], wish);
    case "deleteIke":
      return informational([{ kind: "delete", protocol: PROTOCOL.IKE, spis: [] }], wish);
    case "deleteSpi":
      return informational([deleteOf(wish.protocol, wish.spi)], wish);
    case "invalidSpi":
      return informational([notify(NOTIFY.INVALID_SPI, u32be(wish.spi)), deleteOf(wish.protocol, wish.spi)], wish);
    case "deleteChild": {
      const child = childOf(session, wish.saId);
      if (child === null) return null;
      return informational([deleteOf(protocolIdOf(child.sa.suite), child.sa.inbound.spi)], wish);
    }
    case "rekeyChild": {
      const child = childOf(session, wish.saId);
      return child === null || !mayRekey(child) ? null : beginRekeyChild(step, session, child, wish.group);
    }
    case "createChild": {
      const offer = isEstablished(session) ? tryOffer(step, wish.wish, wish.group, session.suite.group) : null;
      return offer === null ? null : createChild(offer, [], { kind: "createChild", offer });
    }
    case "synchronise": {
      // The answer to what the peer has asked already goes first: the peer would ask again under another ID.
      if (!isEstablished(session) || !session.state.messageIdSync) return null;
      if (session.state.pending !== null) {
        step.count("syncWhileBusy");
        return null;
      }
      const request = newSync(step, session, null);
      return informational([syncNotify(request.sync)], request);
    }
    case "rekeyIke":
      return isEstablished(session) ? beginRekeyIke(step, session, wish.group) : null;
    default:
      return unreachable(wish);
  }
}

function informational(payloads: readonly Payload[], request: OwnRequest): BegunExchange {
  return { exchange: EXCHANGE.INFORMATIONAL, payloads, request };
}

/** Null when we cannot prove ourselves: the attempt ends when its time is over. */
function beginAuth(
  step: Step,
  session: IkeSession,
  state: Authenticating,
  request: Extract<OwnRequest, { kind: "auth" }>,
): BegunExchange | null {
  try {
    return { exchange: EXCHANGE.IKE_AUTH, payloads: ownAuthPayloads(step, session, state), request };
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    step.log("error", "we cannot prove ourselves to the peer", { ...session.facts(), reason: error.message });
    return null;
  }
}

/** For ESP and AH a DELETE names the sender's inbound SPI (RFC 7296 §1.4.1). */
function deleteOf(protocol: number, inboundSpi: number): Payload {
  return { kind: "delete", protocol, spis: [u32be(inboundSpi)] };
}

function childOf({ state }: IkeSession, saId: string): Child | null {
  return state.kind === "established" ? (state.children.get(saId) ?? null) : null;
}

/** N(REKEY_SA) names the SA by the SPI that its sender receives on (RFC 7296 §3.10.1). */
function beginRekeyChild(step: Step, session: IkeSession, child: Child, group: number | null): BegunExchange | null {
  const { sa, life } = child;
  const offer = tryOffer(step, heirOf(child), group, child.group ?? session.suite.group);
  if (offer === null) {
    postpone(step, life);
    return null;
  }
  const name = { protocol: protocolIdOf(sa.suite), spi: u32be(sa.inbound.spi) };
  const rekeys: Payload = { ...notify(NOTIFY.REKEY_SA), ...name };
  return createChild(offer, [rekeys], { kind: "rekeyChild", saId: sa.id, offer });
}

/** SK{SA(SPI), Ni, KEi}, RFC 7296 §1.3.2. */
function beginRekeyIke(step: Step, session: EstablishedSession, group: number | null): BegunExchange {
  const offer = offerIkeHeir(step, session, session.state.peer.ikeSuites, group);
  return {
    exchange: EXCHANGE.CREATE_CHILD_SA,
    payloads: ikeOfferPayloads(offer),
    request: { kind: "rekeyIke", offer },
  };
}

/** SK{[N(REKEY_SA)], [N(USE_TRANSPORT_MODE)], SA, TSi, TSr, Ni, KEi}, RFC 7296 §1.3.1, §1.3.3. */
function createChild(offer: ChildOffer, before: readonly Payload[], request: OwnRequest): BegunExchange {
  const { nonce, ke } = offer;
  const payloads: Payload[] = [...before, ...offerPayloads(offer), { kind: "nonce", nonce }];
  if (ke !== null) payloads.push({ kind: "ke", group: ke.group, value: ke.pair.publicValue });
  return { exchange: EXCHANGE.CREATE_CHILD_SA, payloads, request };
}

/** With the group that the peer wanted, or our first choice. Null when the cluster has no SPI left: counted. */
function tryOffer(step: Step, wish: ChildWish, wanted: number | null, first: number): ChildOffer | null {
  try {
    return offerChild(step, wish, groupsFrom(wanted ?? first), wanted !== null);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    return null;
  }
}
