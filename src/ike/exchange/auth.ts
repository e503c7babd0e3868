import { EsplexError, invariant } from "../../core/errors.ts";
import { Secret } from "../../core/secret.ts";
import type { IkePeerConfig } from "../environment.ts";
import { identityKey, identityPayload } from "../identity.ts";
import { pskAuth } from "../keys.ts";
import { dropSession } from "../lifecycle.ts";
import { findPeer } from "../peers.ts";
import { sameIkeSuite } from "../proposal.ts";
import type { Established, HalfOpen, IkeSession, ResponseDraft } from "../session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { ikeSuiteName } from "../suite.ts";
import { AUTH_METHOD, authMethodName, NOTIFY, notifyName } from "../wire/constants.ts";
import { encodeIdentification, type IdentificationPayload } from "../wire/identification.ts";
import { notify } from "../wire/notify.ts";
import { findNotify, findPayload, requirePayload, type Payload } from "../wire/payload.ts";
import { negotiateChild } from "./child.ts";
import { failureNotify, reasonOf } from "./failure.ts";
import { respond, respondAndClose, type Outcome } from "./outcome.ts";

/** A PSK that nobody has: for the work that an unknown peer's AUTH costs, as much as a known one's. */
const DECOY_PSK_BYTES = 32;

/**
 * Answers IKE_AUTH (RFC 7296 §1.2, §2.15): authenticates both sides with the shared key and negotiates the first Child SA.
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
  const peer = authenticate(step, session, state, payloads, idI);
  if (peer === null) return respondAndClose([notify(NOTIFY.AUTHENTICATION_FAILED)], "authentication failed");
  const remoteIdentity = identityKey(idI);
  table.prove(session);
  if (findNotify(payloads, NOTIFY.INITIAL_CONTACT) !== undefined)
    dropOthers(step, table, session, peer, remoteIdentity);
  const refused = refusal(step, table, session, peer);
  if (refused !== null) return respondAndClose([notify(refused)], `refused with ${notifyName(refused)}`);

  const idR = identityPayload("idr", peer.localIdentity);
  const always: Payload[] = [idR, ownAuth(session, state, peer, idR)];
  const established = establish(step, session, peer, remoteIdentity);
  const { nonceI, nonceR } = state.init;
  try {
    const child = negotiateChild(step, table, established, { payloads, nonceI, nonceR, pfs: false, replaces: null });
    return {
      kind: "install",
      pending: {
        sa: child.sa,
        replaces: null,
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

/** The peer, when its AUTH is good; else null, and the log alone says why. */
function authenticate(
  step: Step,
  session: IkeSession,
  state: HalfOpen,
  payloads: readonly Payload[],
  idI: IdentificationPayload,
): IkePeerConfig | null {
  const idR = findPayload(payloads, "idr");
  const auth = findPayload(payloads, "auth");
  const peer = findPeer(step.environment.peers(), session.path.remote.address, idI, idR);
  const psk = peer?.psk ?? new Secret(step.environment.randomBytes(DECOY_PSK_BYTES));
  const { init } = state;
  const expected = pskAuth(session.suite, psk, session.keys.pi, {
    message: init.request,
    nonce: init.nonceR,
    identity: encodeIdentification(idI),
  });
  const matches = new Secret(expected).equals(new Secret(auth?.data ?? new Uint8Array(expected.length)));
  const reason = authFailure(peer, auth?.method, matches);
  if (reason === null && peer !== undefined) return peer;
  step.count("authenticationFailed");
  step.log("warn", "peer is not authenticated", {
    ...session.facts(),
    identity: identityKey(idI),
    wantedIdentity: idR === undefined ? null : identityKey(idR),
    reason,
  });
  return null;
}

function authFailure(peer: IkePeerConfig | undefined, method: number | undefined, matches: boolean): string | null {
  if (method === undefined) return "no AUTH payload: the peer wants EAP";
  if (method !== AUTH_METHOD.SHARED_KEY) return `authentication method ${authMethodName(method)} is not supported`;
  if (peer === undefined) return "no peer in the cluster file has this address and identity";
  return matches ? null : "wrong pre-shared key";
}

/** INITIAL_CONTACT: the peer remembers no other IKE SA, so neither do we (RFC 7296 §2.4). */
function dropOthers(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  peer: IkePeerConfig,
  remoteIdentity: string,
): void {
  for (const other of [...table.established()]) {
    if (other === session || other.path.local.address !== session.path.local.address) continue;
    if (other.state.remoteIdentity !== remoteIdentity || other.state.peer.name !== peer.name) continue;
    step.count("initialContact");
    dropSession(step, table, other, "the peer started anew");
  }
}

/** Why an authenticated peer gets no IKE SA all the same. */
function refusal(step: Step, table: SessionTable, session: IkeSession, peer: IkePeerConfig): number | null {
  if (peer.ikeSuites !== null && !peer.ikeSuites.some((suite) => sameIkeSuite(suite, session.suite))) {
    step.count("noProposalChosen");
    return NOTIFY.NO_PROPOSAL_CHOSEN;
  }
  const others = [...table.established()].filter((other) => other.state.peer.name === peer.name).length;
  if (others < step.settings.limits.ikeSasPerPeer) return null;
  step.count("ikeSasPerPeerLimit");
  return NOTIFY.NO_ADDITIONAL_SAS;
}

function ownAuth(session: IkeSession, state: HalfOpen, peer: IkePeerConfig, idR: IdentificationPayload): Payload {
  const data = pskAuth(session.suite, peer.psk, session.keys.pr, {
    message: state.init.response,
    nonce: state.init.nonceI,
    identity: encodeIdentification(idR),
  });
  return { kind: "auth", method: AUTH_METHOD.SHARED_KEY, data };
}

function establish(step: Step, session: IkeSession, peer: IkePeerConfig, remoteIdentity: string): EstablishedSession {
  const state: Established = {
    kind: "established",
    peer,
    remoteIdentity,
    sinceMs: step.nowMs,
    lastHeardMs: step.nowMs,
    children: new Map(),
    pending: null,
  };
  session.state = state;
  invariant(isEstablished(session), "just established");
  step.count("ikeEstablished");
  step.log("info", "IKE SA established", { ...session.facts(), suite: ikeSuiteName(session.suite) });
  return session;
}
