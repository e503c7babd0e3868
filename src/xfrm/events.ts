/** What the kernel tells about states: groups AEVENTS, EXPIRE, SA and ACQUIRE of NETLINK_XFRM. */
import { Attributes, type NetlinkMessage } from "../net/netlink-message.ts";
import { NETLINK_XFRM, NetlinkSocket } from "../net/netlink-socket.ts";
import { addressFromUnion, asFamily } from "../net/inet-address.ts";
import type { ValueOf } from "../core/struct.ts";
import {
  XFRM_AE_CE,
  XFRM_AE_CR,
  XFRM_AE_CU,
  XFRM_MSG_ACQUIRE,
  XFRM_MSG_DELSA,
  XFRM_MSG_EXPIRE,
  XFRM_MSG_FLUSHSA,
  XFRM_MSG_NEWAE,
  XFRM_MSG_NEWSA,
  XFRM_MSG_UPDSA,
  XFRMA_LTIME_VAL,
  XFRMA_TMPL,
  XFRMNLGRP,
} from "./constants.ts";
import { leftOf } from "./leases.ts";
import { decodeSelector, decodeTemplate } from "./policies.ts";
import { decodeReplay } from "./replay.ts";
import type { PolicySelector } from "./selectors.ts";
import { stateFacts, type KernelState } from "./states.ts";
import {
  xfrmAeventId,
  xfrmLifetimeCur,
  xfrmUserAcquire,
  xfrmUserExpire,
  xfrmUsersaId,
  xfrmUsersaInfo,
} from "./structs.ts";

type AnyStateId = KernelState["id"];

/** Why a sequence event came: packet threshold, timer, or a NEWAE (ours or somebody's). */
export type SequenceCause = "threshold" | "timer" | "update";

/** Numbers were used, or written. Events whose `oseq` lies outside the current lease are old: ignore them. */
export interface SequenceEvent {
  readonly kind: "sequence";
  readonly cause: SequenceCause;
  readonly id: AnyStateId;
  /** Last number sent. */
  readonly oseq: bigint;
  /** Highest number received. */
  readonly seq: bigint;
  /** In a threshold event one packet behind `oseq` (measured). */
  readonly leftNumbers: bigint;
  readonly bytes: bigint;
  /** Netlink port of the writer; meaningful for `update` only, other events carry garbage there (measured). */
  readonly writerPort: number;
}

/** A limit was reached; with `hard` the state is gone. */
export interface ExpireEvent {
  readonly kind: "expired";
  readonly hard: boolean;
  readonly id: AnyStateId;
  readonly reqid: number;
  readonly bytes: bigint;
  readonly packets: bigint;
}

/** A state was added, changed (limits too: then leases are void) or deleted; `writerPort` tells ours from others'. */
export interface StateEvent {
  readonly kind: "added" | "updated" | "deleted";
  readonly id: AnyStateId;
  readonly writerPort: number;
}

/** Somebody deleted all states. */
export interface FlushEvent {
  readonly kind: "flushed";
}

/** A packet met an outbound policy without a state; the kernel asks once and then waits (`net.core.xfrm_acq_expires`). */
export interface AcquireEvent {
  readonly kind: "acquire";
  /** Of the packet. */
  readonly selector: PolicySelector;
  readonly source: string;
  readonly destination: string;
  /** Of the policy's template; 0 when it has none. */
  readonly reqid: number;
  readonly policyIndex: number;
}

export type XfrmEvent = SequenceEvent | ExpireEvent | StateEvent | FlushEvent | AcquireEvent;

export interface EventOptions {
  /** Joining ACQUIRE makes the kernel keep larval states for packets without an SA: only for who answers them. */
  readonly groups: readonly (keyof typeof XFRMNLGRP)[];
  readonly onEvent: (event: XfrmEvent) => void;
  /** Events were lost: read every state. Seen only while reading: an overrun between reads ends the process (net/README.md). */
  readonly onOverrun: () => void;
  /** An exception out of `onEvent`, or a message that is not understood. */
  readonly onFault?: (error: unknown) => void;
  readonly receiveBufferBytes?: number;
}

/** Subscribes in the current namespace; close the socket to stop. */
export function openEvents({ groups, onEvent, onOverrun, onFault, receiveBufferBytes }: EventOptions): NetlinkSocket {
  return NetlinkSocket.open(NETLINK_XFRM, {
    groups: groups.map((name) => XFRMNLGRP[name]),
    onMessage: (message) => {
      const event = decodeEvent(message);
      if (event !== null) onEvent(event);
    },
    onOverrun,
    wipe: true, // group SA carries keys
    ...(onFault === undefined ? {} : { onFault }),
    ...(receiveBufferBytes === undefined ? {} : { receiveBufferBytes }),
  });
}

/** Null for messages that are no event of ours. */
export function decodeEvent(message: NetlinkMessage): XfrmEvent | null {
  switch (message.type) {
    case XFRM_MSG_NEWAE:
      return decodeSequence(message);
    case XFRM_MSG_EXPIRE:
      return decodeExpire(message.body);
    case XFRM_MSG_NEWSA:
      return stateEvent("added", stateFacts(xfrmUsersaInfo.decode(message.body)).id, message);
    case XFRM_MSG_UPDSA:
      return stateEvent("updated", stateFacts(xfrmUsersaInfo.decode(message.body)).id, message);
    case XFRM_MSG_DELSA:
      return stateEvent("deleted", decodeId(xfrmUsersaId.decode(message.body)), message);
    case XFRM_MSG_FLUSHSA:
      return { kind: "flushed" };
    case XFRM_MSG_ACQUIRE:
      return decodeAcquire(message.body);
    default:
      return null;
  }
}

function decodeSequence({ body, port }: NetlinkMessage): SequenceEvent | null {
  const { saId, flags } = xfrmAeventId.decode(body);
  const cause = causeOf(flags);
  if (cause === null) return null;
  const attributes = new Attributes(body, xfrmAeventId.size);
  const { oseq, seq } = decodeReplay(attributes, 0);
  const { bytes, packets } = xfrmLifetimeCur.decode(attributes.bytes(XFRMA_LTIME_VAL) ?? new Uint8Array());
  return {
    kind: "sequence",
    cause,
    id: decodeId(saId),
    oseq,
    seq,
    leftNumbers: leftOf(packets),
    bytes,
    writerPort: port,
  };
}

function causeOf(flags: number): SequenceCause | null {
  if ((flags & XFRM_AE_CU) !== 0) return "update";
  if ((flags & XFRM_AE_CR) !== 0) return "threshold";
  return (flags & XFRM_AE_CE) !== 0 ? "timer" : null;
}

function decodeExpire(body: Uint8Array): ExpireEvent {
  const { state, hard } = xfrmUserExpire.decode(body);
  const { id, reqid, bytes, packets } = stateFacts(state);
  return { kind: "expired", hard: hard !== 0, id, reqid, bytes, packets };
}

function decodeAcquire(body: Uint8Array): AcquireEvent {
  const { id, saddr, sel, policy } = xfrmUserAcquire.decode(body);
  const family = asFamily(sel.family);
  const template = new Attributes(body, xfrmUserAcquire.size).bytes(XFRMA_TMPL);
  return {
    kind: "acquire",
    selector: decodeSelector(sel),
    source: addressFromUnion(saddr, family),
    destination: addressFromUnion(id.daddr, family),
    reqid: template === null ? 0 : decodeTemplate(template).reqid,
    policyIndex: policy.index,
  };
}

function stateEvent(kind: StateEvent["kind"], id: AnyStateId, { port }: NetlinkMessage): StateEvent {
  return { kind, id, writerPort: port };
}

function decodeId({ daddr, spi, family, proto }: ValueOf<typeof xfrmUsersaId>): AnyStateId {
  return { destination: addressFromUnion(daddr, asFamily(family)), spi, protocol: proto };
}
