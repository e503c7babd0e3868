import { unreachable } from "../core/errors.ts";
import { suiteName } from "../sa/suite.ts";
import { beginDeleteChild } from "./closing.ts";
import { hasTwin, isReleased, removeChild, useOutbound } from "./lifecycle.ts";
import { newChildLife, postpone } from "./lifetime.ts";
import { alignPort } from "./moving.ts";
import { sendOwn, sendResponse } from "./sending.ts";
import type { Child, PeerInstall, PendingInstall } from "./session.ts";
import type { EstablishedSession, SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { protocolIdOf } from "./suite.ts";
import { NOTIFY } from "./wire/constants.ts";
import { notify } from "./wire/notify.ts";

/** Asks for the installation of what the peer asked for; the response waits for its report. */
export function startInstall(step: Step, session: EstablishedSession, pending: PeerInstall): void {
  session.state.pending = pending;
  askForInstall(step, pending);
}

/** Asks for the installation of what we asked for; the switch to it waits for its report. */
export function startOwnInstall(step: Step, session: EstablishedSession, pending: PendingInstall): void {
  session.state.ownPending = pending;
  askForInstall(step, pending);
}

function askForInstall(step: Step, pending: PendingInstall): void {
  step.emit({ kind: "installChild", sa: pending.sa, outbound: isHeld(pending) ? "hold" : "now" });
}

/** True for an SA whose tunnel has an older one: not sent on before the peer is known to have it. */
function isHeld({ replaces, isTwin }: PendingInstall): boolean {
  return replaces !== null || isTwin;
}

/** What the runner reported about an installation. */
export type InstallReport = { readonly kind: "installed" } | { readonly kind: "failed"; readonly reason: string };

/** Goes on with what waited for the installation. A report that nobody waits for removes what it installed. */
export function reportInstall(step: Step, table: SessionTable, saId: string, report: InstallReport): void {
  for (const session of table.aroundSa(saId)) {
    const { children, pending, ownPending } = session.state;
    if (children.has(saId)) {
      step.count("installReportRepeated");
      return;
    }
    if (pending?.sa.id === saId) {
      finishPeerInstall(step, table, session, pending, report);
      return;
    }
    if (ownPending?.sa.id === saId) {
      finishOwnInstall(step, session, ownPending, report);
      return;
    }
  }
  step.count("installReportLate");
  if (report.kind === "installed") step.emit({ kind: "removeChild", saId, reason: "installed too late", afterMs: 0 });
}

function finishPeerInstall(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  pending: PeerInstall,
  report: InstallReport,
): void {
  switch (report.kind) {
    case "installed": {
      session.state.pending = null;
      placeOfPeer(step, table, session, addChild(step, session, pending));
      sendResponse(step, session, pending.answer, [...pending.always, ...pending.success]);
      return;
    }
    case "failed":
      failInstall(step, session, pending, report.reason);
      return;
    default:
      return unreachable(report);
  }
}

function finishOwnInstall(
  step: Step,
  session: EstablishedSession,
  pending: PendingInstall,
  report: InstallReport,
): void {
  switch (report.kind) {
    case "installed": {
      session.state.ownPending = null;
      placeOwn(step, session, addChild(step, session, pending));
      return;
    }
    case "failed":
      failOwnInstall(step, session, pending, report.reason);
      return;
    default:
      return unreachable(report);
  }
}

function addChild(step: Step, session: EstablishedSession, pending: PendingInstall): Child {
  const { state } = session;
  const { sa, replaces, isOurs, lowestNonce, group, isTwin } = pending;
  const child: Child = {
    ...{ sa, replaces, isOurs, lowestNonce, group, isTwin },
    heldUntilMs: isHeld(pending) ? step.nowMs + step.settings.timing.outboundHoldMs : null,
    replacedBy: null,
    closing: false,
    redundantUntilMs: null,
    life: newChildLife(step, state.peer.childLifetime),
    used: null,
  };
  state.children.set(sa.id, child);
  alignPort(step, session, child);
  step.count(replaces === null ? "childEstablished" : "childRekeyed");
  step.log("info", replaces === null ? "Child SA established" : "Child SA rekeyed", {
    ...session.facts(),
    sa: sa.id,
    mode: sa.mode,
    suite: suiteName(sa.suite),
    reqid: sa.reqid,
    replaces,
    begunBy: isOurs ? "us" : "the peer",
  });
  return child;
}

/**
 * What the peer asked for beside an older SA is sent on when the peer deletes that (RFC 7296 §2.8). An heir of ours may have won:
 * then the peer is to delete its own.
 */
function placeOfPeer(step: Step, table: SessionTable, session: EstablishedSession, child: Child): void {
  const { state } = session;
  if (child.replaces === null) {
    if (child.isTwin && !hasTwin(table, child)) useOutbound(step, child);
    return;
  }
  const winner = [...state.children.values()].find(
    (other) => other.isOurs && other.replaces === child.replaces && !other.closing,
  );
  const old = state.children.get(child.replaces);
  if (winner !== undefined) child.redundantUntilMs = step.nowMs + step.settings.timing.redundantMs;
  else if (old === undefined) useOutbound(step, child);
  else old.replacedBy = child.sa.id;
}

/**
 * What we asked for is sent on at once, for the peer has it, and the SA that it replaces is deleted; unless the peer has rekeyed the
 * same SA and ours has the lowest nonce: then we delete ours (RFC 7296 §2.8.1).
 */
function placeOwn(step: Step, session: EstablishedSession, child: Child): void {
  const { state } = session;
  if (child.replaces === null) {
    if (child.isTwin) useOutbound(step, child);
    return;
  }
  const isRival = (other: PendingInstall | Child | null): boolean =>
    other !== null && !other.isOurs && other.replaces === child.replaces;
  const installed = [...state.children.values()].find((other) => isRival(other) && !other.closing);
  const rival = installed ?? (isRival(state.pending) ? state.pending : null);
  if (rival !== null && Buffer.compare(child.lowestNonce, rival.lowestNonce) < 0) {
    step.count("childRekeyCollisionLost");
    beginDeleteChild(step, session, child);
    return;
  }
  if (rival !== null) step.count("childRekeyCollisionWon");
  if (installed !== undefined) installed.redundantUntilMs = step.nowMs + step.settings.timing.redundantMs;
  useOutbound(step, child);
  const old = state.children.get(child.replaces);
  if (old === undefined) return;
  old.replacedBy = child.sa.id;
  beginDeleteChild(step, session, old);
}

/** Also when the time for it is over. The peer may try again (RFC 7296 §2.25). */
export function failInstall(step: Step, session: EstablishedSession, pending: PeerInstall, reason: string): void {
  session.state.pending = null;
  tellFailed(step, session, pending, reason);
  sendResponse(step, session, pending.answer, [...pending.always, notify(NOTIFY.TEMPORARY_FAILURE)]);
}

/** Also when the time for it is over. The peer has the SA already and must delete it; the old one is rekeyed again later. */
export function failOwnInstall(step: Step, session: EstablishedSession, pending: PendingInstall, reason: string): void {
  session.state.ownPending = null;
  tellFailed(step, session, pending, reason);
  const { suite, inbound } = pending.sa;
  session.own.enqueue({ kind: "deleteSpi", protocol: protocolIdOf(suite), spi: inbound.spi });
  postponeRekey(step, session, pending.replaces);
  sendOwn(step, session);
}

function tellFailed(step: Step, session: EstablishedSession, { sa }: PendingInstall, reason: string): void {
  step.count("installFailed");
  step.log("error", "Child SA could not be installed", { ...session.facts(), sa: sa.id, reason });
  step.emit({ kind: "removeChild", saId: sa.id, reason, afterMs: 0 });
}

/** The rekey of this SA has failed; nothing happens when it was none, or the SA is gone. */
export function postponeRekey(step: Step, session: EstablishedSession, saId: string | null): void {
  const old = saId === null ? undefined : session.state.children.get(saId);
  if (old !== undefined) postpone(step, old.life);
}

/** Starts sending on the SAs whose old one the peer has not deleted in time. */
export function releaseHeld(step: Step, session: EstablishedSession): void {
  for (const child of session.state.children.values()) {
    const isOver = child.heldUntilMs !== null && step.nowMs >= child.heldUntilMs;
    if (isOver && isReleased(child)) useOutbound(step, child);
  }
}

/** The peer sends on this SA, so it receives on it too: we need not wait for its DELETE of the old one (RFC 7296 §2.8). */
export function releaseHeard(step: Step, table: SessionTable, saId: string): void {
  for (const session of table.aroundSa(saId)) {
    const child = session.state.children.get(saId);
    if (child !== undefined && isReleased(child)) useOutbound(step, child);
  }
}

/** Removes the Child SA that our DELETE named: the peer has answered. */
export function finishDelete(step: Step, table: SessionTable, session: EstablishedSession, saId: string): void {
  const child = session.state.children.get(saId);
  if (child === undefined) return;
  removeChild(step, table, session.state, child, child.replacedBy === null ? "deleted by order" : "rekeyed");
}
