import { dhGroup } from "../crypto/dh.ts";
import { equalBytes, toHex, u64be } from "../core/bytes.ts";
import { suiteName } from "../sa/suite.ts";
import type { SharedSa } from "../sa/spec.ts";
import type { ChildOffer } from "./child-offer.ts";
import type { IkePeerConfig } from "./environment.ts";
import type { ChildSaSummary, IkeSaSummary, Path } from "./events.ts";
import type { ChildLife, Life, Usage } from "./lifetime.ts";
import type { Target } from "./initiation.ts";
import { wipeIkeKeys, type IkeKeys } from "./keys.ts";
import type { NatFinding } from "./nat.ts";
import { Reassembly } from "./reassembly.ts";
import type { Step } from "./step.ts";
import { ikeSuiteName, type IkeSuite } from "./suite.ts";
import { OwnRequests, RequestWindow, type Datagrams } from "./window.ts";
import { ivBytes, sealFragments, sealMessage, type SealingKey } from "./wire/encrypted.ts";
import type { IkeHeader } from "./wire/header.ts";
import { WIRE_LIMITS } from "./wire/limits.ts";
import type { IkeMessage } from "./wire/message.ts";
import type { Payload } from "./wire/payload.ts";

/*
 * An IKE SA (RFC 7296 §1.2 to §1.4, §2.8), whoever began it:
 *
 *   the peer's IKE_SA_INIT ──▶ halfOpen ──its IKE_AUTH──┐
 *                                 └─ bad AUTH ─▶ closed  ├──▶ established ──rekeyed by the peer──▶ rekeyed ──its DELETE──▶ closed
 *   ours (`Initiation`) ─▶ authenticating ──answered────┘      │  │  └─ rekeyed by us ─▶ deleting   └─ time over ─▶ gone
 *                                 └─ refused, bad AUTH ─▶ gone  │  └─ our DELETE ─▶ deleting ──answered──▶ gone
 *                                                               └─ the peer's DELETE, INVALID_SYNTAX ─▶ closed
 *
 * An IKE SA that is rekeyed hands its Child SAs to its heir, which is `established` from its birth; one that lost against a
 * rekey of the other end is born `deleting` (ours) or becomes `rekeyed` (the peer's). `closed` has no keys: it repeats its last
 * answer to retransmissions until its time is over.
 */

/** A Child SA as an exchange has made it. */
interface MadeChild {
  readonly sa: SharedSa;
  /** The SA that it was made to replace; that one may be gone. */
  readonly replaces: string | null;
  /** We asked for it; else the peer did. */
  readonly isOurs: boolean;
  /** The lowest nonce of its exchange: decides between two rekeys of one SA (RFC 7296 §2.8.1). */
  readonly lowestNonce: Uint8Array;
  /** Group of its own KE exchange; null without. */
  readonly group: number | null;
  /** It replaces none, but its tunnel has others already: a peer that authenticates anew makes before it breaks. */
  readonly isTwin: boolean;
}

/** A Child SA of this IKE SA. */
export interface Child extends MadeChild {
  sa: SharedSa;
  /** Set while it is not yet sent on, for its tunnel has an older one: when the wait ends. */
  heldUntilMs: number | null;
  /** The SA that replaced this one. */
  replacedBy: string | null;
  /** Our DELETE for it waits or is on the wire. */
  closing: boolean;
  /** Set when it lost against our rekey of the same SA: the peer that made it is to delete it, or else we do at this time. */
  redundantUntilMs: number | null;
  readonly life: ChildLife;
  /** As reported last; null before. */
  used: Usage | null;
}

/** A Child SA that the kernels are installing. */
export interface PendingInstall extends MadeChild {
  readonly deadlineMs: number;
}

/** The peer asked for it: its response waits for the kernels. */
export interface PeerInstall extends PendingInstall {
  readonly answer: ResponseDraft;
  /** Payloads that the response has whatever happens (IDr and AUTH in IKE_AUTH). */
  readonly always: readonly Payload[];
  /** Payloads that follow when the SA is installed. */
  readonly success: readonly Payload[];
}

/** A datagram that names an IKE SA of ours. */
export interface SessionDatagram {
  readonly path: Path;
  readonly bytes: Uint8Array;
  readonly message: IkeMessage;
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

/** We have asked for it, and IKE_SA_INIT is answered: our IKE_AUTH is on the wire. */
export interface Authenticating {
  readonly kind: "authenticating";
  readonly peer: IkePeerConfig;
  readonly target: Target;
  readonly init: InitRecord;
  /** No other IKE SA of ours with this peer lived: INITIAL_CONTACT (RFC 7296 §2.4). */
  readonly isFirst: boolean;
  readonly offer: ChildOffer;
  /** CERTREQ payloads of the peer. */
  readonly requests: readonly Payload[];
}

export interface Established {
  readonly kind: "established";
  readonly peer: IkePeerConfig;
  /** `identityKey` of the peer. */
  readonly remoteIdentity: string;
  readonly sinceMs: number;
  readonly life: Life;
  /** The IKE SA that the peer replaced by this one while our own rekey of it is on the wire: nothing of ours begins here before. */
  readonly undecided: IkeSession | null;
  /** Both ends can synchronise message IDs (RFC 6311). */
  readonly messageIdSync: boolean;
  lastHeardMs: number;
  /** When a hint from outside last made us send something. */
  lastHintMs: number | null;
  readonly children: Map<string, Child>;
  /** Of the peer's request; its window is 1. */
  pending: PeerInstall | null;
  /** Of our own request, whose answer has come. */
  ownPending: PendingInstall | null;
}

/** Replaced at the peer's request: waits for its DELETE. */
export interface Rekeyed {
  readonly kind: "rekeyed";
  readonly peerName: string;
  readonly expiresAtMs: number;
  readonly heir: IkeSession;
  /** Of the exchange that made the heir. */
  readonly lowestNonce: Uint8Array;
}

export type SessionState =
  | HalfOpen
  | Authenticating
  | Established
  | Rekeyed
  | { readonly kind: "deleting"; readonly peerName: string }
  | { readonly kind: "closed"; readonly expiresAtMs: number };

/** Which end of IKE_SA_INIT we were, or of the exchange that rekeyed the IKE SA: it names SPIs, keys and the I flag (RFC 7296 §3.1). */
export type IkeRole = "initiator" | "responder";

/** What a session is born with. */
interface SessionOptions {
  readonly role: IkeRole;
  readonly spiI: Uint8Array;
  readonly spiR: Uint8Array;
  readonly path: Path;
  readonly suite: IkeSuite;
  readonly keys: IkeKeys;
  readonly nat: NatFinding;
  /** Both sides take fragments (RFC 7383 §2.3). */
  readonly fragmentation: boolean;
  readonly state: SessionState;
  /** ID of the peer's next request. */
  readonly nextRequestId: number;
  /** ID of our own next request; 0 when absent. */
  readonly nextOwnId?: number;
}

export class IkeSession {
  readonly id: string;
  readonly role: IkeRole;
  readonly spiI: Uint8Array;
  readonly spiR: Uint8Array;
  readonly suite: IkeSuite;
  readonly keys: IkeKeys;
  readonly nat: NatFinding;
  readonly fragmentation: boolean;
  readonly requestFragments = new Reassembly();
  readonly responseFragments = new Reassembly();
  readonly requests: RequestWindow;
  readonly own: OwnRequests;
  /** Where the last fresh, authentic message came from: our own requests go there (`moving.ts`). */
  path: Path;
  /** When the NAT that we are behind is to hear of us again (RFC 3948 §4). */
  keepaliveAtMs = 0;
  state: SessionState;
  #sealed = 0n;

  constructor(options: SessionOptions) {
    this.role = options.role;
    this.spiI = options.spiI;
    this.spiR = options.spiR;
    this.id = `${toHex(options.spiI)}_${toHex(options.spiR)}`;
    this.suite = options.suite;
    this.keys = options.keys;
    this.nat = options.nat;
    this.fragmentation = options.fragmentation;
    this.path = options.path;
    this.state = options.state;
    this.own = new OwnRequests(options.nextOwnId ?? 0);
    this.requests = new RequestWindow(options.nextRequestId);
  }

  /** Encrypts a message of ours, in fragments when it is long and the peer takes them. */
  seal(
    step: Step,
    what: { exchange: number; messageId: number; isResponse: boolean },
    payloads: readonly Payload[],
  ): Datagrams {
    const fields = { spiI: this.spiI, spiR: this.spiR, fromInitiator: this.role === "initiator", ...what };
    const sealing = this.role === "initiator" ? this.keys.initiator : this.keys.responder;
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

  get localSpi(): Uint8Array {
    return this.role === "initiator" ? this.spiI : this.spiR;
  }

  /** What the peer seals with. */
  get peerKey(): SealingKey {
    return this.role === "initiator" ? this.keys.responder : this.keys.initiator;
  }

  /** True when a message with these header fields comes from this IKE SA's other end. */
  isFromPeer({ fromInitiator, spiI, spiR }: Pick<IkeHeader, "fromInitiator" | "spiI" | "spiR">): boolean {
    return fromInitiator === (this.role === "responder") && equalBytes(spiI, this.spiI) && equalBytes(spiR, this.spiR);
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
      peerName: "peer" in state ? state.peer.name : "peerName" in state ? state.peerName : null,
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
  const installed = [...state.children.values()].map((child) => ({
    ...childSummary(child.sa, childState(child)),
    used: child.used === null ? null : usageText(child.used),
  }));
  const installing = [state.pending, state.ownPending].flatMap((pending) =>
    pending === null ? [] : [childSummary(pending.sa, "installing")],
  );
  return [...installed, ...installing];
}

function childState(child: Child): ChildSaSummary["state"] {
  if (child.closing) return "closing";
  if (child.redundantUntilMs !== null) return "redundant";
  if (child.replacedBy !== null) return "replaced";
  return child.heldUntilMs === null ? "active" : "held";
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
    used: null,
    limits: usageText({ bytes: sa.lifesize?.bytes ?? null, packets: sa.lifesize?.packets ?? null }),
  };
}

function usageText({ bytes, packets }: Record<keyof Usage, bigint | null>): ChildSaSummary["limits"] {
  return { bytes: bytes?.toString() ?? null, packets: packets?.toString() ?? null };
}
