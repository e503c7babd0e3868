import { EsplexError, isError, unreachable } from "../core/errors.ts";
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { RateLimit } from "../core/rate-limit.ts";
import { reportUse, runCommand } from "./commands.ts";
import type { IkeEnvironment } from "./environment.ts";
import { answerInit, initKey, statelessAnswer } from "./exchange/init.ts";
import { failureNotify, reasonOf } from "./exchange/failure.ts";
import type { Endpoint, IkeEffect, IkeEvent, IkeSaSummary, Path } from "./events.ts";
import { Initiations } from "./initiations.ts";
import { onDemand, type OnDemand } from "./on-demand.ts";
import { InitGate } from "./init-gate.ts";
import { releaseHeard, reportInstall } from "./installation.ts";
import { dvipaAt } from "./local-end.ts";
import { hintUnknownEsp } from "./hints.ts";
import { receive, receiveEarly } from "./receiving.ts";
import { SessionTable } from "./session-table.ts";
import { DEFAULT_IKE_SETTINGS, type IkeSettings } from "./settings.ts";
import { Step } from "./step.ts";
import { runTimers, scanDeadlines, schedule } from "./timers.ts";
import { EXCHANGE, IKE_HEADER_BYTES, IKE_MAJOR_VERSION, NOTIFY } from "./wire/constants.ts";
import { decodeHeader, type IkeHeader } from "./wire/header.ts";
import { WIRE_LIMITS } from "./wire/limits.ts";
import { decodeMessage, encodeMessage, type IkeMessage } from "./wire/message.ts";
import { notify } from "./wire/notify.ts";

type Datagram = IkeEvent & { kind: "datagram" };

/** Status of the core: no keys. */
export interface IkeSnapshot {
  /** Peers that have not authenticated. */
  readonly unproven: number;
  readonly ikeSas: readonly IkeSaSummary[];
  /** When the core has something to do next, looked up anew: what it said last with `wakeAt`. */
  readonly wakeAtMs: number | null;
}

/**
 * IKEv2 of all DVIPAs of a node, as responder and as initiator (RFC 7296): events in, effects out; no socket, clock or kernel. The
 * runner performs the effects in order and reports installations back.
 */
export class IkeCore {
  readonly #environment: IkeEnvironment;
  readonly #settings: IkeSettings;
  readonly #table = new SessionTable();
  readonly #initiations = new Initiations();
  readonly #gate: InitGate;
  /** What the runner was told last; undefined when its timer has fired. */
  #wakeAtMs: number | null | undefined = null;
  /** Error answers outside of an IKE SA that this second still allows. */
  readonly #errorReplies: RateLimit;

  constructor(environment: IkeEnvironment, settings: IkeSettings = DEFAULT_IKE_SETTINGS) {
    this.#environment = environment;
    this.#settings = settings;
    this.#errorReplies = new RateLimit(settings.limits.errorRepliesPerSecond);
    this.#gate = new InitGate((lengthBytes) => environment.randomBytes(lengthBytes), settings);
  }

  /** Handles one event. No input from the network makes it throw. */
  step(event: IkeEvent): IkeEffect[] {
    const step = new Step(event.nowMs, this.#environment, this.#settings);
    this.#handle(step, event);
    receiveEarly(step, this.#table);
    this.#initiations.run(step, this.#table);
    this.#initiations.settle(step);
    for (const effect of step.effects) {
      if (effect.kind === "installChild") this.#table.installs(effect.sa);
      else if (effect.kind === "removeChild") this.#table.removes(effect.saId);
    }
    schedule(this.#table, this.#settings.timing);
    const wakeAtMs = this.#earlierWish(this.#table.deadlines.firstMs);
    if (wakeAtMs !== this.#wakeAtMs) step.emit({ kind: "wakeAt", atMs: wakeAtMs });
    this.#wakeAtMs = wakeAtMs;
    return step.effects;
  }

  snapshot(): IkeSnapshot {
    return {
      unproven: this.#table.unproven,
      ikeSas: [...this.#table.all].map((session) => session.summary()),
      wakeAtMs: this.#earlierWish(scanDeadlines(this.#table, this.#settings.timing)),
    };
  }

  /** Traffic that is to make us reach out (`initiate.start: onDemand`), as the cluster file has it now. */
  onDemand(): OnDemand[] {
    return onDemand(this.#environment);
  }

  /** Of an IKE SA at this time, or of an attempt to reach a peer. */
  #earlierWish(ofSessionsMs: number | null): number | null {
    const ofInitiationsMs = this.#initiations.nextWakeMs(this.#settings.limits.initiating);
    if (ofSessionsMs === null || ofInitiationsMs === null) return ofSessionsMs ?? ofInitiationsMs;
    return Math.min(ofSessionsMs, ofInitiationsMs);
  }

  #handle(step: Step, event: IkeEvent): void {
    switch (event.kind) {
      case "datagram": {
        this.#datagram(step, event);
        return;
      }
      case "timer":
        this.#wakeAtMs = undefined;
        {
          runTimers(step, this.#table);
          return;
        }
      case "childInstalled": {
        reportInstall(step, this.#table, event.saId, { kind: "installed" });
        return;
      }
      case "childInstallFailed": {
        reportInstall(step, this.#table, event.saId, { kind: "failed", reason: event.reason });
        return;
      }
      case "unknownEsp": {
        hintUnknownEsp(step, this.#table, event);
        return;
      }
      case "childHeard": {
        releaseHeard(step, this.#table, event.saId);
        return;
      }
      case "childUsed": {
        reportUse(step, this.#table, event.saId, event);
        return;
      }
      case "command": {
        runCommand(step, this.#table, this.#initiations, event.command);
        return;
      }
      default:
        return unreachable(event);
    }
  }

  #datagram(step: Step, event: Datagram): void {
    const { bytes } = event;
    if (bytes.length > WIRE_LIMITS.messageBytes) {
      step.count("oversized");
      return;
    }
    if (bytes.length < IKE_HEADER_BYTES) {
      step.count("malformed");
      return;
    }
    const path = { local: canonical(event.local), remote: canonical(event.remote) };
    if (dvipaAt(step.environment, path.local.address) === null) {
      step.count("notForDvipa");
      return;
    }
    const message = this.#decode(step, path, bytes);
    if (message === null) return;
    const { header } = message;
    if (header.exchange === EXCHANGE.IKE_SA_INIT) {
      this.#init(step, path, bytes, message);
      return;
    }
    const session = this.#table.bySpi(header.fromInitiator ? header.spiR : header.spiI);
    if (session === undefined) {
      step.count("unknownSpi");
      if (isOfLostSession(message)) this.#refuseUnprotected(step, path, header, NOTIFY.INVALID_IKE_SPI);
      return;
    }
    receive(step, this.#table, session, { path, bytes, message });
  }

  /** Null when it cannot be read, or is not to be: counted, and answered where RFC 7296 wants that (§1.5, §2.5, §2.6). */
  #decode(step: Step, path: Path, bytes: Uint8Array): IkeMessage | null {
    let header: IkeHeader | null = null;
    try {
      header = decodeHeader(bytes);
      if (header.majorVersion !== IKE_MAJOR_VERSION) {
        step.count("wrongVersion");
        const isNewer = header.majorVersion > IKE_MAJOR_VERSION && !header.isResponse;
        if (isNewer) this.#refuseUnprotected(step, path, header, NOTIFY.INVALID_MAJOR_VERSION);
        return null;
      }
      if (isInitRequest(header) && !this.#gate.passes(step, this.#table, path, header, bytes)) return null;
      return decodeMessage(bytes);
    } catch (error) {
      if (!(error instanceof EsplexError)) throw error;
      step.count(reasonOf(error));
      if (header !== null && isInitRequest(header)) this.#refuseInit(step, path, header.spiI, error);
      return null;
    }
  }

  #init(step: Step, path: Path, bytes: Uint8Array, message: IkeMessage): void {
    const { header } = message;
    if (header.isResponse && !header.fromInitiator) {
      this.#initAnswer(step, path, bytes, message);
      return;
    }
    if (!isInitRequest(header)) {
      step.count("unexpectedInit");
      return;
    }
    const key = initKey(path, bytes);
    const known = this.#table.byInit(key);
    if (known !== undefined) {
      step.count("initRepeated");
      if (known.state.kind === "halfOpen") step.emit({ kind: "send", ...path, bytes: known.state.init.response });
      return;
    }
    try {
      const response = answerInit(step, this.#table, { path, bytes, message, key });
      if (response !== null) step.emit({ kind: "send", ...path, bytes: response });
    } catch (error) {
      if (!(error instanceof EsplexError)) throw error;
      step.count(reasonOf(error));
      step.log("debug", "IKE_SA_INIT refused", { remote: path.remote.address, reason: error.message });
      this.#refuseInit(step, path, header.spiI, error);
    }
  }

  #initAnswer(step: Step, path: Path, bytes: Uint8Array, message: IkeMessage): void {
    try {
      this.#initiations.takeAnswer(step, this.#table, path, message, bytes);
    } catch (error) {
      if (!(error instanceof EsplexError)) throw error;
      step.count(reasonOf(error));
      step.log("info", "an answer to IKE_SA_INIT is of no use", { remote: path.remote.address, reason: error.message });
    }
  }

  /** Only what is worth telling without encryption: INVALID_SYNTAX never is (RFC 7296 §3.10.1). */
  #refuseInit(step: Step, path: Path, spiI: Uint8Array, error: EsplexError): void {
    if (!isError(error, "peer.noProposalChosen") && !isError(error, "peer.unsupportedCriticalPayload")) return;
    const told = failureNotify(error);
    if (told !== null && this.#maySendError(step)) {
      step.emit({ kind: "send", ...path, bytes: statelessAnswer(spiI, [told]) });
    }
  }

  /** Answers a request without an IKE SA (RFC 7296 §1.5): its SPIs and message ID come back, nothing is kept. */
  #refuseUnprotected(step: Step, path: Path, header: IkeHeader, type: number): void {
    if (!this.#maySendError(step)) return;
    const { spiI, spiR, exchange, messageId } = header;
    const fields = { spiI, spiR, exchange, messageId, fromInitiator: !header.fromInitiator, isResponse: true };
    step.emit({ kind: "send", ...path, bytes: encodeMessage(fields, [notify(type)]) });
  }

  #maySendError(step: Step): boolean {
    if (this.#errorReplies.take(step.nowMs)) return true;
    step.count("errorReplyLimit");
    return false;
  }
}

function isInitRequest(header: IkeHeader): boolean {
  const fresh = header.spiR.every((byte) => byte === 0) && header.spiI.some((byte) => byte !== 0);
  return (
    header.exchange === EXCHANGE.IKE_SA_INIT &&
    fresh &&
    header.fromInitiator &&
    !header.isResponse &&
    header.messageId === 0
  );
}

/** An encrypted request as only a peer sends that has an IKE SA with us, and we none: from before a restart (RFC 7296 §1.5). */
function isOfLostSession({ header, payloads }: IkeMessage): boolean {
  const isForSession = header.exchange === EXCHANGE.CREATE_CHILD_SA || header.exchange === EXCHANGE.INFORMATIONAL;
  return isForSession && !header.isResponse && payloads.at(-1)?.kind === "encrypted";
}

function canonical(endpoint: Endpoint): Endpoint {
  return { address: canonicalAddress(endpoint.address), port: endpoint.port };
}

function canonicalAddress(address: string): string {
  return ipFromBytes(ipToBytes(address));
}
