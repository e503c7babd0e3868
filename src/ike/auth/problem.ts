import { EsplexError } from "../../core/errors.ts";
import type { CertificateProblem } from "../../x509/problem.ts";

/** Why authentication failed: each is counted as `ike.auth.<problem>`. The peer never learns which. */
export type AuthProblem =
  | CertificateProblem
  | "noAuth"
  | "methodNotAllowed"
  | "unknownPeer"
  | "wrongKey"
  | "noCertificate"
  | "weakSignature"
  | "wrongSignature"
  | "wrongName"
  | "noCredential";

/** `peer.authenticationFailed` with the problem in `details.reason`. */
export function authRefused(reason: AuthProblem, message: string): EsplexError {
  return new EsplexError("peer.authenticationFailed", message, { reason });
}
