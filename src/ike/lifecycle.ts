import { localEndOf, type SharedSa } from "../sa/spec.ts";
import { postpone } from "./lifetime.ts";
import type { Child, Established, IkeSession, PendingInstall } from "./session.ts";
import type { SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { protocolIdOf } from "./suite.ts";

/** The Child SA, or undefined, that we send on to this SPI of this protocol (`PROTOCOL`): an ESP SA and an AH SA may have the same SPI. */
export function childByOutboundSpi(state: Established, protocol: number, spi: number): Child | undefined {
  return [...state.children.values()].find(({ sa }) => sendsTo(sa, protocol, spi));
}

/** True when the peer knows the SA by this SPI of this protocol. */
export function sendsTo({ suite, outbound }: SharedSa, protocol: number, spi: number): boolean {
  return outbound.spi === spi && protocolIdOf(suite) === protocol;
}

/** Starts sending on a Child SA that was held back (make before break). Nothing happens when it is in use already. */
export function useOutbound(step: Step, child: Child): void {
  if (child.heldUntilMs !== null) sendOn(step, child);
}

/** Also one that was sent on before, and had to stand back. */
function sendOn(step: Step, child: Child): void {
  child.heldUntilMs = null;
  step.emit({ kind: "useOutbound", saId: child.sa.id });
}

/** False for one that is to go again: it is never sent on. */
export function isReleased(child: Child): boolean {
  return !child.closing && child.redundantUntilMs === null;
}

/** True when the tunnel has another Child SA that is sent on. */
export function hasTwin(table: SessionTable, child: Child): boolean {
  return twinsOf(table, child).some(({ twin }) => twin.heldUntilMs === null);
}

/** Other Child SAs of the tunnel, of whichever IKE SA, in the order of these. */
function twinsOf(table: SessionTable, { sa }: Child): { readonly session: IkeSession; readonly twin: Child }[] {
  return table
    .at(localEndOf(sa), sa.peer)
    .flatMap((session) => [...session.state.children.values()].map((twin) => ({ session, twin })))
    .filter(({ twin }) => twin.sa.id !== sa.id && twin.sa.reqid === sa.reqid && isReleased(twin));
}

/**
 * One that was sent on goes: in its place the youngest of its tunnel that was sent on too, for the peer has it, or else the youngest.
 * False when there is none.
 */
function useTwin(step: Step, table: SessionTable, child: Child): boolean {
  const twins = twinsOf(table, child);
  const found = twins.findLast(({ twin }) => twin.heldUntilMs === null) ?? twins.at(-1);
  if (found === undefined) return false;
  table.touch(found.session);
  sendOn(step, found.twin);
  return true;
}

/** True while the SA is the one of its tunnel that stays: nobody replaces or deletes it. */
export function mayRekey(child: Child): boolean {
  return !child.closing && child.replacedBy === null && child.redundantUntilMs === null;
}

/**
 * Ends a Child SA. The one that takes its place, if any, is sent on from now; one that was rekeyed, or has a twin, is received on for
 * a moment longer, unless `afterMs` says otherwise.
 */
export function removeChild(
  step: Step,
  table: SessionTable,
  state: Established,
  child: Child,
  reason: string,
  afterMs: number | null = null,
): void {
  state.children.delete(child.sa.id);
  const successor = successorOf(state, child);
  if (successor !== undefined) {
    successor.redundantUntilMs = null;
    useOutbound(step, successor);
  }
  reinstate(step, state, child, successor);
  const isSucceeded = successor !== undefined || (child.heldUntilMs === null && useTwin(step, table, child));
  const lingers = isSucceeded || child.replacedBy !== null || child.heldUntilMs !== null;
  const linger = lingers ? step.settings.timing.lingerMs : 0;
  step.emit({ kind: "removeChild", saId: child.sa.id, reason, afterMs: afterMs ?? linger });
}

/**
 * The SA that this one had replaced, where the peer has not deleted it yet: it counts again, or belongs to the next heir. It was
 * about to go: it is rekeyed at once when this one was sent on.
 */
function reinstate(step: Step, state: Established, child: Child, successor: Child | undefined): void {
  const old = [...state.children.values()].find(({ replacedBy }) => replacedBy === child.sa.id);
  if (old === undefined) return;
  old.replacedBy = successor?.sa.id ?? null;
  if (successor !== undefined || old.closing) return;
  step.count("childReinstated");
  if (child.heldUntilMs === null) old.life.rekeyAtMs = step.nowMs;
}

/** Its heir; or the other heir of the SA that both replaced, when the peer sees the winner of that collision otherwise. */
function successorOf(state: Established, child: Child): Child | undefined {
  const others = [...state.children.values()].filter(({ closing }) => !closing);
  const heir = others.find(({ sa, redundantUntilMs }) => sa.id === child.replacedBy && redundantUntilMs === null);
  if (heir !== undefined || child.replaces === null || child.redundantUntilMs !== null) return heir;
  return others.find(({ replaces, redundantUntilMs }) => replaces === child.replaces && redundantUntilMs !== null);
}

/** Ends a Child SA of ours that is not yet installed: the report about it will find nobody. What it was to replace stays. */
export function cancelInstall(step: Step, state: Established, pending: PendingInstall): void {
  state.ownPending = null;
  const old = pending.replaces === null ? undefined : state.children.get(pending.replaces);
  if (old !== undefined) postpone(step, old.life);
  step.count("childDeletedByPeer");
  step.emit({ kind: "removeChild", saId: pending.sa.id, reason: "deleted by the peer", afterMs: 0 });
}

/** Ends every Child SA, also the one that is being installed. What else their tunnels have is sent on. */
export function removeAllChildren(step: Step, table: SessionTable, state: Established, reason: string): void {
  const children = [...state.children.values()];
  state.children.clear();
  for (const child of children) {
    const lingers = child.heldUntilMs === null && useTwin(step, table, child);
    const afterMs = lingers ? step.settings.timing.lingerMs : 0;
    step.emit({ kind: "removeChild", saId: child.sa.id, reason, afterMs });
  }
  for (const pending of [state.pending, state.ownPending]) {
    if (pending !== null) step.emit({ kind: "removeChild", saId: pending.sa.id, reason, afterMs: 0 });
  }
  state.pending = null;
  state.ownPending = null;
}

/** Ends the IKE SA with its children; it stays for a while to repeat its last answer. Its keys are gone. */
export function closeSession(step: Step, table: SessionTable, session: IkeSession, reason: string): void {
  endSession(step, table, session, reason);
  session.state = { kind: "closed", expiresAtMs: step.nowMs + step.settings.timing.closedMs };
  const surplus = table.close(session, step.settings.limits.closed);
  if (surplus !== null) table.remove(surplus);
}

/** Ends the IKE SA with its children and forgets it. */
export function dropSession(step: Step, table: SessionTable, session: IkeSession, reason: string): void {
  endSession(step, table, session, reason);
  table.remove(session);
}

function endSession(step: Step, table: SessionTable, session: IkeSession, reason: string): void {
  const { state } = session;
  if (state.kind === "closed") return;
  if (state.kind === "authenticating") step.outcomes.push({ target: state.target, ok: false });
  if (state.kind === "established") {
    step.log("info", "IKE SA ended", { ...session.facts(), reason });
    removeAllChildren(step, table, state, reason);
  }
  session.own.clear();
  session.wipe();
}
