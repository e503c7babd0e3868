import { unreachable } from "../core/errors.ts";
import type { IkeCommand } from "./events.ts";
import { beginDeleteChild, beginDeleteIke, expireChild } from "./closing.ts";
import { targetOf, type Initiations } from "./initiations.ts";
import { includes, onDemand } from "./on-demand.ts";
import { dropSession, mayRekey } from "./lifecycle.ts";
import { reaches, type Usage } from "./lifetime.ts";
import { sendOwn } from "./sending.ts";
import type { Child, IkeSession } from "./session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { runChild, runIkeLife } from "./timers.ts";

/** Does what it was ordered; an SA that is not there (any more) is counted. */
export function runCommand(step: Step, table: SessionTable, initiations: Initiations, command: IkeCommand): void {
  switch (command.kind) {
    case "initiate": {
      const peer = step.environment.peers().find(({ name }) => name === command.peerName);
      const target = peer === undefined ? null : targetOf(step, peer, command.dvipa);
      if (target === null) step.count("commandForUnknownPeer");
      else initiations.want(step, target, false);
      return;
    }
    case "demand": {
      const found = onDemand(step.environment).find(
        ({ dvipa, remote }) => dvipa === command.dvipa && remote.some((one) => includes(one, command.destination)),
      );
      if (found === undefined) step.count("demandRefused");
      else initiations.demand(step, table, { peerName: found.peerName, dvipa: found.dvipa });
      return;
    }
    case "initiateAll": {
      initiations.wantAll(step);
      return;
    }
    case "rekeyChild": {
      withChild(step, table, command.saId, (session, child) => rekeyNow(step, table, session, child));
      return;
    }
    case "rekeyIke": {
      withIke(step, table, command.ikeSaId, (session) => {
        session.state.life.rekeyAtMs = step.nowMs;
        runIkeLife(step, table, session);
      });
      return;
    }
    case "synchroniseIke": {
      withIke(step, table, command.ikeSaId, (session) => {
        if (!session.state.messageIdSync) step.count("syncNotSupported");
        else if (!session.own.has(({ kind }) => kind === "synchronise")) session.own.enqueue({ kind: "synchronise" });
        sendOwn(step, session);
      });
      return;
    }
    case "deleteChild": {
      withChild(step, table, command.saId, (session, child) => beginDeleteChild(step, session, child));
      return;
    }
    case "deleteIke": {
      deleteWhere(step, table, ({ id }) => id === command.ikeSaId);
      return;
    }
    case "deletePeer": {
      initiations.forget(command.peerName);
      deleteWhere(step, table, ({ state }) => state.kind === "established" && state.peer.name === command.peerName);
      return;
    }
    case "deleteAll": {
      initiations.forget(null);
      deleteWhere(step, table, () => true);
      return;
    }
    default:
      return unreachable(command);
  }
}

/** Calls `act` for the established IKE SA of this ID, or counts that there is none. */
function withIke(step: Step, table: SessionTable, ikeSaId: string, act: (session: EstablishedSession) => void): void {
  const found = [...table.all].find(({ id }) => id === ikeSaId);
  if (found === undefined || !isEstablished(found)) {
    step.count("commandForUnknownSa");
    return;
  }
  table.touch(found);
  act(found);
}

/** Calls `act` for the Child SA of this ID, or counts that there is none. */
function withChild(
  step: Step,
  table: SessionTable,
  saId: string,
  act: (session: EstablishedSession, child: Child) => void,
): void {
  for (const session of table.aroundSa(saId)) {
    const child = session.state.children.get(saId);
    if (child === undefined) continue;
    act(session, child);
    return;
  }
  step.count("commandForUnknownSa");
}

/** As if its time had come; nothing happens to one that is replaced or deleted already. */
function rekeyNow(step: Step, table: SessionTable, session: EstablishedSession, child: Child): void {
  if (!mayRekey(child)) return;
  child.life.rekeyAtMs = step.nowMs;
  runChild(step, table, session, child);
}

/** What all nodes have used of an SA: rekeys it at its soft limit, ends it at the hard one. */
export function reportUse(step: Step, table: SessionTable, saId: string, used: Usage): void {
  withChild(step, table, saId, (session, child) => {
    const { life } = child;
    child.used = { bytes: used.bytes, packets: used.packets };
    if (reaches(used, life.hard)) expireChild(step, table, session, child, "it has carried all that it may");
    else if (reaches(used, life.soft) && life.failures === 0) rekeyNow(step, table, session, child);
  });
}

function deleteWhere(step: Step, table: SessionTable, wanted: (session: IkeSession) => boolean): void {
  const found = [...table.all].filter(wanted);
  if (found.length === 0) step.count("commandForUnknownSa");
  for (const session of found) {
    table.touch(session);
    if (isEstablished(session)) beginDeleteIke(step, table, session, "deleted by order");
    else if (session.state.kind !== "deleting") dropSession(step, table, session, "deleted by order");
  }
}
