import { dropSession } from "./lifecycle.ts";
import { failInstall, releaseHeld } from "./installation.ts";
import { emitDatagrams, sendOwn } from "./sending.ts";
import type { IkeSession } from "./session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "./session-table.ts";
import type { IkeTiming } from "./settings.ts";
import type { Step } from "./step.ts";

/** Does everything whose time has come. */
export function runTimers(step: Step, table: SessionTable): void {
  for (const session of [...table.all]) runSession(step, table, session);
}

function runSession(step: Step, table: SessionTable, session: IkeSession): void {
  const { state } = session;
  if ("expiresAtMs" in state) {
    if (step.nowMs < state.expiresAtMs) return;
    if (state.kind === "halfOpen") step.count("halfOpenExpired");
    dropSession(step, table, session, "expired");
    return;
  }
  // RFC 7383 §2.6: not at a moment of its own; a DPD comes by often enough for 16 kB.
  for (const fragments of [session.requestFragments, session.responseFragments]) {
    fragments.expire(step.nowMs, step.settings.timing.reassemblyMs);
  }
  const due = session.own.due(step.nowMs, step.settings.timing);
  if (due === "giveUp") {
    step.count("peerDead");
    step.log("warn", "the peer does not answer", session.facts());
    dropSession(step, table, session, "the peer does not answer");
    return;
  }
  if (due !== null) {
    step.count("requestRetransmitted");
    emitDatagrams(step, session.path, due);
  }
  if (isEstablished(session)) runEstablished(step, session);
}

function runEstablished(step: Step, session: EstablishedSession): void {
  const { state } = session;
  const { pending } = state;
  if (pending !== null && step.nowMs >= pending.deadlineMs) failInstall(step, session, pending, "no report in time");
  releaseHeld(step, session);
  if (!session.own.idle || step.nowMs < state.lastHeardMs + step.settings.timing.dpdIdleMs) return;
  step.count("dpdSent");
  session.own.enqueue({ kind: "dpd" });
  sendOwn(step, session);
}

/** When the next thing is due, null when nothing is. */
export function nextWakeMs(table: SessionTable, timing: IkeTiming): number | null {
  let next: number | null = null;
  for (const session of table.all) {
    for (const atMs of deadlines(session, timing)) if (next === null || atMs < next) next = atMs;
  }
  return next;
}

function deadlines(session: IkeSession, timing: IkeTiming): number[] {
  const { state } = session;
  if ("expiresAtMs" in state) return [state.expiresAtMs];
  const found: number[] = [];
  const ownMs = session.own.nextAtMs;
  if (ownMs !== null) found.push(ownMs);
  if (state.kind !== "established") return found;
  if (state.pending !== null) found.push(state.pending.deadlineMs);
  for (const { held } of state.children.values()) if (held !== null) found.push(held.untilMs);
  if (session.own.idle) found.push(state.lastHeardMs + timing.dpdIdleMs);
  return found;
}
