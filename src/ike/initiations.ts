import { toHex } from "../core/bytes.ts";
import { Deadlines } from "../core/deadlines.ts";
import { EsplexError } from "../core/errors.ts";
import { ipFromBytes, ipToBytes, ipVersion } from "../core/ip.ts";
import type { IkePeerConfig } from "./environment.ts";
import type { Path } from "./events.ts";
import { beginInit, readInitAnswer } from "./exchange/begin-init.ts";
import { reasonOf } from "./exchange/failure.ts";
import { wishFor } from "./exchange/first-child.ts";
import type { Initiation, Target } from "./initiation.ts";
import { dropSession } from "./lifecycle.ts";
import { pauseMs } from "./lifetime.ts";
import { isNatted } from "./nat.ts";
import { sendOwn } from "./sending.ts";
import type { EstablishedSession, SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { IKE_PORT } from "./wire/constants.ts";
import type { IkeMessage } from "./wire/message.ts";

/** A peer that we want an IKE SA with. */
interface Wanted {
  readonly target: Target;
  /** `auto`: for ever; else until it is there once, or was tried often enough. A reload may end that. */
  isStanding: boolean;
  /** Traffic wants it: a failure is followed by the next attempt when traffic wants it again, and the pause is over. */
  readonly isDemanded: boolean;
  /** Of a demanded one: no attempt before this. */
  restUntilMs: number;
  failures: number;
}

/**
 * The peers that we reach out to: attempts with back-off and jitter, few at a time, so that a start or a takeover with many
 * peers is no storm. Standing ones are looked after: a peer that is lost is tried again.
 */
export class Initiations {
  readonly #wanted = new Map<string, Wanted>();
  /** When the next attempt begins: of none that runs, and of no peer that is there. */
  readonly #due = new Deadlines<Wanted>();
  readonly #running = new Set<Wanted>();
  /** By our SPI in hex: what waits for an answer to IKE_SA_INIT. */
  readonly #onWire = new Map<string, Initiation>();
  #checkAtMs: number | null = null;

  /** Wants a peer: now, or (standing) some time within the spread of a start. */
  want(step: Step, target: Target, isStanding: boolean): void {
    const key = keyOf(target);
    const known = this.#wanted.get(key);
    if (known !== undefined) {
      if (this.#running.has(known)) return;
      this.#drop(known);
    }
    const { startSpreadMs } = step.settings.timing;
    const wish = { target, isStanding: isStanding || known?.isStanding === true, isDemanded: false };
    this.#add(
      { ...wish, restUntilMs: 0, failures: 0 },
      isStanding ? step.nowMs + startSpreadMs * step.random() : step.nowMs,
    );
  }

  /** Wants a peer because of traffic; that says so again and again, until there is an SA. */
  demand(step: Step, table: SessionTable, target: Target): void {
    const key = keyOf(target);
    const known = this.#wanted.get(key);
    const isUnderWay = known !== undefined && (this.#running.has(known) || this.#due.has(known));
    if (isUnderWay || sessionsWith(table, target).some(hasChild)) {
      step.count("demandRepeated");
      return;
    }
    if (known !== undefined && (known.isStanding || step.nowMs < known.restUntilMs)) {
      step.count("demandTooSoon");
      return;
    }
    const failures = known?.failures ?? 0;
    this.#add({ target, isStanding: false, isDemanded: true, restUntilMs: 0, failures }, step.nowMs);
    step.count("demanded");
  }

  #add(wanted: Wanted, dueAtMs: number): void {
    this.#wanted.set(keyOf(wanted.target), wanted);
    this.#due.set(wanted, dueAtMs);
  }

  #drop(wanted: Wanted): void {
    this.#wanted.delete(keyOf(wanted.target));
    this.#due.delete(wanted);
    this.#running.delete(wanted);
  }

  /** Wants every peer of the cluster file that says `auto`, and none that says so no more; an attempt that runs goes on, SAs stay. */
  wantAll(step: Step): void {
    for (const wanted of [...this.#wanted.values()]) {
      const { target, isStanding, isDemanded } = wanted;
      const start = step.environment.peers().find(({ name }) => name === target.peerName)?.initiate.start;
      const isOver = (isStanding && start !== "auto") || (isDemanded && start !== "onDemand");
      if (isOver && this.#running.has(wanted)) wanted.isStanding = false;
      else if (isOver) this.#drop(wanted);
    }
    for (const peer of step.environment.peers()) {
      const target = peer.initiate.start === "auto" ? targetOf(step, peer, null) : null;
      if (target !== null) this.want(step, target, true);
    }
  }

  /** Gives up this peer, or (null) all: an operator ended them. */
  forget(peerName: string | null): void {
    const isMeant = ({ target }: { readonly target: Target }): boolean =>
      peerName === null || target.peerName === peerName;
    for (const wanted of [...this.#wanted.values()].filter(isMeant)) this.#drop(wanted);
    if (this.#wanted.size === 0) this.#checkAtMs = null;
    for (const [key, initiation] of this.#onWire) if (isMeant(initiation)) this.#onWire.delete(key);
  }

  /** Does everything whose time has come. */
  run(step: Step, table: SessionTable): void {
    for (const [key, initiation] of [...this.#onWire]) this.#repeat(step, key, initiation);
    this.#check(step, table);
    while (this.#running.size < step.settings.limits.initiating && (this.#due.firstMs ?? Infinity) <= step.nowMs) {
      const wanted = this.#due.first;
      if (wanted === undefined) return;
      this.#due.delete(wanted);
      this.#start(step, table, wanted);
    }
  }

  /** Notes what became of attempts. */
  settle(step: Step): void {
    for (const { target, ok } of step.outcomes.splice(0)) {
      const wanted = this.#wanted.get(keyOf(target));
      if (wanted === undefined) continue;
      this.#running.delete(wanted);
      if (ok) {
        wanted.failures = 0;
        this.#due.delete(wanted);
        if (!wanted.isStanding) this.#drop(wanted);
        continue;
      }
      step.count("initiateFailed");
      wanted.failures += 1;
      if (wanted.isDemanded) {
        wanted.restUntilMs = step.nowMs + pauseMs(step, wanted.failures);
        continue;
      }
      this.#due.set(wanted, step.nowMs + pauseMs(step, wanted.failures));
      if (wanted.isStanding || wanted.failures < step.settings.limits.initiateTries) continue;
      step.log("warn", "the peer is given up", { peer: target.peerName, dvipa: target.dvipa });
      this.#drop(wanted);
    }
  }

  /** Takes an answer to IKE_SA_INIT. Throws `wire.*` and `peer.*`: it may be anybody's, so it changes nothing then. */
  takeAnswer(step: Step, table: SessionTable, path: Path, message: IkeMessage, bytes: Uint8Array): void {
    const { header } = message;
    const key = toHex(header.spiI);
    const initiation = this.#onWire.get(key);
    const isOurs =
      initiation?.path.remote.address === path.remote.address && initiation.path.local.address === path.local.address;
    if (!isOurs || header.messageId !== 0) {
      step.count("unexpectedInit");
      return;
    }
    const isFirst = table.ofPeer(initiation.peer.name).length === 0;
    const answer = readInitAnswer(step, initiation, isFirst, message, bytes);
    switch (answer.kind) {
      case "useless": {
        step.count("initUseless");
        step.log("info", "an answer to IKE_SA_INIT is of no use", { ...factsOf(initiation), reason: answer.reason });
        return;
      }
      case "again": {
        this.#onWire.set(key, answer.initiation);
        step.emit({ kind: "send", ...answer.initiation.path, bytes: answer.initiation.request });
        return;
      }
      case "session": {
        this.#onWire.delete(key);
        table.add(answer.session);
        answer.session.own.enqueue({ kind: "auth" });
        sendOwn(step, answer.session);
        if (answer.session.own.idle) dropSession(step, table, answer.session, "we cannot prove ourselves");
        return;
      }
    }
  }

  /** When the next thing is due; null for nothing. */
  nextWakeMs(limit: number): number | null {
    const times = [
      this.#checkAtMs,
      ...[...this.#onWire.values()].map(({ nextAtMs }) => nextAtMs),
      this.#running.size < limit ? this.#due.firstMs : null,
    ].filter((atMs) => atMs !== null);
    return times.length === 0 ? null : times.reduce((a, b) => Math.min(a, b));
  }

  #repeat(step: Step, key: string, initiation: Initiation): void {
    const { retransmitMs, attempts } = step.settings.timing;
    if (step.nowMs < initiation.nextAtMs) return;
    if (initiation.sent >= attempts) {
      this.#onWire.delete(key);
      step.log("warn", "the peer does not answer IKE_SA_INIT", factsOf(initiation));
      step.outcomes.push({ target: initiation.target, ok: false });
      return;
    }
    initiation.nextAtMs = step.nowMs + retransmitMs * 2 ** initiation.sent;
    initiation.sent += 1;
    step.count("requestRetransmitted");
    step.emit({ kind: "send", ...initiation.path, bytes: initiation.request });
  }

  /** Now and then: standing peers that are not there (any more) become due. */
  #check(step: Step, table: SessionTable): void {
    if (this.#checkAtMs !== null && step.nowMs < this.#checkAtMs) return;
    const standing = [...this.#wanted.values()].filter(({ isStanding }) => isStanding);
    if (standing.length === 0) {
      this.#checkAtMs = null;
      return;
    }
    this.#checkAtMs = step.nowMs + step.settings.timing.standingCheckMs;
    for (const wanted of standing) {
      if (this.#running.has(wanted) || this.#due.has(wanted)) continue;
      if (sessionsWith(table, wanted.target).some(hasChild)) continue;
      this.#due.set(wanted, step.nowMs + step.settings.timing.startSpreadMs * step.random());
    }
  }

  #start(step: Step, table: SessionTable, wanted: Wanted): void {
    const { target } = wanted;
    const peer = step.environment.peers().find(({ name }) => name === target.peerName);
    if (peer === undefined || peer.address === "any") {
      step.log("warn", "a peer without an address cannot be reached", { peer: target.peerName });
      this.#drop(wanted);
      return;
    }
    const [session] = sessionsWith(table, target);
    if (session !== undefined) {
      table.touch(session);
      this.#useSession(step, wanted, session);
      return;
    }
    const path: Path = {
      local: { address: target.dvipa, port: IKE_PORT },
      remote: { address: ipFromBytes(ipToBytes(peer.address)), port: IKE_PORT },
    };
    this.#running.add(wanted);
    step.count("initiated");
    try {
      const initiation = beginInit(step, target, peer, path);
      this.#onWire.set(toHex(initiation.spiI), initiation);
      step.emit({ kind: "send", ...path, bytes: initiation.request });
    } catch (error) {
      if (!(error instanceof EsplexError)) throw error;
      step.count(reasonOf(error));
      step.outcomes.push({ target, ok: false });
    }
  }

  /** The IKE SA is there: a Child SA is all that may be missing. */
  #useSession(step: Step, wanted: Wanted, session: EstablishedSession): void {
    // Should the peer refuse the Child SA, traffic does not ask it again at once.
    if (wanted.isDemanded) wanted.restUntilMs = step.nowMs + pauseMs(step, 1);
    else if (!wanted.isStanding) this.#drop(wanted);
    const isAsked = session.own.has(({ kind }) => kind === "createChild");
    if (hasChild(session) || isAsked) return;
    const wish = wishFor(session.state.peer, session.path, isNatted(session.nat));
    session.own.enqueue({ kind: "createChild", wish, group: null });
    sendOwn(step, session);
  }
}

/** Whom a command means: the peer's own choice of DVIPA, or the first of the right IP version. Null when there is none. */
export function targetOf(step: Step, peer: IkePeerConfig, dvipa: string | null): Target | null {
  if (peer.address === "any") return null;
  const version = ipVersion(peer.address);
  const ours = step.environment.dvipas().map((address) => ipFromBytes(ipToBytes(address)));
  const wanted = dvipa ?? peer.initiate.dvipa;
  const found = ours.find((own) => ipVersion(own) === version && (wanted === null || own === wanted));
  return found === undefined ? null : { peerName: peer.name, dvipa: found };
}

function hasChild({ state }: EstablishedSession): boolean {
  return state.children.size > 0 || state.pending !== null || state.ownPending !== null;
}

function keyOf({ peerName, dvipa }: Target): string {
  return `${dvipa} ${peerName}`;
}

function sessionsWith(table: SessionTable, { peerName, dvipa }: Target): EstablishedSession[] {
  return table.ofPeer(peerName).filter(({ path }) => path.local.address === dvipa);
}

function factsOf({ target, path }: Initiation): Readonly<Record<string, unknown>> {
  return { peer: target.peerName, local: path.local.address, remote: path.remote.address };
}
