import { EsplexError } from "../core/errors.ts";

/** Why a certificate is refused. Names of counters: a closed list. */
export type CertificateProblem =
  | "certificateMalformed"
  | "certificateUntrusted"
  | "certificateExpired"
  | "certificateNotYetValid"
  | "certificateWrongUsage"
  | "certificateNameConstraint"
  | "certificateWeak"
  | "certificateUnsupported"
  | "certificateRevoked"
  | "revocationUnknown";

/** `peer.authenticationFailed` with the problem in `details.reason`. */
export function refusedCertificate(reason: CertificateProblem, message: string): EsplexError {
  return new EsplexError("peer.authenticationFailed", message, { reason });
}
