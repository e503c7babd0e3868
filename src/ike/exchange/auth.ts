import { EsplexError, invariant } from "../../core/errors.ts";
import { decoyFor } from "../auth/decoy.ts";
import type { AuthContext } from "../auth/octets.ts";
import { proveOurselves, type OwnProof } from "../auth/prove.ts";
import { verifyPeer } from "../auth/verify.ts";
import type { IkePeerConfig } from "../environment.ts";
import { identityKey, identityText } from "../identity.ts";
import { dropSession } from "../lifecycle.ts";
import { newIkeLife } from "../lifetime.ts";
import { findPeer } from "../peers.ts";
import { sameIkeSuite } from "../proposal.ts";
import type { Established, HalfOpen, IkeSession, ResponseDraft } from "../session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { ikeSuiteName } from "../suite.ts";
import { NOTIFY, notifyName } from "../wire/constants.ts";
import type { IdentificationPayload } from "../wire/identification.ts";
import { notify } from "../wire/notify.ts";
import { findNotify, findPayload, requirePayload, type Payload } from "../wire/payload.ts";
import { madeByPeer, negotiateChild } from "./child.ts";
import { failureNotify, reasonOf } from "./failure.ts";
import { respond, respondAndClose, type Outcome } from "./outcome.ts";

/**
 * Answers IKE_AUTH (RFC 7296 §1.2, §2.15): authenticates both sides and negotiates the first Child SA.
 * When only the Child SA fails, the IKE SA is up all the same (§1.2, §2.21.2). Throws `peer.invalidSyntax`.
 */
export function handleAuth(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  state: HalfOpen,
  request: { readonly payloads: readonly Payload[]; readonly draft: ResponseDraft },
): Outcome {
  const { payloads } = request;
  const idI = requirePayload(payloads, "idi");
  for (const kind of ["sa", "tsi", "tsr"] as const) requirePayload(payloads, kind);
  const proven = authenticate(step, session, state, payloads, idI);
  if (proven === null) return respondAndClose([notify(NOTIFY.AUTHENTICATION_FAILED)], "authentication failed");
  const { peer, own } = proven;
  const remoteIdentity = identityKey(idI);
  table.prove(session);
  if (findNotify(payloads, NOTIFY.INITIAL_CONTACT) !== undefined)
    dropOthers(step, table, session, peer, remoteIdentity);
  const refused = refusal(step, table, session, peer, remoteIdentity);
  if (refused !== null) return respondAndClose([notify(refused)], `refused with ${notifyName(refused)}`);

  const always: Payload[] = [own.identity, ...own.payloads];
  const messageIdSync = announcesSync(payloads);
  // RFC 6311 §5: only where the initiator has said it.
  if (messageIdSync) always.push(notify(NOTIFY.IKEV2_MESSAGE_ID_SYNC_SUPPORTED));
  const established = establish(step, table, session, { peer, remoteIdentity, messageIdSync });
  const { nonceI, nonceR } = state.init;
  try {
    const child = negotiateChild(step, table, established, { payloads, nonceI, nonceR, pfs: false, replaces: null });
    return {
      kind: "install",
      pending: {
        ...madeByPeer(child, null),
        deadlineMs: step.nowMs + step.settings.timing.installMs,
        answer: request.draft,
        always,
        success: [...child.transportMode, child.saPayload, ...child.selectors],
      },
    };
  } catch (error) {
    const answer = failureNotify(error);
    if (answer === null || !(error instanceof EsplexError)) throw error;
    step.count(reasonOf(error));
    step.log("warn", "first Child SA refused", { ...session.facts(), reason: error.message });
    return respond([...always, answer]);
  }
}

/** RFC 6311 §6.1. */
export function announcesSync(payloads: readonly Payload[]): boolean {
  return findNotify(payloads, NOTIFY.IKEV2_MESSAGE_ID_SYNC_SUPPORTED) !== undefined;
}

/** The peer and our own proof, when both sides can show who they are; else null, and the log alone says why. */
function authenticate(
  step: Step,
  session: IkeSession,
  { init }: HalfOpen,
  payloads: readonly Payload[],
  identity: IdentificationPayload,
): { readonly peer: IkePeerConfig; readonly own: OwnProof } | null {
  const { environment } = step;
  const { remote, local } = session.path;
  const idR = findPayload(payloads, "idr");
  const peer = findPeer(environment.peers(), remote.address, identity, idR);
  const context: AuthContext = { suite: session.suite, keys: session.keys, init };
  const decoy = decoyFor(environment, remote.address);
  try {
    const claim = { side: "initiator", identity, payloads } as const;
    const { scheme, method } = verifyPeer(context, claim, peer?.auth, decoy, environment.wallClockMs());
    invariant(peer !== undefined, "only a known peer is authenticated");
    const credentials = environment.credentials(local.address);
    const own = proveOurselves(context, { side: "responder", peer, credentials, requests: payloads, likePeer: scheme });
    step.log("debug", "peer authenticated", { ...session.facts(), identity: identityText(identity), method });
    return { peer, own };
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    step.count("authenticationFailed");
    step.count(`auth.${problemOf(error)}`);
    step.log("warn", "peer is not authenticated", {
      ...session.facts(),
      identity: identityText(identity),
      wantedIdentity: idR === undefined ? null : identityText(idR),
      problem: problemOf(error),
      reason: error.message,
    });
    return null;
  }
}

/** The counter of a refusal; what could not be read is `malformed`. */
function problemOf(error: EsplexError): string {
  const { reason } = error.details;
  return error.code === "peer.authenticationFailed" && typeof reason === "string" ? reason : reasonOf(error);
}

/** INITIAL_CONTACT: the peer remembers no other IKE SA, so neither do we (RFC 7296 §2.4). */
function dropOthers(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  peer: IkePeerConfig,
  remoteIdentity: string,
): void {
  for (const other of table.ofIdentity(peer.name, remoteIdentity)) {
    if (other === session || other.path.local.address !== session.path.local.address) continue;
    step.count("initialContact");
    dropSession(step, table, other, "the peer started anew");
  }
}

/** Why an authenticated peer gets no IKE SA all the same. */
function refusal(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  peer: IkePeerConfig,
  remoteIdentity: string,
): number | null {
  if (peer.ikeSuites !== null && !peer.ikeSuites.some((suite) => sameIkeSuite(suite, session.suite))) {
    step.count("noProposalChosen");
    return NOTIFY.NO_PROPOSAL_CHOSEN;
  }
  if (table.ofIdentity(peer.name, remoteIdentity).length < step.settings.limits.ikeSasPerPeer) return null;
  step.count("ikeSasPerPeerLimit");
  return NOTIFY.NO_ADDITIONAL_SAS;
}

/** The IKE SA is up: both ends are authenticated. */
export function establish(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  agreed: Pick<Established, "peer" | "remoteIdentity" | "messageIdSync">,
): EstablishedSession {
  const { peer } = agreed;
  const state: Established = {
    kind: "established",
    ...agreed,
    sinceMs: step.nowMs,
    life: newIkeLife(step, peer.ikeLifetimeMs),
    undecided: null,
    lastHeardMs: step.nowMs,
    lastHintMs: null,
    children: new Map(),
    pending: null,
    ownPending: null,
  };
  session.state = state;
  invariant(isEstablished(session), "just established");
  table.know(session);
  step.count("ikeEstablished");
  step.log("info", "IKE SA established", { ...session.facts(), suite: ikeSuiteName(session.suite) });
  return session;
}
