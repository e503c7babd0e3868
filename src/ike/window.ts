import { sha256Hex } from "../crypto/hash.ts";
import { invariant } from "../core/errors.ts";
import type { IkeTiming } from "./settings.ts";

/** What a request's message ID makes of it (RFC 7296 §2.2, §2.3; the window is 1). */
export type RequestClass =
  /** The next one: process it. */
  | { readonly kind: "new" }
  /** The last one again, byte by byte: send the answer again. */
  | { readonly kind: "repeated"; readonly response: Datagrams }
  /** The last one again while we still work on it: the answer will come. */
  | { readonly kind: "inProgress" }
  /** The last one's ID on other bytes. */
  | { readonly kind: "altered" }
  | { readonly kind: "outside" };

/** One message of ours as it goes on the wire: several datagrams when it is fragmented (RFC 7383), repeated together. */
export type Datagrams = readonly Uint8Array[];

interface LastRequest {
  readonly messageId: number;
  readonly digest: string;
  response: Datagrams | null;
}

/** The peer's requests: one at a time, each answered once, the answer kept for retransmissions. */
export class RequestWindow {
  #nextId: number;
  #last: LastRequest | null = null;

  /** `nextId`: 1 after IKE_SA_INIT, 0 for an IKE SA that replaces another. */
  constructor(nextId: number) {
    this.#nextId = nextId;
  }

  /** `bytes` null: a fragment, which may repeat a request without its very bytes (RFC 7383 §2.6.1). */
  classify(messageId: number, bytes: Uint8Array | null): RequestClass {
    if (messageId === this.#nextId) return this.#last?.response === null ? { kind: "outside" } : { kind: "new" };
    const last = this.#last;
    if (last?.messageId !== messageId) return { kind: "outside" };
    if (bytes !== null && last.digest !== sha256Hex(bytes)) return { kind: "altered" };
    return last.response === null ? { kind: "inProgress" } : { kind: "repeated", response: last.response };
  }

  /** An authentic new request is being worked on. */
  begin(messageId: number, bytes: Uint8Array): void {
    invariant(messageId === this.#nextId, "only the next request is begun");
    this.#nextId += 1;
    this.#last = { messageId, digest: sha256Hex(bytes), response: null };
  }

  /** The answer to the request that was begun. */
  finish(response: Datagrams): void {
    invariant(this.#last?.response === null, "only a begun request is answered, and once");
    this.#last.response = response;
  }
}

/** A request that we send of our own. */
export type OwnRequest =
  { readonly kind: "dpd" } | { readonly kind: "deleteChild"; readonly saId: string } | { readonly kind: "deleteIke" };

interface Outstanding {
  readonly messageId: number;
  readonly request: OwnRequest;
  readonly datagrams: Datagrams;
  sent: number;
  nextAtMs: number;
}

/** Our requests: one on the wire, the others wait; repeated with doubling pauses until answered or given up (RFC 7296 §2.4). */
export class OwnRequests {
  #nextId = 0;
  #waiting: OwnRequest[] = [];
  #outstanding: Outstanding | null = null;

  get outstanding(): OwnRequest | null {
    return this.#outstanding?.request ?? null;
  }

  /** Null when nothing waits for an answer. */
  get nextAtMs(): number | null {
    return this.#outstanding?.nextAtMs ?? null;
  }

  /** True when nothing is on the wire and nothing waits. */
  get idle(): boolean {
    return this.#outstanding === null && this.#waiting.length === 0;
  }

  /** Bounded by what is deleted: the caller asks once per SA. */
  enqueue(request: OwnRequest): void {
    this.#waiting.push(request);
  }

  /** Forgets everything that waits, and the request on the wire. */
  clear(): void {
    this.#waiting = [];
    this.#outstanding = null;
  }

  /** Puts the next request on the wire when it is free; returns what to send. */
  start(
    nowMs: number,
    timing: IkeTiming,
    seal: (messageId: number, request: OwnRequest) => Datagrams,
  ): Datagrams | null {
    if (this.#outstanding !== null) return null;
    const request = this.#waiting.shift();
    if (request === undefined) return null;
    const messageId = this.#nextId;
    this.#nextId += 1;
    const datagrams = seal(messageId, request);
    this.#outstanding = { messageId, request, datagrams, sent: 1, nextAtMs: nowMs + timing.retransmitMs };
    return datagrams;
  }

  /** True when a response with this ID is waited for. */
  expects(messageId: number): boolean {
    return this.#outstanding?.messageId === messageId;
  }

  /** An authentic response came. */
  answered(): OwnRequest | null {
    const request = this.outstanding;
    this.#outstanding = null;
    return request;
  }

  /** What to send again now, `giveUp` when it was sent often enough, null when it is not yet time. */
  due(nowMs: number, timing: IkeTiming): Datagrams | "giveUp" | null {
    const outstanding = this.#outstanding;
    if (outstanding === null || nowMs < outstanding.nextAtMs) return null;
    if (outstanding.sent >= timing.attempts) return "giveUp";
    outstanding.nextAtMs = nowMs + timing.retransmitMs * 2 ** outstanding.sent;
    outstanding.sent += 1;
    return outstanding.datagrams;
  }
}
