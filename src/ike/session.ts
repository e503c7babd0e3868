import { dhGroup } from "../crypto/dh.ts";
import { toHex, u64be } from "../core/bytes.ts";
import { suiteName } from "../sa/suite.ts";
import type { SharedSa } from "../sa/spec.ts";
import type { IkePeerConfig } from "./environment.ts";
import type { ChildSaSummary, IkeSaSummary, Path } from "./events.ts";
import { wipeIkeKeys, type IkeKeys } from "./keys.ts";
import { Reassembly } from "./reassembly.ts";
import type { Step } from "./step.ts";
import { ikeSuiteName, type IkeSuite } from "./suite.ts";
import { OwnRequests, RequestWindow, type Datagrams } from "./window.ts";
import { ivBytes, sealFragments, sealMessage, type SealingKey } from "./wire/encrypted.ts";
import { WIRE_LIMITS } from "./wire/limits.ts";
import type { Payload } from "./wire/payload.ts";

/*
 * An IKE SA at the responder (RFC 7296 §1.2, §1.3, §1.4):
 *
 *   IKE_SA_INIT ──▶ halfOpen ──IKE_AUTH──▶ established ──rekeyed by the peer──▶ rekeyed ──DELETE──▶ closed ──▶ gone
 *                      │                      │    └─ our DELETE ─▶ deleting ──answered──▶ gone
 *                      └─ bad AUTH ─▶ closed  └─ the peer's DELETE, INVALID_SYNTAX ─▶ closed
 *
 * `closed` has no keys: it repeats its last answer to retransmissions until its time is over.
 */

/** A Child SA of this IKE SA. */
export interface Child {
  readonly sa: SharedSa;
  /** Set while it replaces another and is not yet sent on: the old one, and when the wait ends. */
  held: { readonly replaces: string; readonly untilMs: number } | null;
  /** The SA that replaced this one. */
  replacedBy: string | null;
  /** Our DELETE for it waits or is on the wire. */
  closing: boolean;
}

/** A Child SA that the kernels are installing; its response waits for them. */
export interface PendingInstall {
  readonly sa: SharedSa;
  /** The SA that it replaces. */
  readonly replaces: string | null;
  readonly deadlineMs: number;
  readonly answer: ResponseDraft;
  /** Payloads that the response has whatever happens (IDr and AUTH in IKE_AUTH). */
  readonly always: readonly Payload[];
  /** Payloads that follow when the SA is installed. */
  readonly success: readonly Payload[];
}

/** Where an answer goes and what it answers. */
export interface ResponseDraft {
  readonly exchange: number;
  readonly messageId: number;
  readonly path: Path;
}

/** What AUTH needs of IKE_SA_INIT. */
export interface InitRecord {
  readonly request: Uint8Array;
  readonly response: Uint8Array;
  readonly nonceI: Uint8Array;
  readonly nonceR: Uint8Array;
  /** The peer's SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4), null when it sent none; ours went back to it if it did. */
  readonly peerHashes: readonly number[] | null;
}

export interface HalfOpen {
  readonly kind: "halfOpen";
  readonly init: InitRecord;
  readonly expiresAtMs: number;
}

export interface Established {
  readonly kind: "established";
  readonly peer: IkePeerConfig;
  /** `identityKey` of the peer. */
  readonly remoteIdentity: string;
  readonly sinceMs: number;
  lastHeardMs: number;
  readonly children: Map<string, Child>;
  pending: PendingInstall | null;
}

export type SessionState =
  | HalfOpen
  | Established
  | { readonly kind: "rekeyed"; readonly peerName: string; readonly expiresAtMs: number }
  | { readonly kind: "deleting"; readonly peerName: string }
  | { readonly kind: "closed"; readonly expiresAtMs: number };

/** What a session is born with. */
interface SessionOptions {
  readonly spiI: Uint8Array;
  readonly spiR: Uint8Array;
  readonly path: Path;
  readonly suite: IkeSuite;
  readonly keys: IkeKeys;
  readonly natDetected: boolean;
  /** Both sides take fragments (RFC 7383 §2.3). */
  readonly fragmentation: boolean;
  readonly state: SessionState;
  /** ID of the peer's next request. */
  readonly nextRequestId: number;
}

export class IkeSession {
  readonly id: string;
  readonly spiI: Uint8Array;
  readonly spiR: Uint8Array;
  readonly suite: IkeSuite;
  readonly keys: IkeKeys;
  readonly natDetected: boolean;
  readonly fragmentation: boolean;
  readonly requestFragments = new Reassembly();
  readonly responseFragments = new Reassembly();
  readonly requests: RequestWindow;
  readonly own = new OwnRequests();
  /** Where the last authentic request came from: our own requests go there. */
  path: Path;
  state: SessionState;
  #sealed = 0n;

  constructor(options: SessionOptions) {
    this.spiI = options.spiI;
    this.spiR = options.spiR;
    this.id = `${toHex(options.spiI)}_${toHex(options.spiR)}`;
    this.suite = options.suite;
    this.keys = options.keys;
    this.natDetected = options.natDetected;
    this.fragmentation = options.fragmentation;
    this.path = options.path;
    this.state = options.state;
    this.requests = new RequestWindow(options.nextRequestId);
  }

  /** Encrypts a message of ours, in fragments when it is long and the peer takes them. */
  seal(
    step: Step,
    what: { exchange: number; messageId: number; isResponse: boolean },
    payloads: readonly Payload[],
  ): Datagrams {
    const fields = { spiI: this.spiI, spiR: this.spiR, fromInitiator: false, ...what };
    const sealing = this.keys.responder;
    const nextIv = (): Uint8Array => this.#nextIv(step, sealing.kind);
    const whole = sealMessage(fields, payloads, sealing, nextIv());
    if (!this.fragmentation || whole.length <= WIRE_LIMITS.unfragmentedBytes) return [whole];
    return sealFragments(fields, payloads, sealing, nextIv, WIRE_LIMITS.unfragmentedBytes);
  }

  /** An AEAD's is a counter, so no nonce repeats under one key (RFC 5282 §3). */
  #nextIv(step: Step, kind: SealingKey["kind"]): Uint8Array {
    this.#sealed += 1n;
    return kind === "aes-cbc" ? step.environment.randomBytes(ivBytes(kind)) : u64be(this.#sealed);
  }

  /** Facts for log lines. */
  facts(): Readonly<Record<string, unknown>> {
    const peer = "peer" in this.state ? { peer: this.state.peer.name } : {};
    return { ikeSa: this.id, remote: this.path.remote.address, local: this.path.local.address, ...peer };
  }

  wipe(): void {
    wipeIkeKeys(this.keys);
  }

  summary(): IkeSaSummary {
    const { state } = this;
    return {
      id: this.id,
      state: state.kind,
      peerName: state.kind === "established" ? state.peer.name : "peerName" in state ? state.peerName : null,
      local: this.path.local,
      remote: this.path.remote,
      suite: ikeSuiteName(this.suite),
      group: dhGroup(this.suite.group)?.name ?? String(this.suite.group),
      establishedAtMs: state.kind === "established" ? state.sinceMs : null,
      children: state.kind === "established" ? childSummaries(state) : [],
    };
  }
}

function childSummaries(state: Established): ChildSaSummary[] {
  const installed = [...state.children.values()].map((child) => childSummary(child.sa, childState(child)));
  return state.pending === null ? installed : [...installed, childSummary(state.pending.sa, "installing")];
}

function childState(child: Child): ChildSaSummary["state"] {
  if (child.closing) return "closing";
  if (child.replacedBy !== null) return "replaced";
  return child.held === null ? "active" : "held";
}

function childSummary(sa: SharedSa, state: ChildSaSummary["state"]): ChildSaSummary {
  return {
    saId: sa.id,
    mode: sa.mode,
    suite: suiteName(sa.suite),
    reqid: sa.reqid,
    inboundSpi: sa.inbound.spi,
    outboundSpi: sa.outbound.spi,
    state,
  };
}
