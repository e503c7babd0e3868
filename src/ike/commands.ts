import { unreachable } from "../core/errors.ts";
import type { IkeCommand } from "./events.ts";
import { dropSession, removeAllChildren } from "./lifecycle.ts";
import { sendOwn } from "./sending.ts";
import type { IkeSession } from "./session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";

/** Does what it was ordered; an SA that is not there (any more) is counted. */
export function runCommand(step: Step, table: SessionTable, command: IkeCommand): void {
  switch (command.kind) {
    case "deleteChild": {
      deleteChild(step, table, command.saId);
      return;
    }
    case "deleteIke": {
      deleteWhere(step, table, ({ id }) => id === command.ikeSaId);
      return;
    }
    case "deletePeer": {
      deleteWhere(step, table, ({ state }) => state.kind === "established" && state.peer.name === command.peerName);
      return;
    }
    case "deleteAll": {
      deleteWhere(step, table, () => true);
      return;
    }
    default:
      return unreachable(command);
  }
}

/** Sends DELETE; the SA goes when the peer has answered (RFC 7296 §1.4.1). */
function deleteChild(step: Step, table: SessionTable, saId: string): void {
  for (const session of table.established()) {
    const child = session.state.children.get(saId);
    if (child === undefined) continue;
    if (child.closing) return;
    child.closing = true;
    session.own.enqueue({ kind: "deleteChild", saId });
    sendOwn(step, session);
    return;
  }
  step.count("commandForUnknownSa");
}

function deleteWhere(step: Step, table: SessionTable, wanted: (session: IkeSession) => boolean): void {
  const found = [...table.all].filter(wanted);
  if (found.length === 0) step.count("commandForUnknownSa");
  for (const session of found) {
    if (isEstablished(session)) deleteIke(step, session);
    else if (session.state.kind !== "deleting") dropSession(step, table, session, "deleted by order");
  }
}

/** The children go at once, the IKE SA when the peer has answered or is given up. */
function deleteIke(step: Step, session: EstablishedSession): void {
  const { peer } = session.state;
  removeAllChildren(step, session.state, "deleted by order");
  step.log("info", "IKE SA deleted by order", session.facts());
  const closing: IkeSession = session;
  closing.state = { kind: "deleting", peerName: peer.name };
  closing.own.enqueue({ kind: "deleteIke" });
  sendOwn(step, closing);
}
