import { unreachable } from "../core/errors.ts";
import { suiteName } from "../sa/suite.ts";
import { removeChild, useOutbound } from "./lifecycle.ts";
import { sendResponse } from "./sending.ts";
import type { Child, PendingInstall } from "./session.ts";
import type { EstablishedSession, SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { NOTIFY } from "./wire/constants.ts";
import { notify } from "./wire/notify.ts";

/** Asks for the installation; the response waits for its report. */
export function startInstall(step: Step, session: EstablishedSession, pending: PendingInstall): void {
  session.state.pending = pending;
  const outbound = pending.replaces === null ? "now" : "hold";
  step.emit({ kind: "installChild", sa: pending.sa, outbound });
}

/** What the runner reported about an installation. */
export type InstallReport = { readonly kind: "installed" } | { readonly kind: "failed"; readonly reason: string };

/** Answers the peer now that the installation has ended. A report that nobody waits for removes what it installed. */
export function reportInstall(step: Step, table: SessionTable, saId: string, report: InstallReport): void {
  for (const session of table.established()) {
    if (session.state.children.has(saId)) {
      step.count("installReportRepeated");
      return;
    }
    if (session.state.pending?.sa.id !== saId) continue;
    switch (report.kind) {
      case "installed": {
        finishInstall(step, session, session.state.pending);
        return;
      }
      case "failed": {
        failInstall(step, session, session.state.pending, report.reason);
        return;
      }
      default:
        return unreachable(report);
    }
  }
  step.count("installReportLate");
  if (report.kind === "installed") step.emit({ kind: "removeChild", saId, reason: "installed too late" });
}

function finishInstall(step: Step, session: EstablishedSession, pending: PendingInstall): void {
  const { state } = session;
  const { sa } = pending;
  const old = pending.replaces === null ? undefined : state.children.get(pending.replaces);
  const untilMs = step.nowMs + step.settings.timing.outboundHoldMs;
  const held = pending.replaces === null ? null : { replaces: pending.replaces, untilMs };
  const child: Child = { sa, held, replacedBy: null, closing: false };
  state.pending = null;
  state.children.set(sa.id, child);
  if (old === undefined) useOutbound(step, child);
  else old.replacedBy = sa.id;
  step.count(pending.replaces === null ? "childEstablished" : "childRekeyed");
  step.log("info", pending.replaces === null ? "Child SA established" : "Child SA rekeyed", {
    ...session.facts(),
    sa: sa.id,
    mode: sa.mode,
    suite: suiteName(sa.suite),
    reqid: sa.reqid,
    replaces: pending.replaces,
  });
  sendResponse(step, session, pending.answer, [...pending.always, ...pending.success]);
}

/** Also when the time for it is over. The peer may try again (RFC 7296 §2.25). */
export function failInstall(step: Step, session: EstablishedSession, pending: PendingInstall, reason: string): void {
  session.state.pending = null;
  step.count("installFailed");
  step.log("error", "Child SA could not be installed", { ...session.facts(), sa: pending.sa.id, reason });
  step.emit({ kind: "removeChild", saId: pending.sa.id, reason });
  sendResponse(step, session, pending.answer, [...pending.always, notify(NOTIFY.TEMPORARY_FAILURE)]);
}

/** Starts sending on the SAs whose old one the peer has not deleted in time. */
export function releaseHeld(step: Step, session: EstablishedSession): void {
  for (const child of session.state.children.values()) {
    if (child.held !== null && step.nowMs >= child.held.untilMs) useOutbound(step, child);
  }
}

/** Removes the Child SA that our DELETE named: the peer has answered. */
export function finishDelete(step: Step, session: EstablishedSession, saId: string): void {
  const child = session.state.children.get(saId);
  if (child !== undefined) removeChild(step, session.state, child, "deleted by order");
}
