import { dhGroup } from "../crypto/dh.ts";
import { EsplexError, unreachable } from "../core/errors.ts";
import { takeAuthAnswer } from "./auth-answer.ts";
import type { ChildOffer } from "./child-offer.ts";
import { beginDeleteIke } from "./closing.ts";
import { reasonOf, wantedGroup } from "./exchange/failure.ts";
import { heirOf, readChildAnswer } from "./exchange/offer-child.ts";
import { finishDelete, postponeRekey, startOwnInstall } from "./installation.ts";
import { takeIkeAnswer } from "./ike-rekey.ts";
import { dropSession, removeChild } from "./lifecycle.ts";
import { refuseForNow } from "./lifetime.ts";
import { sendOwn } from "./sending.ts";
import type { IkeSession } from "./session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { protocolIdOf } from "./suite.ts";
import type { OwnRequest } from "./window.ts";
import { NOTIFY, notifyCounter, notifyName } from "./wire/constants.ts";
import { openedPayloads, type OpenedMessage } from "./wire/encrypted.ts";
import type { NotifyPayload } from "./wire/notify.ts";
import { findError, requirePayload, type Payload } from "./wire/payload.ts";

/** Takes the authentic answer to a request of ours, and sends the next one that waits. */
export function takeAnswer(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  request: OwnRequest,
  opened: OpenedMessage,
): void {
  switch (request.kind) {
    case "auth":
      if (session.state.kind === "authenticating") takeAuthAnswer(step, table, session, session.state, opened);
      break;
    case "synchronise": // taken before: it may be the wrong one
    case "dpd":
    case "deleteSpi":
    case "invalidSpi":
      break;
    case "deleteIke": {
      dropSession(step, table, session, "deleted by order");
      return;
    }
    case "deleteChild":
      if (isEstablished(session)) finishDelete(step, table, session, request.saId);
      break;
    case "rekeyChild":
    case "createChild":
    case "rekeyIke":
      takeCreateChild(step, table, session, request, opened);
      break;
    default:
      return unreachable(request);
  }
  sendOwn(step, session);
}

type ChildAnswered = Extract<OwnRequest, { kind: "rekeyChild" | "createChild" }>;

/** What cannot be read at all ends the IKE SA: we do not know what the peer has (RFC 7296 §2.21.3). */
function takeCreateChild(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  request: ChildAnswered | Extract<OwnRequest, { kind: "rekeyIke" }>,
  opened: OpenedMessage,
): void {
  let payloads: Payload[];
  try {
    payloads = openedPayloads(opened);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    if (isEstablished(session)) beginDeleteIke(step, table, session, error.message);
    return;
  }
  const refused = findError(payloads);
  const isLost = refused?.type === NOTIFY.AUTHENTICATION_FAILED || refused?.type === NOTIFY.INVALID_SYNTAX;
  if (isLost && isEstablished(session)) {
    dropSession(step, table, session, `the peer reported ${notifyName(refused.type)}`);
  } else if (request.kind === "rekeyIke") takeIkeAnswer(step, table, session, request.offer, payloads);
  else if (isEstablished(session)) {
    if (refused === null) installAnswer(step, table, session, request.offer, payloads);
    else takeRefusal(step, table, session, request, refused);
  }
}

/** An answer that is not what we asked for leaves the peer with an SA, which is deleted again. */
function installAnswer(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  offer: ChildOffer,
  payloads: readonly Payload[],
): void {
  const { replaces } = offer.wish;
  try {
    const { nonce } = requirePayload(payloads, "nonce");
    const made = readChildAnswer(step, table, session, offer, payloads, nonce);
    const deadlineMs = step.nowMs + step.settings.timing.installMs;
    startOwnInstall(step, session, { ...made, replaces, isOurs: true, deadlineMs });
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    step.log("warn", "the peer's answer is not what was asked for", { ...session.facts(), reason: error.message });
    // Of which protocol is as the peer has it: a DELETE of an SA that it does not have is ignored.
    const protocols = new Set(offer.wish.suites.map(protocolIdOf));
    for (const protocol of protocols) session.own.enqueue({ kind: "deleteSpi", protocol, spi: offer.spi });
    postponeRekey(step, session, replaces);
  }
}

function takeRefusal(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  request: ChildAnswered,
  refused: NotifyPayload,
): void {
  const { replaces } = request.offer.wish;
  const old = replaces === null ? undefined : session.state.children.get(replaces);
  const facts = { ...session.facts(), notify: notifyName(refused.type), replaces };
  step.count(`refusedByPeer.${notifyCounter(refused.type)}`);
  if (refused.type === NOTIFY.INVALID_KE_PAYLOAD && tryOtherGroup(session, request, refused)) return;
  if (request.kind === "rekeyChild" && (old === undefined || old.replacedBy !== null)) {
    // The peer's own rekey was faster, or it has deleted the SA: nothing is left to be rekeyed (RFC 7296 §2.8.1).
    step.log("debug", "the peer refuses to rekey an SA that is no more", facts);
    return;
  }
  step.log("warn", "the peer refuses a Child SA", facts);
  if (old === undefined) return;
  if (refused.type === NOTIFY.CHILD_SA_NOT_FOUND) {
    // RFC 7296 §2.25: deleted in silence, and one from scratch.
    removeChild(step, table, session.state, old, "the peer does not have it any more");
    session.own.enqueue({ kind: "createChild", wish: { ...heirOf(old), replaces: null }, group: null });
    return;
  }
  if (refuseForNow(step, old.life, refused.type === NOTIFY.TEMPORARY_FAILURE)) {
    beginDeleteIke(step, table, session, "the peer answers TEMPORARY_FAILURE for minutes");
  }
}

/** Asks again with the group that the peer wants, once. */
function tryOtherGroup(session: EstablishedSession, request: ChildAnswered, refused: NotifyPayload): boolean {
  const group = wantedGroup(refused);
  const { ke, isSecondTry, wish } = request.offer;
  if (group === null || dhGroup(group) === undefined || group === ke?.group || isSecondTry) return false;
  session.own.enqueue(
    request.kind === "rekeyChild"
      ? { kind: request.kind, saId: request.saId, group }
      : { kind: request.kind, wish, group },
  );
  return true;
}
