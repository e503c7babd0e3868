import type { Secret } from "../../core/secret.ts";
import type { IkeKeys, SignedOctets } from "../keys.ts";
import type { InitRecord } from "../session.ts";
import type { IkeSuite } from "../suite.ts";
import { encodeIdentification, type IdentificationPayload } from "../wire/identification.ts";

/** One end of an IKE SA. */
export type Side = "initiator" | "responder";

/** What of an IKE SA both proofs are made over (RFC 7296 §2.15). */
export interface AuthContext {
  readonly suite: IkeSuite;
  readonly keys: IkeKeys;
  readonly init: InitRecord;
}

/** What `side` signs when it calls itself `identity`, and the key for its identity. */
export function octetsOf(
  { keys, init }: AuthContext,
  side: Side,
  identity: IdentificationPayload,
): { readonly octets: SignedOctets; readonly macKey: Secret } {
  const body = encodeIdentification(identity);
  return side === "initiator"
    ? { octets: { message: init.request, nonce: init.nonceR, identity: body }, macKey: keys.pi }
    : { octets: { message: init.response, nonce: init.nonceI, identity: body }, macKey: keys.pr };
}
