import type { EsplexError } from "../../core/errors.ts";
import { decoyFor } from "../auth/decoy.ts";
import type { AuthContext } from "../auth/octets.ts";
import { authRefused } from "../auth/problem.ts";
import { proveOurselves } from "../auth/prove.ts";
import { verifyPeer } from "../auth/verify.ts";
import { identityKey, identityPayload, identityText } from "../identity.ts";
import { exactIdentity, isOfPeer } from "../peers.ts";
import type { Authenticating, IkeSession } from "../session.ts";
import type { Step } from "../step.ts";
import { NOTIFY } from "../wire/constants.ts";
import { notify } from "../wire/notify.ts";
import { requirePayload, type Payload } from "../wire/payload.ts";
import { certRequestsFor } from "./begin-init.ts";
import { offerPayloads } from "./offer-child.ts";

/**
 * IKE_AUTH of ours: SK{IDi, [CERT…], AUTH, [CERTREQ], [IDr], [N(INITIAL_CONTACT)],
 * N(IKEV2_MESSAGE_ID_SYNC_SUPPORTED), [N(USE_TRANSPORT_MODE)], SAi2, TSi, TSr},
 * RFC 7296 §1.2. Throws `peer.authenticationFailed` when we have nothing to prove ourselves with.
 */
export function ownAuthPayloads(step: Step, session: IkeSession, state: Authenticating): Payload[] {
  const { peer, init, offer, requests, isFirst } = state;
  const context: AuthContext = { suite: session.suite, keys: session.keys, init };
  const credentials = step.environment.credentials(session.path.local.address);
  const own = proveOurselves(context, { side: "initiator", peer, credentials, requests, likePeer: null });
  const remote = exactIdentity(peer);
  return [
    own.identity,
    ...own.payloads,
    ...certRequestsFor(peer),
    ...(remote === null ? [] : [identityPayload("idr", remote)]),
    ...(isFirst ? [notify(NOTIFY.INITIAL_CONTACT)] : []),
    notify(NOTIFY.IKEV2_MESSAGE_ID_SYNC_SUPPORTED),
    ...offerPayloads(offer),
  ];
}

/** Checks that the answer to our IKE_AUTH comes from the peer; returns its `identityKey`. Throws `peer.*` and `wire.*`. */
export function verifyResponder(
  step: Step,
  session: IkeSession,
  { peer, init }: Authenticating,
  payloads: readonly Payload[],
): string {
  const { environment } = step;
  const identity = requirePayload(payloads, "idr");
  if (!isOfPeer(peer, identity)) {
    throw authRefused("wrongName", `the peer calls itself ${identityText(identity)}`);
  }
  const context: AuthContext = { suite: session.suite, keys: session.keys, init };
  const decoy = decoyFor(environment, session.path.remote.address);
  const claim = { side: "responder", identity, payloads } as const;
  verifyPeer(context, claim, peer.auth, decoy, environment.wallClockMs());
  return identityKey(identity);
}

/** For the log: what went wrong, in words. */
export function authProblem(error: EsplexError): string {
  const { reason } = error.details;
  return typeof reason === "string" ? reason : error.code;
}
