import { NAT_T_PORT } from "../sa/spec.ts";
import { dropSession, isReleased, mayRekey } from "./lifecycle.ts";
import { beginDeleteChild, beginDeleteIke, expireChild } from "./closing.ts";
import { failInstall, failOwnInstall, releaseHeld } from "./installation.ts";
import { repeatSync } from "./message-ids.ts";
import { emitDatagrams, isUndecided, sendOwn } from "./sending.ts";
import type { Child, IkeSession } from "./session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "./session-table.ts";
import type { IkeTiming } from "./settings.ts";
import type { Step } from "./step.ts";

/** Does everything whose time has come. */
export function runTimers(step: Step, table: SessionTable): void {
  for (const session of table.deadlines.due(step.nowMs)) {
    // What another one did a moment ago may have ended this one.
    if (!table.has(session)) continue;
    table.touch(session);
    runSession(step, table, session);
  }
}

function runSession(step: Step, table: SessionTable, session: IkeSession): void {
  const { state } = session;
  if ("expiresAtMs" in state && step.nowMs >= state.expiresAtMs) {
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
    // An IKE SA that the peer has replaced may be gone at its end: so may our own rekey of it.
    if (state.kind === "rekeyed") {
      session.own.clear();
      return;
    }
    step.count("peerDead");
    step.log("warn", "the peer does not answer", session.facts());
    dropSession(step, table, session, "the peer does not answer");
    return;
  }
  if (due !== null) {
    step.count("requestRetransmitted");
    const { outstanding } = session.own;
    if (outstanding?.kind === "synchronise" && isEstablished(session)) repeatSync(step, session, outstanding);
    else emitDatagrams(step, session.path, due);
  }
  if (isEstablished(session)) runEstablished(step, table, session);
}

function runEstablished(step: Step, table: SessionTable, session: EstablishedSession): void {
  const { state } = session;
  const { pending, ownPending } = state;
  if (pending !== null && step.nowMs >= pending.deadlineMs) failInstall(step, session, pending, "no report in time");
  if (ownPending !== null && step.nowMs >= ownPending.deadlineMs) {
    failOwnInstall(step, session, ownPending, "no report in time");
  }
  releaseHeld(step, session);
  if (needsKeepalive(session) && step.nowMs >= session.keepaliveAtMs) {
    session.keepaliveAtMs = step.nowMs + step.settings.timing.natKeepaliveMs;
    step.emit({ kind: "keepalive", ...session.path });
  }
  for (const child of [...state.children.values()]) runChild(step, table, session, child);
  if (!runIkeLife(step, table, session)) return;
  sendOwn(step, session);
  if (!session.own.idle || step.nowMs < state.lastHeardMs + step.settings.timing.dpdIdleMs) return;
  step.count("dpdSent");
  session.own.enqueue({ kind: "dpd" });
  sendOwn(step, session);
}

/** True when we are behind a NAT that forgets who does not speak. */
function needsKeepalive({ nat, path }: IkeSession): boolean {
  return nat.us && path.local.port === NAT_T_PORT;
}

/** Ends, deletes or rekeys the Child SA when its time has come. */
export function runChild(step: Step, table: SessionTable, session: EstablishedSession, child: Child): void {
  const { life, redundantUntilMs } = child;
  if (life.endsAtMs !== null && step.nowMs >= life.endsAtMs) {
    expireChild(step, table, session, child, "its time is over");
    return;
  }
  if (redundantUntilMs !== null && step.nowMs >= redundantUntilMs) beginDeleteChild(step, session, child);
  const rekeyAtMs = rekeyDeadline(session, child);
  if (rekeyAtMs === null || step.nowMs < rekeyAtMs) return;
  step.count("childRekeyBegun");
  session.own.enqueue({ kind: "rekeyChild", saId: child.sa.id, group: null });
  sendOwn(step, session);
}

/** Ends or rekeys the IKE SA when its time has come; false when it ended. */
export function runIkeLife(step: Step, table: SessionTable, session: EstablishedSession): boolean {
  const { endsAtMs } = session.state.life;
  if (endsAtMs !== null && step.nowMs >= endsAtMs) {
    step.count("ikeExpired");
    beginDeleteIke(step, table, session, "its time is over");
    return false;
  }
  const rekeyAtMs = ikeRekeyDeadline(session);
  if (rekeyAtMs === null || step.nowMs < rekeyAtMs) return true;
  step.count("ikeRekeyBegun");
  session.own.enqueue({ kind: "rekeyIke", group: null });
  sendOwn(step, session);
  return true;
}

/** When the IKE SA is to be rekeyed; null for never, and while it or a Child SA is being made (RFC 7296 §2.25.1). */
function ikeRekeyDeadline(session: EstablishedSession): number | null {
  const { state, own } = session;
  const isBusy =
    state.pending !== null ||
    state.ownPending !== null ||
    isUndecided(session) ||
    own.has(({ kind }) => kind !== "dpd");
  return isBusy ? null : state.life.rekeyAtMs;
}

/** When the Child SA is to be rekeyed; null for never, and while somebody is at it. */
function rekeyDeadline({ state, own }: EstablishedSession, child: Child): number | null {
  const { id } = child.sa;
  const isBusy =
    !mayRekey(child) ||
    state.pending?.replaces === id ||
    state.ownPending?.replaces === id ||
    own.has((wish) => wish.kind === "rekeyChild" && wish.saId === id);
  return isBusy ? null : child.life.rekeyAtMs;
}

/** After an event: notes when the sessions that it may have changed have something to do. */
export function schedule(table: SessionTable, timing: IkeTiming): void {
  for (const session of table.takeTouched()) {
    if (table.has(session)) table.deadlines.set(session, earliest(deadlines(session, timing)));
  }
}

/** When the next thing is due, null when nothing is: as {@link schedule} should have noted it, from looking at every session. */
export function scanDeadlines(table: SessionTable, timing: IkeTiming): number | null {
  return earliest([...table.all].flatMap((session) => deadlines(session, timing)));
}

function earliest(times: readonly number[]): number | null {
  return times.length === 0 ? null : times.reduce((a, b) => Math.min(a, b));
}

function deadlines(session: IkeSession, timing: IkeTiming): number[] {
  const { state } = session;
  const found: number[] = "expiresAtMs" in state ? [state.expiresAtMs] : [];
  const ownMs = session.own.nextAtMs;
  if (ownMs !== null) found.push(ownMs);
  if (!isEstablished(session)) return found;
  // What waited for a decision goes out now.
  if (ownMs === null && !session.own.idle && !isUndecided(session)) found.push(0);
  found.push(...[session.state.life.endsAtMs, ikeRekeyDeadline(session)].filter((atMs) => atMs !== null));
  const { pending, ownPending, children, lastHeardMs } = session.state;
  if (pending !== null) found.push(pending.deadlineMs);
  if (ownPending !== null) found.push(ownPending.deadlineMs);
  for (const child of children.values()) found.push(...childDeadlines(session, child));
  if (needsKeepalive(session)) found.push(session.keepaliveAtMs);
  if (session.own.idle) found.push(lastHeardMs + timing.dpdIdleMs);
  return found;
}

function childDeadlines(session: EstablishedSession, child: Child): number[] {
  const { heldUntilMs, life, redundantUntilMs, closing } = child;
  const possible = [
    isReleased(child) ? heldUntilMs : null,
    life.endsAtMs,
    closing ? null : redundantUntilMs,
    rekeyDeadline(session, child),
  ];
  return possible.filter((atMs) => atMs !== null);
}
