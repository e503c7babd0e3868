import { removeAllChildren, removeChild } from "./lifecycle.ts";
import { sendOwn } from "./sending.ts";
import type { Child, IkeSession } from "./session.ts";
import type { EstablishedSession, SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { protocolIdOf } from "./suite.ts";

/** Sends DELETE for a Child SA; it goes when the peer has answered (RFC 7296 §1.4.1). Harmless when that is under way. */
export function beginDeleteChild(step: Step, session: IkeSession, child: Child): void {
  if (child.closing) return;
  child.closing = true;
  session.own.enqueue({ kind: "deleteChild", saId: child.sa.id });
  sendOwn(step, session);
}

/** A Child SA that must not be used for another moment goes at once; the peer hears of it. */
export function expireChild(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  child: Child,
  reason: string,
): void {
  step.count("childExpired");
  step.log("warn", "Child SA has reached its hard limit", { ...session.facts(), sa: child.sa.id, reason });
  const told = child.closing;
  removeChild(step, table, session.state, child, reason, 0);
  if (told) return;
  const { suite, inbound } = child.sa;
  session.own.enqueue({ kind: "deleteSpi", protocol: protocolIdOf(suite), spi: inbound.spi });
  sendOwn(step, session);
}

/** The children go at once, the IKE SA when the peer has answered or is given up. */
export function beginDeleteIke(step: Step, table: SessionTable, session: EstablishedSession, reason: string): void {
  const { peer } = session.state;
  removeAllChildren(step, table, session.state, reason);
  step.log("info", "IKE SA is being deleted", { ...session.facts(), reason });
  const closing: IkeSession = session;
  closing.state = { kind: "deleting", peerName: peer.name };
  closing.own.enqueue({ kind: "deleteIke" });
  sendOwn(step, closing);
}
