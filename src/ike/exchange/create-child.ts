import { EsplexError } from "../../core/errors.ts";
import { childByOutboundSpi, mayRekey, sendsTo } from "../lifecycle.ts";
import type { Child, Established, ResponseDraft } from "../session.ts";
import type { EstablishedSession, SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { ESP_SPI_BYTES, NOTIFY, PROTOCOL } from "../wire/constants.ts";
import { notify, type NotifyPayload } from "../wire/notify.ts";
import { findNotify, requirePayload, type Payload } from "../wire/payload.ts";
import { madeByPeer, negotiateChild } from "./child.ts";
import { NONCE_BYTES } from "./init.ts";
import { respond, type Outcome } from "./outcome.ts";
import { rekeyIke } from "./rekey-ike.ts";

/** Answers CREATE_CHILD_SA: a new Child SA, one that replaces another, or a new IKE SA (RFC 7296 §1.3). Throws `peer.*`. */
export function handleCreateChild(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  request: { readonly payloads: readonly Payload[]; readonly draft: ResponseDraft },
): Outcome {
  const { payloads } = request;
  const [first] = requirePayload(payloads, "sa").proposals;
  const { nonce: nonceI } = requirePayload(payloads, "nonce");
  if (first?.protocol === PROTOCOL.IKE) return rekeyIke(step, table, session, { payloads, nonceI });
  for (const kind of ["tsi", "tsr"] as const) requirePayload(payloads, kind);
  if (session.own.outstanding?.kind === "rekeyIke") {
    // RFC 7296 §2.25.2.
    throw new EsplexError("peer.temporaryFailure", "the IKE SA is being rekeyed");
  }

  const rekey = findNotify(payloads, NOTIFY.REKEY_SA);
  const replaces = rekey === undefined ? null : replacedChild(session.state, rekey);
  if (rekey !== undefined && replaces === null) {
    step.count("childSaNotFound");
    return respond([{ ...notify(NOTIFY.CHILD_SA_NOT_FOUND), protocol: rekey.protocol, spi: rekey.spi }]);
  }
  checkLimit(step, session.state, replaces);
  const nonceR = step.environment.randomBytes(NONCE_BYTES);
  const child = negotiateChild(step, table, session, { payloads, nonceI, nonceR, pfs: true, replaces });
  return {
    kind: "install",
    pending: {
      ...madeByPeer(child, replaces),
      deadlineMs: step.nowMs + step.settings.timing.installMs,
      answer: request.draft,
      always: [],
      success: [
        ...child.transportMode,
        child.saPayload,
        { kind: "nonce", nonce: nonceR },
        ...child.ke,
        ...child.selectors,
      ],
    },
  };
}

/** REKEY_SA names the SA by the SPI that the peer receives on (RFC 7296 §3.10.1). Null when there is none such. */
function replacedChild(state: Established, rekey: NotifyPayload): Child | null {
  const { protocol } = rekey;
  if (rekey.spi.length !== ESP_SPI_BYTES) return null;
  const spi = new DataView(rekey.spi.buffer, rekey.spi.byteOffset).getUint32(0);
  if (state.ownPending !== null && sendsTo(state.ownPending.sa, protocol, spi)) {
    throw new EsplexError("peer.temporaryFailure", "the SA to be rekeyed is being installed");
  }
  const child = childByOutboundSpi(state, protocol, spi);
  if (child === undefined) return null;
  // RFC 7296 §2.25.1; a second heir would leave the reqid with two SAs that both want to be the newest. While our own rekey
  // of it is under way the peer's is answered as usual: the nonces decide later which of the two stays.
  if (child.closing) throw new EsplexError("peer.temporaryFailure", "the SA to be rekeyed is closing");
  if (!mayRekey(child)) throw new EsplexError("peer.temporaryFailure", "the SA to be rekeyed is replaced already");
  return child;
}

/** A rekey adds an SA for a moment only: it may exceed the limit by as many again. */
function checkLimit(step: Step, state: Established, replaces: Child | null): void {
  const { childSasPerIkeSa } = step.settings.limits;
  const limit = replaces === null ? childSasPerIkeSa : 2 * childSasPerIkeSa;
  if (state.children.size < limit) return;
  throw new EsplexError("peer.noAdditionalSas", `${state.children.size} Child SAs are enough`);
}
