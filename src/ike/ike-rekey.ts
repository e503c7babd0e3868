import { EsplexError } from "../core/errors.ts";
import { beginDeleteIke } from "./closing.ts";
import { reasonOf, wantedGroup } from "./exchange/failure.ts";
import { readIkeAnswer, type AgreedIke } from "./exchange/offer-ike.ts";
import type { IkeOffer } from "./ike-offer.ts";
import { inherit } from "./inheritance.ts";
import { failInstall, failOwnInstall } from "./installation.ts";
import { refuseForNow } from "./lifetime.ts";
import { sendOwn } from "./sending.ts";
import { IkeSession, type Rekeyed } from "./session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { NOTIFY, notifyCounter, notifyName } from "./wire/constants.ts";
import type { NotifyPayload } from "./wire/notify.ts";
import { findError, type Payload } from "./wire/payload.ts";

/**
 * Takes the answer to our rekey of an IKE SA (RFC 7296 §2.8, §2.8.2): the heir takes the Child SAs over, and the old one is
 * deleted. When the peer has rekeyed it meanwhile, the heir with the lowest nonce goes again, by who asked for it.
 */
export function takeIkeAnswer(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  offer: IkeOffer,
  payloads: readonly Payload[],
): void {
  const refused = findError(payloads);
  if (refused !== null) {
    takeRefusal(step, table, session, offer, refused);
    return;
  }
  const agreed = readAgreed(step, table, session, offer, payloads);
  if (agreed === null) return;
  const { state } = session;
  if (isEstablished(session)) replace(step, table, session, session, offer, agreed);
  else if (state.kind === "rekeyed") settle(step, table, session, state, offer, agreed);
}

/** Null when the peer has made an IKE SA that we cannot have: it is lost, and with it what hangs on it. */
function readAgreed(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  offer: IkeOffer,
  payloads: readonly Payload[],
): AgreedIke | null {
  try {
    return readIkeAnswer(session, offer, payloads);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    if (isEstablished(session)) beginDeleteIke(step, table, session, `unusable answer to our rekey: ${error.message}`);
    return null;
  }
}

/** Moves everything from `from` to a new IKE SA, and deletes `old`, whose rekey this was. */
function replace(
  step: Step,
  table: SessionTable,
  old: IkeSession,
  from: EstablishedSession,
  offer: IkeOffer,
  { suite, spiR, keys }: AgreedIke,
): IkeSession {
  const { peer } = from.state;
  const heir = inherit(step, table, from, { role: "initiator", spiI: offer.spi, spiR, suite, keys });
  old.state = { kind: "deleting", peerName: peer.name };
  old.own.enqueue({ kind: "deleteIke" });
  sendOwn(step, old);
  sendOwn(step, heir);
  return heir;
}

/** Both ends have rekeyed the IKE SA: the peer's heir has the Child SAs so far. */
function settle(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  state: Rekeyed,
  offer: IkeOffer,
  agreed: AgreedIke,
): void {
  const { heir: theirs, peerName } = state;
  if (isEstablished(theirs) && Buffer.compare(agreed.lowestNonce, state.lowestNonce) > 0) {
    step.count("ikeRekeyCollisionWon");
    endInstallations(step, theirs);
    const ours = replace(step, table, session, theirs, offer, agreed);
    theirs.own.clear();
    const retired: IkeSession = theirs;
    const expiresAtMs = step.nowMs + step.settings.timing.rekeyedMs;
    retired.state = { kind: "rekeyed", peerName, expiresAtMs, heir: ours, lowestNonce: state.lowestNonce };
    return;
  }
  step.count("ikeRekeyCollisionLost");
  const { suite, spiR, keys } = agreed;
  const loser = new IkeSession({
    ...{ role: "initiator", spiI: offer.spi, spiR, suite, keys },
    path: session.path,
    nat: session.nat,
    fragmentation: session.fragmentation,
    nextRequestId: 0,
    state: { kind: "deleting", peerName },
  });
  table.add(loser);
  loser.own.enqueue({ kind: "deleteIke" });
  sendOwn(step, loser);
  sendOwn(step, theirs);
}

/** Their answers belong on the IKE SA that is about to go: they are given now, and the peer tries again on the other one. */
function endInstallations(step: Step, session: EstablishedSession): void {
  const { pending, ownPending } = session.state;
  if (pending !== null) failInstall(step, session, pending, "the IKE SA was rekeyed");
  if (ownPending !== null) failOwnInstall(step, session, ownPending, "the IKE SA was rekeyed");
}

function takeRefusal(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  offer: IkeOffer,
  refused: NotifyPayload,
): void {
  step.count(`refusedByPeer.${notifyCounter(refused.type)}`);
  // The peer's own rekey was faster: ours is forgotten (RFC 7296 §2.8.2).
  if (session.state.kind === "rekeyed") sendOwn(step, session.state.heir);
  if (!isEstablished(session)) return;
  const { life } = session.state;
  const group = refused.type === NOTIFY.INVALID_KE_PAYLOAD ? wantedGroup(refused) : null;
  if (group !== null && !offer.isSecondTry && offer.suites.slice(1).some((suite) => suite.group === group)) {
    session.own.enqueue({ kind: "rekeyIke", group });
    return;
  }
  step.log("warn", "the peer refuses to rekey the IKE SA", { ...session.facts(), notify: notifyName(refused.type) });
  if (refuseForNow(step, life, refused.type === NOTIFY.TEMPORARY_FAILURE)) {
    beginDeleteIke(step, table, session, "the peer answers TEMPORARY_FAILURE for minutes");
  }
}
