import type { Child, Established, IkeSession } from "./session.ts";
import type { SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";

/** The Child SA, or undefined, that we receive nothing on and send to this SPI. */
export function childByOutboundSpi(state: Established, spi: number): Child | undefined {
  return [...state.children.values()].find((child) => child.sa.outbound.spi === spi);
}

/** Starts sending on a Child SA that was held back (make before break). Nothing happens when it is in use already. */
export function useOutbound(step: Step, child: Child): void {
  if (child.held === null) return;
  child.held = null;
  step.emit({ kind: "useOutbound", saId: child.sa.id });
}

/** Ends a Child SA. The one that replaces it, if any, is sent on from now. */
export function removeChild(step: Step, state: Established, child: Child, reason: string): void {
  const successor = child.replacedBy === null ? undefined : state.children.get(child.replacedBy);
  if (successor !== undefined) useOutbound(step, successor);
  state.children.delete(child.sa.id);
  step.emit({ kind: "removeChild", saId: child.sa.id, reason });
}

/** Ends every Child SA, also the one that is being installed. */
export function removeAllChildren(step: Step, state: Established, reason: string): void {
  for (const child of state.children.values()) step.emit({ kind: "removeChild", saId: child.sa.id, reason });
  state.children.clear();
  if (state.pending === null) return;
  step.emit({ kind: "removeChild", saId: state.pending.sa.id, reason });
  state.pending = null;
}

/** Ends the IKE SA with its children; it stays for a while to repeat its last answer. Its keys are gone. */
export function closeSession(step: Step, table: SessionTable, session: IkeSession, reason: string): void {
  endSession(step, session, reason);
  session.state = { kind: "closed", expiresAtMs: step.nowMs + step.settings.timing.closedMs };
  const surplus = table.close(session, step.settings.limits.closed);
  if (surplus !== null) table.remove(surplus);
}

/** Ends the IKE SA with its children and forgets it. */
export function dropSession(step: Step, table: SessionTable, session: IkeSession, reason: string): void {
  endSession(step, session, reason);
  table.remove(session);
}

function endSession(step: Step, session: IkeSession, reason: string): void {
  const { state } = session;
  if (state.kind === "closed") return;
  if (state.kind === "established") {
    step.log("info", "IKE SA ended", { ...session.facts(), reason });
    removeAllChildren(step, state, reason);
  }
  session.own.clear();
  session.wipe();
}
