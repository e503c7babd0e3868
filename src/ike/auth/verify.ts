import { EsplexError } from "../../core/errors.ts";
import { Secret } from "../../core/secret.ts";
import { keyName, schemeName, verifySignature, type SignatureScheme } from "../../crypto/signature.ts";
import type { Certificate } from "../../x509/certificate.ts";
import type { CertificateCache } from "../../x509/certificate-cache.ts";
import { validateChain, type TrustStore } from "../../x509/chain.ts";
import type { Decoy } from "./decoy.ts";
import type { PeerAuth } from "../environment.ts";
import { identityText, isIdentityOf } from "../identity.ts";
import { pskAuth, signedOctets } from "../keys.ts";
import { AUTH_METHOD, authMethodName, CERT_ENCODING } from "../wire/constants.ts";
import type { AuthPayload } from "../wire/authentication.ts";
import type { IdentificationPayload } from "../wire/identification.ts";
import { WIRE_LIMITS } from "../wire/limits.ts";
import { findPayload, type Payload } from "../wire/payload.ts";
import { octetsOf, type AuthContext, type Side } from "./octets.ts";
import { authRefused } from "./problem.ts";
import { isSignatureMethod, readSignature } from "./signature-payload.ts";

/** What a peer says of itself in IKE_AUTH. */
export interface PeerClaim {
  readonly side: Side;
  readonly identity: IdentificationPayload;
  /** Of its message: AUTH and CERT are in them. */
  readonly payloads: readonly Payload[];
}

/** A peer that has proved who it is. */
export interface PeerProof {
  /** How it signed; null for a shared key. */
  readonly scheme: SignatureScheme | null;
  /** For the log. */
  readonly method: string;
}

/**
 * Checks that the peer is who it claims to be (RFC 7296 §2.15, RFC 7427, RFC 4945): the same for a peer that began the IKE SA
 * and one that answered us. `auth`: what the peer with this identity must prove, undefined when there is no such peer; the work
 * is the same then. Throws `peer.authenticationFailed` (an `AuthProblem` in `details.reason`) and `wire.*`.
 */
export function verifyPeer(
  context: AuthContext,
  claim: PeerClaim,
  auth: PeerAuth | undefined,
  decoy: Decoy,
  nowMs: number,
): PeerProof {
  const payload = findPayload(claim.payloads, "auth");
  if (payload === undefined) throw authRefused("noAuth", "no AUTH payload: the peer wants EAP");
  if (payload.method === AUTH_METHOD.SHARED_KEY) return verifyPsk(context, claim, payload, auth, decoy);
  if (isSignatureMethod(payload.method)) return verifyCertificate(context, claim, payload, auth, decoy, nowMs);
  throw authRefused("methodNotAllowed", `authentication method ${authMethodName(payload.method)} is not supported`);
}

const UNKNOWN_PEER = "no peer in the cluster file has this address and identity";

function verifyPsk(
  context: AuthContext,
  { side, identity }: PeerClaim,
  payload: AuthPayload,
  auth: PeerAuth | undefined,
  decoy: Decoy,
): PeerProof {
  const { octets, macKey } = octetsOf(context, side, identity);
  const psk = auth?.kind === "psk" ? auth.psk : decoy.psk;
  const expected = new Secret(pskAuth(context.suite, psk, macKey, octets));
  const matches = expected.equals(new Secret(payload.data.slice()));
  if (auth === undefined) throw authRefused("unknownPeer", UNKNOWN_PEER);
  if (auth.kind !== "psk")
    throw authRefused("methodNotAllowed", "a shared key from a peer that must show a certificate");
  if (!matches) throw authRefused("wrongKey", "wrong pre-shared key");
  return { scheme: null, method: "pre-shared key" };
}

/** The signature first: a stranger's chain is only worth reading and walking when the stranger has the key. */
function verifyCertificate(
  context: AuthContext,
  { side, identity, payloads }: PeerClaim,
  payload: AuthPayload,
  auth: PeerAuth | undefined,
  decoy: Decoy,
  nowMs: number,
): PeerProof {
  const trust = auth?.kind === "certificate" ? auth.trust : decoy.trust;
  const [own, ...sent] = certificatesOf(payloads);
  if (own === undefined)
    throw authRefused("noCertificate", "a signature without an X.509 certificate in a CERT payload");
  const leaf = readLeaf(own, trust.known);
  if (leaf.keyKind === null) throw authRefused("certificateWeak", "the certificate's key is not one that is taken");
  const { scheme, signature } = readSignature(payload, leaf.keyKind, context.init.peerHashes !== null);
  const { octets, macKey } = octetsOf(context, side, identity);
  if (!verifySignature(scheme, leaf.publicKey, signedOctets(context.suite, macKey, octets), signature)) {
    throw authRefused("wrongSignature", `the ${schemeName(scheme)} signature is not made with the certificate's key`);
  }
  const others = readOthers(sent, trust.known);
  if (auth?.kind !== "certificate") {
    pretendToValidate(leaf, others, trust, nowMs);
    throw auth === undefined
      ? authRefused("unknownPeer", UNKNOWN_PEER)
      : authRefused("methodNotAllowed", "a certificate from a peer that must use its shared key");
  }
  trust.known.remember(validateChain(leaf, others, trust, nowMs));
  if (!isIdentityOf(leaf, identity)) {
    throw authRefused(
      "wrongName",
      `the certificate of ${leaf.subject.toString()} is not for ${identityText(identity)}`,
    );
  }
  return { scheme, method: `${schemeName(scheme)} with ${keyName(leaf.keyKind)}, ${leaf.subject.toString()}` };
}

function pretendToValidate(leaf: Certificate, others: readonly Certificate[], trust: TrustStore, nowMs: number): void {
  try {
    validateChain(leaf, others, trust, nowMs);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
  }
}

/** In X.509, as they stand there, as many as we look at: the first one is whose key signs (RFC 7296 §3.6). */
function certificatesOf(payloads: readonly Payload[]): Uint8Array[] {
  const sent = payloads.flatMap((payload) =>
    payload.kind === "cert" && payload.encoding === CERT_ENCODING.X509_SIGNATURE ? [payload.data] : [],
  );
  return sent.slice(0, WIRE_LIMITS.certificates);
}

function readLeaf(der: Uint8Array, known: CertificateCache): Certificate {
  try {
    return known.read(der);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    throw authRefused("certificateMalformed", error.message);
  }
}

/** Without those that are of no use. */
function readOthers(ders: readonly Uint8Array[], known: CertificateCache): Certificate[] {
  return ders.flatMap((der) => {
    try {
      return [known.read(der)];
    } catch (error) {
      if (!(error instanceof EsplexError)) throw error;
      return [];
    }
  });
}
