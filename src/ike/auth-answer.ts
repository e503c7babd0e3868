import { EsplexError } from "../core/errors.ts";
import { beginDeleteIke } from "./closing.ts";
import { announcesSync, establish } from "./exchange/auth.ts";
import { reasonOf } from "./exchange/failure.ts";
import { readChildAnswer } from "./exchange/offer-child.ts";
import { authProblem, verifyResponder } from "./exchange/own-auth.ts";
import { startOwnInstall } from "./installation.ts";
import { dropSession } from "./lifecycle.ts";
import { sendOwn } from "./sending.ts";
import type { Authenticating, IkeSession } from "./session.ts";
import type { EstablishedSession, SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { notifyCounter, notifyName } from "./wire/constants.ts";
import { openedPayloads, type OpenedMessage } from "./wire/encrypted.ts";
import { findError, findPayload, type Payload } from "./wire/payload.ts";

/** Takes the answer to our IKE_AUTH (RFC 7296 §1.2, §2.21.2): the IKE SA is up, and its first Child SA is installed. */
export function takeAuthAnswer(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  state: Authenticating,
  opened: OpenedMessage,
): void {
  const payloads = readPayloads(step, session, opened);
  const refused = payloads === null ? null : findError(payloads);
  if (payloads === null || (refused !== null && findPayload(payloads, "auth") === undefined)) {
    const notified = refused === null ? "an answer that cannot be read" : notifyName(refused.type);
    if (refused !== null) step.count(`refusedByPeer.${notifyCounter(refused.type)}`);
    step.log("warn", "the peer refuses us", { ...session.facts(), reason: notified });
    dropSession(step, table, session, `the peer reported ${notified}`);
    return;
  }
  const remoteIdentity = verify(step, session, state, payloads);
  if (remoteIdentity === null) return;
  const agreed = { peer: state.peer, remoteIdentity, messageIdSync: announcesSync(payloads) };
  const established = establish(step, table, session, agreed);
  if (refused === null) takeFirstChild(step, table, established, state, payloads);
  else failChild(step, table, established, state, notifyName(refused.type));
}

function readPayloads(step: Step, session: IkeSession, opened: OpenedMessage): Payload[] | null {
  try {
    return openedPayloads(opened);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    step.log("warn", "the answer to IKE_AUTH cannot be read", { ...session.facts(), reason: error.message });
    return null;
  }
}

/** Null when it is not the peer: it is told that the IKE SA ends. */
function verify(step: Step, session: IkeSession, state: Authenticating, payloads: readonly Payload[]): string | null {
  try {
    return verifyResponder(step, session, state, payloads);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count("authenticationFailed");
    step.count(`auth.${authProblem(error)}`);
    step.log("warn", "the peer that we reached is not authenticated", { ...session.facts(), reason: error.message });
    step.outcomes.push({ target: state.target, ok: false });
    session.state = { kind: "deleting", peerName: state.peer.name };
    session.own.enqueue({ kind: "deleteIke" });
    sendOwn(step, session);
    return null;
  }
}

function takeFirstChild(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  { offer, init, target }: Authenticating,
  payloads: readonly Payload[],
): void {
  try {
    const made = readChildAnswer(step, table, session, offer, payloads, init.nonceR);
    const deadlineMs = step.nowMs + step.settings.timing.installMs;
    startOwnInstall(step, session, { ...made, replaces: null, isOurs: true, deadlineMs });
    step.outcomes.push({ target, ok: true });
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    failChild(step, table, session, { target }, error.message);
  }
}

/** An IKE SA without the Child SA that it was made for is of no use. */
function failChild(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  { target }: Pick<Authenticating, "target">,
  reason: string,
): void {
  step.outcomes.push({ target, ok: false });
  beginDeleteIke(step, table, session, `no Child SA: ${reason}`);
}
