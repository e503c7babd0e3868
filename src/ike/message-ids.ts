/*
 * Synchronisation of message IDs (RFC 6311): an end that has lost count of them, such as the backup of a failed cluster member, says in a
 * message with ID 0 from where it goes on. Both ends must have announced it in IKE_AUTH. Synchronisation of replay counters is not
 * announced: a cluster of ours leases sequence numbers, so its backup goes on with higher ones by itself.
 */
import { equalBytes } from "../core/bytes.ts";
import { EsplexError } from "../core/errors.ts";
import type { Path } from "./events.ts";
import { newSync, type SyncRequest } from "./exchange/begin-sync.ts";
import { emitDatagrams, sendOwn } from "./sending.ts";
import type { EstablishedSession } from "./session-table.ts";
import type { Step } from "./step.ts";
import { EXCHANGE, NOTIFY } from "./wire/constants.ts";
import { openedPayloads, type OpenedMessage } from "./wire/encrypted.ts";
import { readSync, syncNotify, type MessageIdSync } from "./wire/message-id-sync.ts";
import { findNotify, type Payload } from "./wire/payload.ts";

/** RFC 6311 §5.1: requests and answers that synchronise have this ID. */
export const SYNC_MESSAGE_ID = 0;

/** True when an authentic request with ID 0 is one of these, and not the first of an IKE SA. */
export function asksForSync(payloads: readonly Payload[]): boolean {
  return findNotify(payloads, NOTIFY.IKEV2_MESSAGE_ID_SYNC) !== undefined;
}

/** Answers the other end's synchronisation, or drops it in silence: a replayed one must change nothing (RFC 6311 §5.1). */
export function answerSync(step: Step, session: EstablishedSession, payloads: readonly Payload[], path: Path): void {
  const asked = onlySync(payloads);
  if (asked === null) {
    step.count("syncMalformed");
    return;
  }
  if (asked.nextSent <= session.requests.highestId) {
    step.count("syncReplayed");
    return;
  }
  if (session.state.pending !== null) {
    // The answer that waits for the kernels would go out with an ID that means nothing any more. It will be asked again.
    step.count("syncWhileBusy");
    return;
  }
  const nextReceived = asked.nextSent;
  const nextSent = Math.max(asked.nextReceived, session.own.nextId);
  session.own.goOnFrom(nextSent, asked.nextReceived);
  receiveFrom(session, nextReceived);
  step.count("messageIdsSynchronised");
  step.log("info", "the peer goes on with other message IDs", { ...session.facts(), nextSent, nextReceived });
  const answer = syncNotify({ nonce: asked.nonce, nextSent, nextReceived });
  const about = { exchange: EXCHANGE.INFORMATIONAL, messageId: SYNC_MESSAGE_ID, isResponse: true };
  emitDatagrams(step, path, session.seal(step, about, [answer]));
  sendOwn(step, session);
}

/** Nobody has answered in time: asks anew, for the same message would be a replay where only the answer was lost. */
export function repeatSync(step: Step, session: EstablishedSession, before: SyncRequest): void {
  const request = newSync(step, session, before);
  const about = { exchange: EXCHANGE.INFORMATIONAL, messageId: SYNC_MESSAGE_ID, isResponse: false };
  const datagrams = session.seal(step, about, [syncNotify(request.sync)]);
  session.own.replace(request, datagrams);
  emitDatagrams(step, session.path, datagrams);
}

/** Takes the authentic answer to our synchronisation; false when it is none, and the right one may still come. */
export function takeSyncAnswer(
  step: Step,
  session: EstablishedSession,
  { sync }: SyncRequest,
  opened: OpenedMessage,
): boolean {
  const answer = onlySync(readable(opened) ?? []);
  const isOurs = answer !== null && equalBytes(answer.nonce, sync.nonce);
  if (!isOurs || answer.nextReceived < sync.nextSent || answer.nextSent < sync.nextReceived) {
    step.count("syncAnswerWrong");
    return false;
  }
  session.own.answered();
  session.own.goOnFrom(answer.nextReceived, answer.nextReceived);
  receiveFrom(session, answer.nextSent);
  step.count("messageIdsSynchronised");
  step.log("info", "message IDs are synchronised with the peer", {
    ...session.facts(),
    nextSent: answer.nextReceived,
    nextReceived: answer.nextSent,
  });
  sendOwn(step, session);
  return true;
}

function receiveFrom(session: EstablishedSession, nextReceived: number): void {
  session.requests.goOnFrom(nextReceived);
  session.requestFragments.clear();
}

/** Null when there is anything else in the message. */
function onlySync(payloads: readonly Payload[]): MessageIdSync | null {
  const found = findNotify(payloads, NOTIFY.IKEV2_MESSAGE_ID_SYNC);
  if (found === undefined || payloads.length !== 1) return null;
  try {
    return readSync(found);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    return null;
  }
}

function readable(opened: OpenedMessage): Payload[] | null {
  try {
    return openedPayloads(opened);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    return null;
  }
}
