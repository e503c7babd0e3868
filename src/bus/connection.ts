import type { Duplex } from "node:stream";
import type { Clock, Timer } from "../core/clock.ts";
import type { Counters } from "../core/counters.ts";
import { EsplexError, messageOf } from "../core/errors.ts";
import type { Log } from "../core/log.ts";
import { type Envelope, EnvelopeReader, EnvelopeWriter } from "./envelope.ts";
import { FrameDecoder } from "./frames.ts";
import { type Identity, identityName } from "./identity.ts";
import { Inbox } from "./inbox.ts";
import { type BusLimits, DEFAULT_LIMITS } from "./limits.ts";
import {
  type NoticeBody,
  type NoticeType,
  type RequestBody,
  type RequestType,
  type ResponseBody,
  decodeNotice,
  decodeRequest,
  decodeResponse,
  encodeNotice,
  encodeRequest,
  encodeResponse,
  isNoticeType,
  isRequestType,
} from "./messages.ts";
import { Outgoing } from "./outgoing.ts";
import { type Pending, PendingRequests } from "./pending.ts";
import { BatchReader, type GrantBody, type Identified, type ReserveBody, isBatch } from "./reserve-batch.ts";
import { Reservation, type ReservationEnds } from "./reservation.ts";

/** How often time limits are looked at, in milliseconds. */
const CHECK_MS = 100;

/** What this side does with messages of this connection. A type without a handler is refused, and the connection closed. */
export interface BusHandlers {
  readonly requests?: { [T in RequestType]?: (body: RequestBody<T>) => ResponseBody<T> | Promise<ResponseBody<T>> };
  readonly notices?: { [T in NoticeType]?: (body: NoticeBody<T>) => void };
}

export interface ConnectionOptions {
  /** Our own name in the sender field. */
  readonly self: string;
  /** Whom the certificate names on the other side. */
  readonly peer: Identity;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
  readonly limits?: Partial<BusLimits>;
  /** IP address of the other side; empty where there is none. */
  readonly remoteAddress?: string;
}

/**
 * One authenticated connection of the bus, either end. Frames that are written in one turn of the event loop leave in one
 * TLS write, and reservations among them share frames. Messages are handled in order: the handler of one finishes before the
 * next one starts, except for the types in `CONCURRENT_REQUESTS`, which start in order and finish when they can.
 */
export class BusConnection {
  readonly peer: Identity;
  /** IP address of the other side on the trusted link. */
  readonly remoteAddress: string;
  /** Settles when the connection has ended, with the reason. */
  readonly closed: Promise<string>;
  readonly #socket: Duplex;
  readonly #clock: Clock;
  readonly #counters: Counters;
  readonly #log: Log;
  readonly #limits: BusLimits;
  readonly #decoder: FrameDecoder;
  readonly #reader: EnvelopeReader;
  readonly #batches: BatchReader;
  readonly #writer: EnvelopeWriter;
  readonly #inbox: Inbox;
  readonly #outgoing: Outgoing;
  readonly #pending = new PendingRequests();
  readonly #reservationEnds: ReservationEnds;
  #handlers: BusHandlers = {};
  #willFlush = false;
  #lastHeardMs: number;
  #lastBeatMs: number;
  #beat: Timer | null = null;
  #isOpen = true;
  #settleClosed: (reason: string) => void = () => {};

  constructor(socket: Duplex, options: ConnectionOptions) {
    this.peer = options.peer;
    this.remoteAddress = options.remoteAddress ?? "";
    this.#socket = socket;
    this.#clock = options.clock;
    this.#counters = options.counters;
    this.#log = options.log;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#decoder = new FrameDecoder(this.#limits.maxFrameBytes);
    this.#reader = new EnvelopeReader(identityName(options.peer));
    this.#batches = new BatchReader(this.#reader);
    this.#writer = new EnvelopeWriter(options.self);
    this.#outgoing = new Outgoing(options.self, this.#writer, this.#limits.maxFrameBytes);
    this.#reservationEnds = {
      granted: (id, body) => this.#granted(id, body),
      refused: (id, error) => this.#failed("reserve", id, error),
    };
    this.#inbox = new Inbox(this.#limits.maxInbox, {
      pause: () => void socket.pause(),
      resume: () => this.#resumed(),
    });
    this.#lastHeardMs = this.#clock.nowMs();
    this.#lastBeatMs = this.#lastHeardMs;
    this.closed = new Promise((resolve) => (this.#settleClosed = resolve));
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Starts reading. Called once, in the same turn of the event loop as the constructor. */
  start(handlers: BusHandlers): void {
    this.#handlers = handlers;
    this.#socket.on("data", (chunk: Buffer) => this.#received(chunk));
    this.#socket.on("error", (error: Error) => this.close(`socket: ${messageOf(error)}`));
    this.#socket.on("close", () => this.close("the other side closed it"));
    this.#socket.on("end", () => this.close("the other side closed it"));
    this.#scheduleBeat();
  }

  /**
   * Sends a request and waits for its answer. Rejects with the other side's error (`cluster.*`, `store.failed`), `bus.timeout`,
   * or `bus.closed`; after the last two nobody knows whether the other side acted on it.
   */
  request<T extends RequestType>(type: T, body: RequestBody<T>, timeoutMs?: number): Promise<ResponseBody<T>> {
    return new Promise((resolve, reject) => {
      if (!this.#isOpen) {
        reject(new EsplexError("bus.closed", `${type}: the connection is closed`));
        return;
      }
      if (this.#pending.size >= this.#limits.maxPending) {
        this.#counters.add("bus.tooManyPending");
        reject(new EsplexError("bus.timeout", `${type}: too many requests wait for an answer`));
        return;
      }
      const id = this.#pending.nextId;
      if (type === "reserve") this.#outgoing.request(id, body as ReserveBody);
      else this.#outgoing.text(this.#writer.request(id, type, encodeRequest(type, body)));
      const deadlineMs = this.#clock.nowMs() + (timeoutMs ?? this.#limits.requestMs);
      this.#pending.add({ id, type, deadlineMs, resolve: resolve as (body: unknown) => void, reject });
      this.#queued();
    });
  }

  /** Sends a message that has no answer. On a closed connection it is lost, as it would be on the wire. */
  notify<T extends NoticeType>(type: T, body: NoticeBody<T>): void {
    if (!this.#isOpen) return;
    this.#outgoing.text(this.#writer.notice(type, encodeNotice(type, body)));
    this.#queued();
  }

  /** Ends the connection at once. Harmless when it has ended. */
  close(reason: string): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#beat?.cancel();
    this.#inbox.close();
    this.#socket.destroy();
    this.#pending.rejectAll(new EsplexError("bus.closed", `connection to ${identityName(this.peer)}: ${reason}`));
    this.#settleClosed(reason);
  }

  #received(chunk: Buffer): void {
    let frames: Buffer[];
    try {
      frames = this.#decoder.push(chunk);
    } catch (error) {
      this.#refuse("frameLength", messageOf(error));
      return;
    }
    if (frames.length > 0) this.#lastHeardMs = this.#clock.nowMs();
    for (const frame of frames) {
      if (!this.#isOpen) return;
      if (isBatch(frame)) this.#batch(frame);
      else this.#text(frame.toString("utf8"));
    }
  }

  #text(frame: string): void {
    const envelope = this.#reader.read(frame);
    if (typeof envelope === "string") this.#refuse(envelope);
    else this.#handle(envelope);
  }

  #batch(frame: Buffer): void {
    const batch = this.#batches.read(frame);
    if (typeof batch === "string") this.#refuse(batch, "reserve");
    else if (batch.kind === "requests") this.#reservations(batch.requests);
    else for (const { id, body } of batch.grants) this.#answeredWith(id, body);
  }

  #reservations(requests: readonly Identified<ReserveBody>[]): void {
    const handler = this.#handlers.requests?.reserve;
    if (handler === undefined) {
      this.#refuse("messageUnexpected", "reserve");
      return;
    }
    for (const { id, body } of requests) {
      if (!this.#isOpen) return;
      this.#inbox.push(new Reservation(handler, id, body, this.#reservationEnds));
    }
  }

  #answeredWith(id: number, grant: GrantBody): void {
    const pending = this.#take(id);
    if (pending?.type === "reserve") pending.resolve(grant);
    else if (pending !== undefined) this.#brokenAnswer(pending);
  }

  #handle(envelope: Envelope): void {
    switch (envelope.kind) {
      case "request": {
        this.#requested(envelope.id, envelope.type, envelope.body);
        return;
      }
      case "notice": {
        this.#notified(envelope.type, envelope.body);
        return;
      }
      case "response": {
        this.#answered(envelope.id, envelope.body);
        return;
      }
      case "failure": {
        const pending = this.#take(envelope.id);
        return pending?.reject(envelope.error);
      }
      case "heartbeat":
        return;
    }
  }

  #requested(id: number, type: string, raw: unknown): void {
    if (!isRequestType(type)) {
      this.#refuse("messageUnknown");
      return;
    }
    const handler = this.#handlers.requests?.[type] as ((body: unknown) => unknown) | undefined;
    if (handler === undefined) {
      this.#refuse("messageUnexpected", type);
      return;
    }
    const body = decodeRequest(type, raw);
    if (body === null) {
      this.#refuse("messageInvalid", type);
      return;
    }
    this.#inbox.push({
      type,
      run: () => handler(body),
      done: (result) => {
        if (!this.#isOpen) return;
        this.#outgoing.text(this.#writer.response(id, encodeResponse(type, result as never)));
        this.#queued();
      },
      failed: (error) => this.#failed(type, id, error),
    });
  }

  #granted(id: number, body: GrantBody): void {
    if (!this.#isOpen) return;
    try {
      this.#outgoing.grant(id, body);
    } catch (error) {
      this.#failed("reserve", id, error);
    }
    this.#queued();
  }

  #failed(type: RequestType, id: number, error: unknown): void {
    if (!(error instanceof EsplexError)) {
      this.#log.error("a bus request failed", { type, peer: identityName(this.peer), error: messageOf(error) });
    }
    if (!this.#isOpen) return;
    this.#outgoing.text(this.#writer.failure(id, error));
    this.#queued();
  }

  #notified(type: string, raw: unknown): void {
    if (!isNoticeType(type)) {
      this.#refuse("messageUnknown");
      return;
    }
    const handler = this.#handlers.notices?.[type] as ((body: unknown) => void) | undefined;
    if (handler === undefined) {
      this.#refuse("messageUnexpected", type);
      return;
    }
    const body = decodeNotice(type, raw);
    if (body === null) {
      this.#refuse("messageInvalid", type);
      return;
    }
    const failed = (error: unknown): void =>
      this.#log.error("a bus notice failed", { type, peer: identityName(this.peer), error: messageOf(error) });
    this.#inbox.push({ type: null, run: () => handler(body), done: () => {}, failed });
  }

  #answered(id: number, raw: unknown): void {
    const pending = this.#take(id);
    if (pending === undefined) return;
    const body = decodeResponse(pending.type, raw);
    if (body === null) this.#brokenAnswer(pending);
    else pending.resolve(body);
  }

  #brokenAnswer({ type, reject }: Pending): void {
    reject(new EsplexError("bus.protocol", `${type}: the answer breaks its schema`));
    this.#refuse("messageInvalid", type);
  }

  /** An answer that nobody waits for came after its time limit: counted, no fault. */
  #take(id: number): Pending | undefined {
    const pending = this.#pending.take(id);
    if (pending === undefined) this.#counters.add("bus.lateAnswer");
    return pending;
  }

  /** After each frame or record that was put into `#outgoing`: it leaves at the end of this turn. */
  #queued(): void {
    if (this.#outgoing.lengthBytes > this.#limits.maxSendBytes) this.#refuse("slowReader");
    if (this.#willFlush) return;
    this.#willFlush = true;
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    this.#willFlush = false;
    if (!this.#isOpen) return;
    try {
      this.#socket.write(this.#outgoing.take());
    } catch (error) {
      this.#refuse("frameLength", messageOf(error));
    }
    if (this.#socket.writableLength > this.#limits.maxSendBytes) this.#refuse("slowReader");
  }

  #resumed(): void {
    this.#lastHeardMs = this.#clock.nowMs();
    this.#socket.resume();
  }

  #scheduleBeat(): void {
    const pauseMs = Math.min(CHECK_MS, this.#limits.heartbeatMs);
    const dueMs = this.#clock.nowMs() + pauseMs;
    this.#beat = this.#clock.after(pauseMs, () => {
      const nowMs = this.#clock.nowMs();
      // A timer that comes late means that this process had no time: what the peer sent meanwhile has yet to be read.
      if (nowMs - dueMs > this.#limits.heartbeatMs) this.#lastHeardMs = nowMs;
      else this.#expire(nowMs);
      if (!this.#isOpen) return;
      if (nowMs - this.#lastBeatMs >= this.#limits.heartbeatMs) {
        this.#lastBeatMs = nowMs;
        this.#outgoing.text(this.#writer.heartbeat());
        this.#queued();
      }
      this.#scheduleBeat();
    });
  }

  /** Fails requests whose time is over, and the connection when its peer is silent (unless we do not read ourselves). */
  #expire(nowMs: number): void {
    for (const { type, reject } of this.#pending.takeOverdue(nowMs)) {
      this.#counters.add("bus.requestTimeout");
      reject(new EsplexError("bus.timeout", `${type}: no answer from ${identityName(this.peer)}`));
    }
    if (!this.#inbox.isFull && nowMs - this.#lastHeardMs > this.#limits.silenceMs) this.#refuse("peerSilent");
  }

  /** Closes because of what the other side did: counted and logged, never with the message itself (it may hold keys). */
  #refuse(reason: string, detail = ""): void {
    if (!this.#isOpen) return;
    this.#counters.add(`bus.${reason}`);
    this.#log.warn("bus connection closed", { reason, detail, peer: identityName(this.peer) });
    this.close(reason);
  }
}
