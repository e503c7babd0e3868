import { sha256Hex } from "../crypto/hash.ts";
import { invariant } from "../core/errors.ts";
import type { ChildOffer, ChildWish } from "./child-offer.ts";
import type { IkeOffer } from "./ike-offer.ts";
import type { IkeTiming } from "./settings.ts";
import type { MessageIdSync } from "./wire/message-id-sync.ts";

/** What a request's message ID makes of it (RFC 7296 §2.2, §2.3; the window is 1). */
export type RequestClass =
  /** The next one: process it. */
  | { readonly kind: "new" }
  /** The last one again, byte by byte: send the answer again. */
  | { readonly kind: "repeated"; readonly response: Datagrams }
  /** The last one again while we still work on it: the answer will come. */
  | { readonly kind: "inProgress" }
  /** The next one while we still work on the last: its turn comes. */
  | { readonly kind: "early" }
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
  #highestId: number;
  #last: LastRequest | null = null;

  /** `nextId`: 1 after IKE_SA_INIT, 0 for an IKE SA that replaces another. */
  constructor(nextId: number) {
    this.#nextId = nextId;
    this.#highestId = nextId - 1;
  }

  /** The highest ID that the peer has used, or said that it will go on from (RFC 6311 §5.1). */
  get highestId(): number {
    return this.#highestId;
  }

  /** True while we work on the last request. */
  get isBusy(): boolean {
    return this.#last?.response === null;
  }

  /** Expects this ID next, and forgets the last request; nothing changes when it has come that far already. */
  goOnFrom(nextId: number): void {
    if (nextId <= this.#nextId) return;
    this.#nextId = nextId;
    this.#highestId = nextId;
    this.#last = null;
  }

  /** `bytes` null: a fragment, which may repeat a request without its very bytes (RFC 7383 §2.6.1). */
  classify(messageId: number, bytes: Uint8Array | null): RequestClass {
    if (messageId === this.#nextId) return this.isBusy ? { kind: "early" } : { kind: "new" };
    const last = this.#last;
    if (last?.messageId !== messageId) return { kind: "outside" };
    if (bytes !== null && last.digest !== sha256Hex(bytes)) return { kind: "altered" };
    return last.response === null ? { kind: "inProgress" } : { kind: "repeated", response: last.response };
  }

  /** An authentic new request is being worked on. */
  begin(messageId: number, bytes: Uint8Array): void {
    invariant(messageId === this.#nextId, "only the next request is begun");
    this.#highestId = messageId;
    this.#nextId += 1;
    this.#last = { messageId, digest: sha256Hex(bytes), response: null };
  }

  /** The answer to the request that was begun. */
  finish(response: Datagrams): void {
    invariant(this.#last?.response === null, "only a begun request is answered, and once");
    this.#last.response = response;
  }
}

/** What we want to ask the peer: waits until the wire is free, and may be pointless by then. */
export type OwnWish =
  /** IKE_AUTH. */
  | { readonly kind: "auth" }
  | { readonly kind: "dpd" }
  | { readonly kind: "deleteChild"; readonly saId: string }
  /** An SA that the peer has made and we never had: `spi` is our inbound one; `protocol` as in `PROTOCOL`. */
  | { readonly kind: "deleteSpi"; readonly protocol: number; readonly spi: number }
  /** A packet has come for an SA that we do not have: told, and deleted at the peer (RFC 7296 §1.5). */
  | { readonly kind: "invalidSpi"; readonly protocol: number; readonly spi: number }
  | { readonly kind: "deleteIke" }
  /** `group`: of the KE payload, null for the first choice. */
  | { readonly kind: "rekeyChild"; readonly saId: string; readonly group: number | null }
  | { readonly kind: "createChild"; readonly wish: ChildWish; readonly group: number | null }
  | { readonly kind: "rekeyIke"; readonly group: number | null }
  /** Of message IDs (`message-ids.ts`). */
  | { readonly kind: "synchronise" };

/** A request on the wire, with what its answer is read with. */
export type OwnRequest =
  | Extract<OwnWish, { kind: "auth" | "dpd" | "deleteChild" | "deleteSpi" | "invalidSpi" | "deleteIke" }>
  | { readonly kind: "rekeyChild"; readonly saId: string; readonly offer: ChildOffer }
  | { readonly kind: "createChild"; readonly offer: ChildOffer }
  | { readonly kind: "rekeyIke"; readonly offer: IkeOffer }
  | { readonly kind: "synchronise"; readonly sync: MessageIdSync };

interface Outstanding {
  readonly messageId: number;
  request: OwnRequest;
  datagrams: Datagrams;
  sent: number;
  nextAtMs: number;
}

/** What is about the IKE SA itself, and ends with it. */
const OF_THE_IKE_SA: readonly OwnWish["kind"][] = ["dpd", "deleteIke", "rekeyIke", "synchronise"];

/** Our requests: one on the wire, the others wait; repeated with doubling pauses until answered or given up (RFC 7296 §2.4). */
export class OwnRequests {
  #nextId: number;
  #waiting: OwnWish[] = [];
  #outstanding: Outstanding | null = null;

  /** `nextId`: 1 for the initiator after IKE_SA_INIT, else 0. */
  constructor(nextId = 0) {
    this.#nextId = nextId;
  }

  get outstanding(): OwnRequest | null {
    return this.#outstanding?.request ?? null;
  }

  /** One more than the highest ID that we have used. */
  get nextId(): number {
    return this.#nextId;
  }

  /** Null when nothing waits for an answer. */
  get nextAtMs(): number | null {
    return this.#outstanding?.nextAtMs ?? null;
  }

  /** True when nothing is on the wire and nothing waits. */
  get idle(): boolean {
    return this.#outstanding === null && this.#waiting.length === 0;
  }

  /** True when such a request is on the wire or waits. */
  has(matches: (wish: OwnWish | OwnRequest) => boolean): boolean {
    return [...this.#waiting, ...(this.#outstanding === null ? [] : [this.#outstanding.request])].some(matches);
  }

  /** Bounded by the SAs: the caller asks once for each. */
  enqueue(wish: OwnWish): void {
    this.#waiting.push(wish);
  }

  /** Takes out what waits about Child SAs: for the IKE SA that inherits them. */
  takeChildWishes(): OwnWish[] {
    const taken = this.#waiting.filter(({ kind }) => !OF_THE_IKE_SA.includes(kind));
    this.#waiting = [];
    return taken;
  }

  /** Forgets everything that waits, and the request on the wire. */
  clear(): void {
    this.#waiting = [];
    this.#outstanding = null;
  }

  /** The next wish, taken out of the queue, when the wire is free for it. */
  next(): OwnWish | null {
    return this.#outstanding === null ? (this.#waiting.shift() ?? null) : null;
  }

  /** Puts a request on the wire, which must be free; returns what to send. */
  start(nowMs: number, timing: IkeTiming, request: OwnRequest, seal: (messageId: number) => Datagrams): Datagrams {
    invariant(this.#outstanding === null, "one request at a time");
    const messageId = request.kind === "synchronise" ? 0 : this.#nextId++;
    const datagrams = seal(messageId);
    this.#outstanding = { messageId, request, datagrams, sent: 1, nextAtMs: nowMs + timing.retransmitMs };
    return datagrams;
  }

  /** Another form of the request on the wire, under the same ID, has taken its place. */
  replace(request: OwnRequest, datagrams: Datagrams): void {
    invariant(this.#outstanding !== null, "only a request on the wire is replaced");
    this.#outstanding.request = request;
    this.#outstanding.datagrams = datagrams;
  }

  /**
   * The next request has this ID. One on the wire is begun anew, for its own ID is of no use any more; unless the peer has had it, who
   * expects `expectedByPeer` next: then its answer is under way.
   */
  goOnFrom(nextId: number, expectedByPeer: number): void {
    this.#nextId = nextId;
    const outstanding = this.#outstanding;
    const isTaken = outstanding !== null && outstanding.messageId < expectedByPeer;
    if (outstanding === null || (isTaken && outstanding.request.kind !== "synchronise")) return;
    this.#waiting.unshift(wishOf(outstanding.request));
    this.#outstanding = null;
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

/** What led to this request. */
function wishOf(request: OwnRequest): OwnWish {
  switch (request.kind) {
    case "rekeyChild":
      return { kind: "rekeyChild", saId: request.saId, group: null };
    case "createChild":
      return { kind: "createChild", wish: request.offer.wish, group: null };
    case "rekeyIke":
      return { kind: "rekeyIke", group: null };
    case "synchronise":
      return { kind: "synchronise" };
    default:
      return request;
  }
}
