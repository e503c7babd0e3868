import type { Duplex } from "node:stream";
import type { Clock, Timer } from "../core/clock.ts";
import type { Counters } from "../core/counters.ts";
import { EsplexError, messageOf } from "../core/errors.ts";
import type { Log } from "../core/log.ts";
import { type Envelope, EnvelopeReader, EnvelopeWriter } from "./envelope.ts";
import { FrameDecoder, MAX_FRAME_BYTES, encodeFrames } from "./frames.ts";
import { type Identity, identityName } from "./identity.ts";
import { Inbox } from "./inbox.ts";
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

/** Limits of one connection; the defaults are our choice. */
export interface BusLimits {
  /** A heart-beat goes out this often. */
  readonly heartbeatMs: number;
  /** Without one whole frame for this long the peer counts as dead. */
  readonly silenceMs: number;
  /** A request without its own limit fails after this long. */
  readonly requestMs: number;
  readonly maxFrameBytes: number;
  /** Bytes that may wait for a slow reader before it is cut off. */
  readonly maxSendBytes: number;
  /** Requests that may wait for their response. */
  readonly maxPending: number;
  /** Messages that may wait for a handler before reading stops. */
  readonly maxInbox: number;
}

/** How often time limits are looked at, in milliseconds. */
const CHECK_MS = 100;

const DEFAULT_LIMITS: BusLimits = {
  heartbeatMs: 1000,
  silenceMs: 6000,
  requestMs: 5000,
  maxFrameBytes: MAX_FRAME_BYTES,
  maxSendBytes: 8 * 1024 * 1024,
  maxPending: 16_384,
  maxInbox: 1024,
};

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

interface Pending {
  readonly type: RequestType;
  readonly deadlineMs: number;
  readonly resolve: (body: unknown) => void;
  readonly reject: (error: EsplexError) => void;
}

/**
 * One authenticated connection of the bus, either end. Frames that are written in one turn of the event loop leave in one
 * TLS write. Messages are handled in order: the handler of one finishes before the next one starts, except for the
 * types in `CONCURRENT_REQUESTS`, which start in order and finish when they can.
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
  readonly #writer: EnvelopeWriter;
  readonly #inbox: Inbox;
  readonly #pending = new Map<number, Pending>();
  #handlers: BusHandlers = {};
  #nextId = 1;
  #outgoing: string[] = [];
  #outgoingLength = 0;
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
    this.#writer = new EnvelopeWriter(options.self);
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
      const id = this.#nextId++;
      const deadlineMs = this.#clock.nowMs() + (timeoutMs ?? this.#limits.requestMs);
      this.#pending.set(id, { type, deadlineMs, resolve: resolve as (body: unknown) => void, reject });
      this.#send(this.#writer.request(id, type, encodeRequest(type, body)));
    });
  }

  /** Sends a message that has no answer. On a closed connection it is lost, as it would be on the wire. */
  notify<T extends NoticeType>(type: T, body: NoticeBody<T>): void {
    if (this.#isOpen) this.#send(this.#writer.notice(type, encodeNotice(type, body)));
  }

  /** Ends the connection at once. Harmless when it has ended. */
  close(reason: string): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#beat?.cancel();
    this.#inbox.close();
    this.#outgoing = [];
    this.#socket.destroy();
    const error = new EsplexError("bus.closed", `connection to ${identityName(this.peer)}: ${reason}`);
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
    this.#settleClosed(reason);
  }

  #received(chunk: Buffer): void {
    let frames: string[];
    try {
      frames = this.#decoder.push(chunk);
    } catch (error) {
      this.#refuse("frameLength", messageOf(error));
      return;
    }
    if (frames.length > 0) this.#lastHeardMs = this.#clock.nowMs();
    for (const frame of frames) {
      if (!this.#isOpen) return;
      const envelope = this.#reader.read(frame);
      if (typeof envelope === "string") {
        this.#refuse(envelope);
        return;
      }
      this.#handle(envelope);
    }
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
      done: (result) => this.#reply(() => this.#writer.response(id, encodeResponse(type, result as never))),
      failed: (error) => {
        if (!(error instanceof EsplexError)) {
          this.#log.error("a bus request failed", { type, peer: identityName(this.peer), error: messageOf(error) });
        }
        this.#reply(() => this.#writer.failure(id, error));
      },
    });
  }

  /** Numbers are given when the frame is queued: an answer to a closed connection must not take one. */
  #reply(frame: () => string): void {
    if (this.#isOpen) this.#send(frame());
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
    if (body !== null) {
      pending.resolve(body);
      return;
    }
    pending.reject(new EsplexError("bus.protocol", `${pending.type}: the answer breaks its schema`));
    this.#refuse("messageInvalid", pending.type);
  }

  /** An answer that nobody waits for came after its time limit: counted, no fault. */
  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (pending === undefined) this.#counters.add("bus.lateAnswer");
    this.#pending.delete(id);
    return pending;
  }

  #send(frame: string): void {
    if (this.#outgoing.length === 0) process.nextTick(() => this.#flush());
    this.#outgoing.push(frame);
    this.#outgoingLength += frame.length;
    if (this.#outgoingLength + this.#socket.writableLength > this.#limits.maxSendBytes) this.#refuse("slowReader");
  }

  #flush(): void {
    const frames = this.#outgoing;
    this.#outgoing = [];
    this.#outgoingLength = 0;
    if (!this.#isOpen || frames.length === 0) return;
    try {
      this.#socket.write(encodeFrames(frames, this.#limits.maxFrameBytes));
    } catch (error) {
      this.#refuse("frameLength", messageOf(error));
    }
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
        this.#send(this.#writer.heartbeat());
      }
      this.#scheduleBeat();
    });
  }

  /** Fails requests whose time is over, and the connection when its peer is silent (unless we do not read ourselves). */
  #expire(nowMs: number): void {
    for (const [id, pending] of this.#pending) {
      if (pending.deadlineMs > nowMs) continue;
      this.#pending.delete(id);
      this.#counters.add("bus.requestTimeout");
      pending.reject(new EsplexError("bus.timeout", `${pending.type}: no answer from ${identityName(this.peer)}`));
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
