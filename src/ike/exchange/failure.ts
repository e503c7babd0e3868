import { u16be } from "../../core/bytes.ts";
import { EsplexError, unreachable, type ErrorCode } from "../../core/errors.ts";
import { NOTIFY } from "../wire/constants.ts";
import { notify, type NotifyPayload } from "../wire/notify.ts";

type PeerCode = Extract<ErrorCode, `peer.${string}`>;

/**
 * The notify that tells the peer about an error (RFC 7296 §2.21, §3.10.1): `peer.*` have their own, a malformed
 * message is INVALID_SYNTAX, `cluster.*` means that we are out of numbers. Null: not the peer's business.
 */
export function failureNotify(error: unknown): NotifyPayload | null {
  if (!(error instanceof EsplexError)) return null;
  if (error.code.startsWith("wire.")) return notify(NOTIFY.INVALID_SYNTAX);
  if (error.code.startsWith("cluster.")) return notify(NOTIFY.NO_ADDITIONAL_SAS);
  return error.code.startsWith("peer.") ? peerNotify(error.code as PeerCode, error.details) : null;
}

function peerNotify(code: PeerCode, details: Readonly<Record<string, unknown>>): NotifyPayload {
  switch (code) {
    case "peer.invalidSyntax":
      return notify(NOTIFY.INVALID_SYNTAX);
    case "peer.authenticationFailed":
      return notify(NOTIFY.AUTHENTICATION_FAILED);
    case "peer.noProposalChosen":
      return notify(NOTIFY.NO_PROPOSAL_CHOSEN);
    case "peer.tsUnacceptable":
      return notify(NOTIFY.TS_UNACCEPTABLE);
    case "peer.invalidKePayload":
      return notify(NOTIFY.INVALID_KE_PAYLOAD, u16be(Number(details["group"])));
    case "peer.unsupportedCriticalPayload":
      return notify(NOTIFY.UNSUPPORTED_CRITICAL_PAYLOAD, new Uint8Array([Number(details["type"])]));
    case "peer.childSaNotFound":
      return notify(NOTIFY.CHILD_SA_NOT_FOUND);
    case "peer.noAdditionalSas":
      return notify(NOTIFY.NO_ADDITIONAL_SAS);
    case "peer.temporaryFailure":
      return notify(NOTIFY.TEMPORARY_FAILURE);
    default:
      return unreachable(code);
  }
}

/** True when the error ends the IKE SA without a DELETE (RFC 7296 §2.21.3). */
export function isFatal(error: EsplexError): boolean {
  return error.code.startsWith("wire.") || error.code === "peer.invalidSyntax";
}

/** The counter of an error: `noProposalChosen`, `integrity`; short and malformed messages share one. */
export function reasonOf(error: EsplexError): string {
  return error.code === "wire.short" ? "malformed" : error.code.slice(error.code.indexOf(".") + 1);
}

/** The group that N(INVALID_KE_PAYLOAD) names (RFC 7296 §1.3); null when it names none. */
export function wantedGroup({ data }: NotifyPayload): number | null {
  return data.length === 2 ? new DataView(data.buffer, data.byteOffset).getUint16(0) : null;
}
