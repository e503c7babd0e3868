import { EsplexError, invariant, unreachable } from "../core/errors.ts";
import { takeAnswer } from "./answers.ts";
import { handleAuth } from "./exchange/auth.ts";
import { handleCreateChild } from "./exchange/create-child.ts";
import { failureNotify, isFatal, reasonOf } from "./exchange/failure.ts";
import { handleInformational } from "./exchange/informational.ts";
import { respond, respondAndClose, type Outcome } from "./exchange/outcome.ts";
import { startInstall } from "./installation.ts";
import { closeSession, removeAllChildren } from "./lifecycle.ts";
import { follow } from "./moving.ts";
import { answerSync, asksForSync, SYNC_MESSAGE_ID, takeSyncAnswer } from "./message-ids.ts";
import type { Reassembly } from "./reassembly.ts";
import { emitDatagrams, sendResponse } from "./sending.ts";
import type { IkeSession, ResponseDraft, SessionDatagram } from "./session.ts";
import { isEstablished, type SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { EXCHANGE, NOTIFY } from "./wire/constants.ts";
import { openedContent, openedPayloads, openMessage, type OpenedMessage } from "./wire/encrypted.ts";
import { notify } from "./wire/notify.ts";
import { findNotify, type EncryptedFragmentPayload, type EncryptedPayload, type Payload } from "./wire/payload.ts";

/**
 * Takes a message for a session: checks whom it comes from, its window place and its authenticity, in this order, then
 * answers it. Nothing of the session changes before a message is known to be authentic.
 */
export function receive(step: Step, table: SessionTable, session: IkeSession, datagram: SessionDatagram): void {
  const misfit = misfitOf(session, datagram);
  if (misfit !== null) {
    step.count(misfit);
    return;
  }
  if (datagram.message.header.isResponse) receiveResponse(step, table, session, datagram);
  else receiveRequest(step, table, session, datagram);
}

/** Why the message cannot be of this session; null when it may. */
function misfitOf(session: IkeSession, { message, path }: SessionDatagram): string | null {
  if (!session.isFromPeer(message.header)) return "wrongSpi";
  const moved =
    path.remote.address !== session.path.remote.address || path.local.address !== session.path.local.address;
  return moved ? "addressChanged" : null;
}

function receiveRequest(step: Step, table: SessionTable, session: IkeSession, datagram: SessionDatagram): void {
  const { header, payloads } = datagram.message;
  if (header.messageId === SYNC_MESSAGE_ID && takesSync(step, session, datagram)) return;
  // RFC 6311 §8.1: the peer gives it another ID when it answers us.
  if (session.own.outstanding?.kind === "synchronise") {
    step.count("requestBeforeSync");
    return;
  }
  const fragment = payloads[0]?.kind === "encryptedFragment" ? payloads[0] : null;
  const place = session.requests.classify(header.messageId, fragment === null ? datagram.bytes : null);
  switch (place.kind) {
    case "repeated":
      if (fragment !== null && !repeatsRequest(step, session, datagram, fragment)) return;
      step.count("requestRepeated");
      {
        emitDatagrams(step, datagram.path, place.response);
        return;
      }
    case "inProgress": {
      step.count("requestInProgress");
      return;
    }
    case "early": {
      keepEarly(step, table, session, datagram);
      return;
    }
    case "altered": {
      step.count("requestAltered");
      return;
    }
    case "outside": {
      step.count("messageIdOutsideWindow");
      return;
    }
    case "new": {
      receiveNew(step, table, session, datagram);
      return;
    }
    default:
      return unreachable(place);
  }
}

/** True when the message wanted to synchronise message IDs (RFC 6311): whatever became of that, it is no other request. */
function takesSync(step: Step, session: IkeSession, datagram: SessionDatagram): boolean {
  const { header, payloads } = datagram.message;
  const [sealed] = payloads;
  if (header.exchange !== EXCHANGE.INFORMATIONAL || sealed?.kind !== "encrypted" || payloads.length > 1) return false;
  if (!isEstablished(session) || !session.state.messageIdSync) return false;
  const opened = openSealed(step, session, datagram, sealed);
  if (opened === null) return true;
  let inside: Payload[];
  try {
    inside = openedPayloads(opened);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    return false; // the usual way has its answer to that
  }
  if (!asksForSync(inside)) return false;
  follow(step, session, datagram.path);
  session.state.lastHeardMs = step.nowMs;
  answerSync(step, session, inside, datagram.path);
  return true;
}

/** RFC 7383 §2.6.1: only the first fragment asks for the answer again; the set may be cut otherwise than before. */
function repeatsRequest(
  step: Step,
  session: IkeSession,
  datagram: SessionDatagram,
  fragment: EncryptedFragmentPayload,
): boolean {
  if (fragment.number !== 1) {
    step.count("fragmentRepeated");
    return false;
  }
  // A closed session has no keys any more; what it repeats is a short refusal.
  return session.state.kind === "closed" || openSealed(step, session, datagram, fragment) !== null;
}

function receiveNew(step: Step, table: SessionTable, session: IkeSession, datagram: SessionDatagram): void {
  const { exchange, messageId } = datagram.message.header;
  if (!expectedExchanges(session).includes(exchange)) {
    step.count("unexpectedExchange");
    return;
  }
  const opened = open(step, session, datagram, session.requestFragments);
  if (opened === null) return;
  follow(step, session, datagram.path);
  session.requests.begin(messageId, datagram.bytes);
  if (isEstablished(session)) session.state.lastHeardMs = step.nowMs;
  const draft: ResponseDraft = { exchange, messageId, path: datagram.path };
  const outcome = answer(step, table, session, opened, draft);
  switch (outcome.kind) {
    case "install":
      invariant(isEstablished(session), "only an established IKE SA installs");
      {
        startInstall(step, session, outcome.pending);
        return;
      }
    case "respond":
      // Before the answer, after which the peer need not have them any more: what else their tunnels have is sent on.
      if (outcome.closeReason !== null && isEstablished(session)) {
        removeAllChildren(step, table, session.state, outcome.closeReason);
      }
      sendResponse(step, session, draft, outcome.payloads);
      if (outcome.closeReason !== null) closeSession(step, table, session, outcome.closeReason);
      return;
    default:
      return unreachable(outcome);
  }
}

function expectedExchanges(session: IkeSession): readonly number[] {
  switch (session.state.kind) {
    case "halfOpen":
      return [EXCHANGE.IKE_AUTH];
    case "established":
    case "rekeyed":
    case "deleting":
      return [EXCHANGE.CREATE_CHILD_SA, EXCHANGE.INFORMATIONAL];
    case "authenticating":
    case "closed":
      return [];
    default:
      return unreachable(session.state);
  }
}

/** The authentic content, or null (counted): also while fragments are missing. */
function open(step: Step, session: IkeSession, datagram: SessionDatagram, fragments: Reassembly): OpenedMessage | null {
  const { payloads } = datagram.message;
  const [sealed, ...others] = payloads;
  if (others.length > 0 || (sealed?.kind !== "encrypted" && sealed?.kind !== "encryptedFragment")) {
    step.count("unprotected");
    // A hint that the peer has forgotten us. The request that it answers is on the wire: it is the liveness check (§2.21.4).
    if (findNotify(payloads, NOTIFY.INVALID_IKE_SPI) !== undefined) step.count("invalidIkeSpiHeard");
    return null;
  }
  if (sealed.kind === "encryptedFragment") return collect(step, session, datagram, sealed, fragments);
  const opened = openSealed(step, session, datagram, sealed);
  if (opened !== null) fragments.clear();
  return opened;
}

/** Takes a fragment (RFC 7383 §2.6); returns the message when it is the last one missing. */
function collect(
  step: Step,
  session: IkeSession,
  datagram: SessionDatagram,
  sealed: EncryptedFragmentPayload,
  fragments: Reassembly,
): OpenedMessage | null {
  const { messageId } = datagram.message.header;
  const refusal = session.fragmentation ? fragments.refusal(messageId, sealed) : "fragmentNotNegotiated";
  if (refusal !== null) {
    step.count(refusal);
    return null;
  }
  const opened = openSealed(step, session, datagram, sealed);
  if (opened === null) return null;
  try {
    const part = { innerType: sealed.innerType, content: openedContent(opened) };
    const added = fragments.add(step.nowMs, messageId, sealed, part);
    if (typeof added === "object") return added;
    step.count(added === "tooLong" ? "fragmentTooLong" : "fragmentTaken");
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
  }
  return null;
}

/** What is inside of one SK or SKF payload, or null when it is not authentic (counted). */
function openSealed(
  step: Step,
  session: IkeSession,
  { bytes }: SessionDatagram,
  sealed: EncryptedPayload | EncryptedFragmentPayload,
): OpenedMessage | null {
  try {
    return openMessage(bytes, sealed, session.peerKey);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    return null;
  }
}

function answer(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  opened: OpenedMessage,
  draft: ResponseDraft,
): Outcome {
  try {
    return dispatch(step, table, session, openedPayloads(opened), draft);
  } catch (error) {
    const told = failureNotify(error);
    if (told === null || !(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    step.log("warn", "request refused", { ...session.facts(), reason: error.message });
    const ends = session.state.kind === "halfOpen" || isFatal(error);
    return ends ? respondAndClose([told], error.message) : respond([told]);
  }
}

function dispatch(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  payloads: readonly Payload[],
  draft: ResponseDraft,
): Outcome {
  const { state } = session;
  if (state.kind === "halfOpen") return handleAuth(step, table, session, state, { payloads, draft });
  if (draft.exchange === EXCHANGE.INFORMATIONAL) return handleInformational(step, table, session, payloads);
  if (isEstablished(session)) return handleCreateChild(step, table, session, { payloads, draft });
  // RFC 7296 §2.25.2: nothing new on an IKE SA that is being replaced or closed.
  step.count("temporaryFailure");
  return respond([notify(NOTIFY.TEMPORARY_FAILURE)]);
}

/**
 * A peer should not ask on before it has its answer (RFC 7296 §2.3), but OpenIKED does: the DELETE of `ikectl reset` goes out behind a
 * rekey of its own, and never again. A fragment is left to the peer's repetition.
 */
function keepEarly(step: Step, table: SessionTable, session: IkeSession, datagram: SessionDatagram): void {
  const { header, payloads } = datagram.message;
  const [sealed, ...others] = payloads;
  if (sealed?.kind !== "encrypted" || others.length > 0 || table.early.has(session)) {
    step.count("messageIdOutsideWindow");
    return;
  }
  if (!expectedExchanges(session).includes(header.exchange)) {
    step.count("unexpectedExchange");
    return;
  }
  if (openSealed(step, session, datagram, sealed) === null) return;
  step.count("requestEarly");
  table.early.set(session, datagram);
}

/** Takes the requests that came early and whose turn has come: the one before them is answered. */
export function receiveEarly(step: Step, table: SessionTable): void {
  for (const [session, datagram] of table.early) {
    if (session.requests.isBusy) continue;
    table.early.delete(session);
    table.touch(session);
    receive(step, table, session, datagram);
  }
}

function receiveResponse(step: Step, table: SessionTable, session: IkeSession, datagram: SessionDatagram): void {
  if (!session.own.expects(datagram.message.header.messageId)) {
    step.count("unexpectedResponse");
    return;
  }
  const opened = open(step, session, datagram, session.responseFragments);
  if (opened === null) return;
  follow(step, session, datagram.path);
  if (isEstablished(session)) session.state.lastHeardMs = step.nowMs;
  const { outstanding } = session.own;
  if (outstanding?.kind === "synchronise" && isEstablished(session)) {
    takeSyncAnswer(step, session, outstanding, opened);
    return;
  }
  const request = session.own.answered();
  invariant(request !== null, "an expected response has its request");
  takeAnswer(step, table, session, request, opened);
}
