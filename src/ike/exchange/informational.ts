import { u32be } from "../../core/bytes.ts";
import { cancelInstall, childByOutboundSpi, removeChild, sendsTo } from "../lifecycle.ts";
import type { Established, IkeSession } from "../session.ts";
import type { SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { FIRST_STATUS_NOTIFY, NOTIFY, notifyName, PROTOCOL } from "../wire/constants.ts";
import type { DeletePayload } from "../wire/delete.ts";
import type { Payload } from "../wire/payload.ts";
import { respond, respondAndClose, type Outcome } from "./outcome.ts";

/** Errors after which the peer has no IKE SA any more (RFC 7296 §2.21.2, §2.21.3). */
const FATAL_NOTIFIES: readonly number[] = [NOTIFY.AUTHENTICATION_FAILED, NOTIFY.INVALID_SYNTAX];

/** Answers INFORMATIONAL: DELETE of the IKE SA or of Child SAs, notifies, or nothing at all (a DPD), RFC 7296 §1.4. */
export function handleInformational(
  step: Step,
  table: SessionTable,
  session: IkeSession,
  payloads: readonly Payload[],
): Outcome {
  const deletes = payloads.filter((payload): payload is DeletePayload => payload.kind === "delete");
  if (deletes.some(({ protocol }) => protocol === PROTOCOL.IKE)) {
    step.count("ikeDeletedByPeer");
    giveBack(session);
    return respondAndClose([], "deleted by the peer");
  }
  const fatal = readNotifies(step, session, payloads);
  if (fatal !== null) return respondAndClose([], `the peer reported ${notifyName(fatal)}`);
  const { state } = session;
  return respond(state.kind === "established" ? deleteChildren(step, table, state, deletes) : []);
}

/**
 * The peer deletes the heir that it asked for while our own rekey of the same IKE SA waits for its answer: it has seen that its heir
 * lost (RFC 7296 §2.8.2). The Child SAs go back, to be inherited by ours.
 */
function giveBack(session: IkeSession): void {
  const { state } = session;
  if (state.kind !== "established" || state.undecided?.own.outstanding?.kind !== "rekeyIke") return;
  const old: IkeSession = state.undecided;
  old.state = { ...state, undecided: null };
  session.state = { kind: "deleting", peerName: state.peer.name };
}

/** The first notify that ends the IKE SA, or null. */
function readNotifies(step: Step, session: IkeSession, payloads: readonly Payload[]): number | null {
  for (const payload of payloads) {
    if (payload.kind !== "notify" || payload.type >= FIRST_STATUS_NOTIFY) continue;
    step.count("errorReportedByPeer");
    step.log("warn", "the peer reports an error", { ...session.facts(), notify: notifyName(payload.type) });
    if (FATAL_NOTIFIES.includes(payload.type)) return payload.type;
  }
  return null;
}

/**
 * Removes the pairs that the peer names by its inbound SPIs; the answer names our halves, those of each protocol in a payload of
 * their own (RFC 7296 §1.4.1, §3.11).
 */
function deleteChildren(
  step: Step,
  table: SessionTable,
  state: Established,
  deletes: readonly DeletePayload[],
): Payload[] {
  return CHILD_PROTOCOLS.flatMap((protocol): Payload[] => {
    const named = deletes.flatMap((payload) => (payload.protocol === protocol ? payload.spis : []));
    const spis = named.flatMap((bytes) => {
      const ours = deleteChild(step, table, state, protocol, new DataView(bytes.buffer, bytes.byteOffset).getUint32(0));
      return ours === null ? [] : [u32be(ours)];
    });
    return spis.length === 0 ? [] : [{ kind: "delete", protocol, spis }];
  });
}

const CHILD_PROTOCOLS = [PROTOCOL.ESP, PROTOCOL.AH];

/** Our own inbound SPI of the pair; null when the answer does not name it. */
function deleteChild(
  step: Step,
  table: SessionTable,
  state: Established,
  protocol: number,
  spi: number,
): number | null {
  const { ownPending } = state;
  if (ownPending !== null && sendsTo(ownPending.sa, protocol, spi)) {
    cancelInstall(step, state, ownPending);
    return ownPending.sa.inbound.spi;
  }
  const child = childByOutboundSpi(state, protocol, spi);
  if (child === undefined) {
    step.count("deleteOfUnknownChild");
    return null;
  }
  removeChild(step, table, state, child, "deleted by the peer");
  step.count("childDeletedByPeer");
  // Both sides delete it at once: our own DELETE names our half already.
  return child.closing ? null : child.sa.inbound.spi;
}
