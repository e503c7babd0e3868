import { toHex } from "../../core/bytes.ts";
import type { SignatureScheme } from "../../crypto/signature.ts";
import { keyHash } from "../../x509/certificate.ts";
import type { IkeCredential, IkePeerConfig, PeerAuth } from "../environment.ts";
import { identityKey, identityPayload, isIdentityOf } from "../identity.ts";
import { pskAuth, signedOctets } from "../keys.ts";
import { AUTH_METHOD, CERT_ENCODING, ID_TYPE } from "../wire/constants.ts";
import type { IdentificationPayload } from "../wire/identification.ts";
import type { Payload } from "../wire/payload.ts";
import { requestedAuthorities } from "./cert-requests.ts";
import { octetsOf, type AuthContext, type Side } from "./octets.ts";
import { authRefused } from "./problem.ts";
import { chooseScheme, writeSignature } from "./signature-payload.ts";

/** What we prove ourselves with, towards one peer. */
export interface OwnClaim {
  readonly side: Side;
  readonly peer: Pick<IkePeerConfig, "auth" | "localIdentity">;
  /** What the DVIPA can show. */
  readonly credentials: readonly IkeCredential[];
  /** The message of the peer that holds its CERTREQ: IKE_AUTH for a responder, IKE_SA_INIT for an initiator. */
  readonly requests: readonly Payload[];
  /** How the peer has signed, when it was first. */
  readonly likePeer: SignatureScheme | null;
}

/** Our half of IKE_AUTH. */
export interface OwnProof {
  readonly identity: IdentificationPayload;
  /** CERT payloads, ours first, then AUTH. */
  readonly payloads: readonly Payload[];
}

/** Proves who we are (RFC 7296 §2.15, RFC 7427), in either role. Throws `peer.authenticationFailed` when we have nothing to prove it with. */
export function proveOurselves(context: AuthContext, claim: OwnClaim): OwnProof {
  const { side, peer } = claim;
  const kind = side === "initiator" ? "idi" : "idr";
  const identity = identityPayload(kind, peer.localIdentity);
  if (peer.auth.kind === "psk") {
    const { octets, macKey } = octetsOf(context, side, identity);
    const data = pskAuth(context.suite, peer.auth.psk, macKey, octets);
    return { identity, payloads: [{ kind: "auth", method: AUTH_METHOD.SHARED_KEY, data }] };
  }
  const { credential, scheme } = choose(context, claim, identity, peer.auth);
  const asIssued = asInCertificate(identity, credential);
  const { octets, macKey } = octetsOf(context, side, asIssued);
  const signature = credential.key.sign(scheme, signedOctets(context.suite, macKey, octets));
  const certificates = credential.chain.map(({ der }): Payload => ({
    kind: "cert",
    encoding: CERT_ENCODING.X509_SIGNATURE,
    data: der,
  }));
  return { identity: asIssued, payloads: [...certificates, writeSignature({ scheme, signature })] };
}

/** A name is encoded in more than one way, and the peer may compare bytes: it gets those of the certificate. */
function asInCertificate(identity: IdentificationPayload, { chain: [own] }: IkeCredential): IdentificationPayload {
  if (identity.type !== ID_TYPE.DER_ASN1_DN) return identity;
  const issued = { ...identity, data: own.subject.der };
  return identityKey(issued) === identityKey(identity) ? issued : identity;
}

/** The credential that the peer likes best: issued by one that it asks for, then of the kind of key that it has itself (RFC 7427 §5). */
function choose(
  context: AuthContext,
  claim: OwnClaim,
  identity: IdentificationPayload,
  auth: PeerAuth & { kind: "certificate" },
): { credential: IkeCredential; scheme: SignatureScheme } {
  const ours = claim.credentials.filter(({ chain: [own] }) => isIdentityOf(own, identity));
  const usable = ours.flatMap((credential) => {
    const scheme = chooseScheme(credential.key.kind, context.init.peerHashes, claim.likePeer);
    return scheme === null ? [] : [{ credential, scheme }];
  });
  const wanted = requestedAuthorities(claim.requests);
  const asked = usable.filter(({ credential }) => wanted !== null && isBelow(credential, wanted, auth));
  const candidates = asked.length > 0 ? asked : usable;
  const best = candidates.find(({ scheme }) => scheme.kind === claim.likePeer?.kind) ?? candidates[0];
  if (best !== undefined) return best;
  throw authRefused(
    "noCredential",
    ours.length === 0
      ? `no certificate of ours is for ${claim.peer.localIdentity}`
      : "the peer verifies no signature that our key can make (without RFC 7427 it would be SHA-1)",
  );
}

/** True when one of these keys stands above the certificate: in our chain, or the authority that the chain ends at. */
function isBelow(
  { chain }: IkeCredential,
  authorities: ReadonlySet<string>,
  { trust }: PeerAuth & { kind: "certificate" },
): boolean {
  const top = chain.at(-1);
  const roots = trust.anchors.filter(({ subject }) => subject.key === top?.issuer.key);
  return [...chain.slice(1), ...roots].some((authority) => authorities.has(toHex(keyHash(authority))));
}
