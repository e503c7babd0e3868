/**
 * Security associations in the kernel, as `ip xfrm state` shows them.
 *
 * No `XFRMA_SA_DIR`: kernels before 6.10 ignore it, those that know it forbid an output state a replay window, which
 * ESN needs on the others. Directions are kept apart by address and SPI, so nothing is gained by two geometries.
 */
import { EsplexError } from "../core/errors.ts";
import { u32, type ValueOf } from "../core/struct.ts";
import { isErrno } from "../net/kernel-error.ts";
import { AF_INET, AF_INET6, addressFromUnion, addressUnion, asFamily, familyOf } from "../net/inet-address.ts";
import { Attributes, MessageBuilder, type NetlinkRequest } from "../net/netlink-message.ts";
import type { NetlinkSocket } from "../net/netlink-socket.ts";
import type { ReceivedNumbers } from "../sa/received-numbers.ts";
import { appendAlgorithms, decodeAlgorithms, type KeyedSuite } from "./algorithms.ts";
import {
  IPPROTO_AH,
  type IPPROTO_ESP,
  REPLAY_WINDOW_MAX_PACKETS,
  UDP_ENCAP_ESPINUDP,
  XFRM_MODE_TRANSPORT,
  XFRM_MODE_TUNNEL,
  XFRM_MSG_ALLOCSPI,
  XFRM_MSG_DELSA,
  XFRM_MSG_GETSA,
  XFRM_MSG_NEWSA,
  XFRM_MSG_UPDSA,
  XFRM_STATE_AF_UNSPEC,
  XFRM_STATE_ALIGN4,
  XFRM_STATE_ESN,
  XFRMA_ENCAP,
  XFRMA_ETIMER_THRESH,
  XFRMA_LASTUSED,
  XFRMA_LTIME_VAL,
  XFRMA_REPLAY_THRESH,
} from "./constants.ts";
import { decodeReplay, encodeReplay, freshReplay, type ReplayState } from "./replay.ts";
import {
  UNLIMITED,
  xfrmEncapTmpl,
  xfrmLastused,
  xfrmLifetimeCur,
  xfrmUsersaId,
  xfrmUsersaInfo,
  xfrmUserspiInfo,
} from "./structs.ts";

/**
 * The packet limit of every state that runs on leases. The same constant everywhere: a lease of n packets is
 * `packets = H - n`, so another H would silently change what is left.
 */
export const LEASE_PACKET_LIMIT = 2n ** 32n;

/** What a NEWSA message with the largest window and keys takes, in bytes. */
const NEW_STATE_BYTES = 1280;

/** The IP protocol number of a state. */
export type StateProtocol = typeof IPPROTO_ESP | typeof IPPROTO_AH;

/** Names a state: the kernel looks it up by these three. */
export interface StateId {
  readonly destination: string;
  readonly spi: number;
  readonly protocol: StateProtocol;
}

/** Numbers that a node may send on an SA: half-open. */
export interface SequenceRange {
  readonly first: bigint;
  readonly end: bigint;
}

/** What a state may send when it is born: nothing (`parked`), a lease, or as it likes (inbound states, foreign use). */
export type Allowance =
  | { readonly kind: "unlimited" }
  | { readonly kind: "parked" }
  | { readonly kind: "lease"; readonly range: SequenceRange };

/** The UDP header that ESP packets of a state get (RFC 3948 §2.1). */
export interface UdpEncapsulation {
  readonly sourcePort: number;
  readonly destinationPort: number;
}

/** A state as we want it. */
export interface StateSpec extends KeyedSuite {
  readonly id: StateId;
  readonly source: string;
  readonly mode: "transport" | "tunnel";
  readonly reqid: number;
  readonly esn: boolean;
  readonly replayWindowPackets: number;
  /** What counts as received when the state is made, as it is then; absent: nothing. */
  readonly received?: { readonly numbers: ReceivedNumbers | null } | undefined;
  /** Null: in IP itself. A state that receives has none: the UDP header is stripped before a kernel sees the packet. */
  readonly encapsulation: UdpEncapsulation | null;
  readonly allowance: Allowance;
  /** Sequence events after this many packets; 0 for none. */
  readonly eventThresholdPackets: number;
}

/** Why the kernel dropped packets on this state. */
export interface StateDrops {
  /** Older than the window. */
  readonly replayWindow: number;
  /** Seen before. */
  readonly replay: number;
  readonly integrity: number;
}

/** A state as the kernel has it. */
export interface KernelState {
  readonly id: Omit<StateId, "protocol"> & { readonly protocol: number };
  readonly source: string;
  readonly mode: "transport" | "tunnel" | "other";
  readonly reqid: number;
  readonly esn: boolean;
  readonly replay: ReplayState;
  /** `other`: of a kind that is not ours. */
  readonly encapsulation: UdpEncapsulation | "other" | null;
  readonly bytes: bigint;
  /** On a state that runs on leases this is `LEASE_PACKET_LIMIT` minus what is left. */
  readonly packets: bigint;
  readonly hardPacketLimit: bigint;
  readonly addTimeSeconds: bigint;
  readonly useTimeSeconds: bigint;
  /** Seconds since 1970 of the last packet; null when there was none, or on old kernels. */
  readonly lastUsedSeconds: bigint | null;
  readonly drops: StateDrops;
}

/** With its keys, for comparing: null when the algorithms are not ours. Wipe them when done. */
export interface KeyedKernelState extends KernelState {
  readonly keyed: KeyedSuite | null;
}

/** Equivalent to `ip xfrm state add`. EEXIST when it is there. Callers outside `xfrm/` use the reconciler. */
export async function addState(xfrm: NetlinkSocket, spec: StateSpec): Promise<void> {
  await xfrm.request(newStateRequest(spec));
}

/** ESRCH when it is not there. */
export async function deleteState(xfrm: NetlinkSocket, id: KernelState["id"]): Promise<void> {
  await xfrm.request(deleteStateRequest(id));
}

/** Null when it is not there. */
export async function getState(xfrm: NetlinkSocket, id: KernelState["id"]): Promise<KernelState | null> {
  try {
    return await xfrm.get(getStateRequest(id), (message) => decodeState(message.body));
  } catch (error) {
    if (isErrno(error, "ESRCH")) return null;
    throw error;
  }
}

/** Equivalent to `ip xfrm state list`, larval ones (SPI 0) included. */
export async function listStates(xfrm: NetlinkSocket): Promise<KernelState[]> {
  const build = (): NetlinkRequest => new MessageBuilder().request(XFRM_MSG_GETSA, 0, "list states");
  return xfrm.dump(build, (message) => decodeState(message.body));
}

/** The same with keys, for the reconciler: `wipeKeys` afterwards. */
export async function listKeyedStates(xfrm: NetlinkSocket): Promise<KeyedKernelState[]> {
  const build = (): NetlinkRequest => new MessageBuilder().request(XFRM_MSG_GETSA, 0, "list states");
  return xfrm.dump(build, ({ body }) => decodeKeyedState(body));
}

/** A state as `listKeyedStates` and the answer to `getStateRequest` have it. Null for other families. */
export function decodeKeyedState(body: Uint8Array): KeyedKernelState | null {
  const state = decodeState(body);
  return state === null ? null : { ...state, keyed: decodeAlgorithms(new Attributes(body, xfrmUsersaInfo.size)) };
}

export function wipeKeys(states: readonly KeyedKernelState[]): void {
  for (const { keyed } of states) {
    keyed?.encryptionKey.wipe();
    keyed?.integrityKey?.wipe();
  }
}

/** The NEWSA message: holds key bytes, to be sent on a socket that wipes. */
export function newStateRequest(spec: StateSpec, nowSeconds = BigInt(Math.floor(Date.now() / 1000))): NetlinkRequest {
  checkSpec(spec);
  const { id, esn, replayWindowPackets, received, encapsulation, allowance, eventThresholdPackets } = spec;
  const lastUsed = allowance.kind === "lease" ? allowance.range.first - 1n : 0n;
  const replay = freshReplay(esn, replayWindowPackets, lastUsed, received?.numbers);
  const builder = new MessageBuilder(NEW_STATE_BYTES);
  builder.headOf(xfrmUsersaInfo, infoOf(spec, replay.isLegacy ? replayWindowPackets : 0));
  appendAlgorithms(builder, spec);
  builder
    .attribute(...encodeReplay(replay))
    .attributeNumber(XFRMA_REPLAY_THRESH, u32, eventThresholdPackets)
    .attributeNumber(XFRMA_ETIMER_THRESH, u32, 0);
  if (encapsulation !== null) builder.attributeOf(XFRMA_ENCAP, xfrmEncapTmpl, templateOf(encapsulation));
  if (allowance.kind !== "unlimited") {
    const credit = allowance.kind === "lease" ? allowance.range.end - allowance.range.first : 0n;
    const packets = LEASE_PACKET_LIMIT - credit;
    builder.attributeOf(XFRMA_LTIME_VAL, xfrmLifetimeCur, { packets, addTime: nowSeconds });
  }
  return builder.request(XFRM_MSG_NEWSA, 0, `add ${describe(id)}`);
}

/**
 * Changes the ports of a state that is there, and nothing else (`xfrm_state_update`): numbers, window and what has been used stay;
 * the limits are written anew, with the same values. A state that has used up its packets expires by it, as it would with its
 * next one. Holds key bytes.
 */
export function movePortsRequest(spec: StateSpec): NetlinkRequest {
  checkSpec(spec);
  const { id, encapsulation } = spec;
  const builder = new MessageBuilder(NEW_STATE_BYTES);
  builder.headOf(xfrmUsersaInfo, infoOf(spec, 0));
  appendAlgorithms(builder, spec);
  const replay = freshReplay(spec.esn, spec.replayWindowPackets, 0n);
  builder.attribute(...encodeReplay(replay));
  if (encapsulation !== null) builder.attributeOf(XFRMA_ENCAP, xfrmEncapTmpl, templateOf(encapsulation));
  return builder.request(XFRM_MSG_UPDSA, 0, `change ports of ${describe(id)}`);
}

function templateOf(encapsulation: UdpEncapsulation): Partial<ValueOf<typeof xfrmEncapTmpl>> {
  return { type: UDP_ENCAP_ESPINUDP, ...encapsulation };
}

/** The answer is the state with its keys: for a socket that wipes. */
export function getStateRequest(id: KernelState["id"]): NetlinkRequest {
  return new MessageBuilder().headOf(xfrmUsersaId, idFields(id)).request(XFRM_MSG_GETSA, 0, `read ${describe(id)}`);
}

export function deleteStateRequest(id: KernelState["id"]): NetlinkRequest {
  return new MessageBuilder().headOf(xfrmUsersaId, idFields(id)).request(XFRM_MSG_DELSA, 0, `delete ${describe(id)}`);
}

/**
 * Gives a larval state (SPI 0: the kernel waits for a negotiation) an SPI, so that it can be deleted: it cannot be
 * named otherwise, and flushing would take everybody's states.
 */
export function nameLarvalRequest(state: KernelState, spi: number): NetlinkRequest {
  const family = familyOf(state.id.destination);
  const head = xfrmUserspiInfo.encode({
    info: {
      ...BLANK_INFO,
      family,
      id: { daddr: addressUnion(state.id.destination), spi: 0, proto: state.id.protocol },
      saddr: addressUnion(state.source),
      reqid: state.reqid,
      mode: state.mode === "tunnel" ? XFRM_MODE_TUNNEL : XFRM_MODE_TRANSPORT,
    },
    min: spi,
    max: spi,
  });
  return new MessageBuilder().head(head).request(XFRM_MSG_ALLOCSPI, 0, `name larval ${describe(state.id)}`);
}

/** `struct xfrm_usersa_info` with attributes, as in a dump or a group SA notification. Null for other families. */
export function decodeState(body: Uint8Array): KernelState | null {
  const info = xfrmUsersaInfo.decode(body);
  if (info.family !== AF_INET && info.family !== AF_INET6) return null;
  const attributes = new Attributes(body, xfrmUsersaInfo.size);
  const lastUsed = attributes.bytes(XFRMA_LASTUSED);
  return {
    ...stateFacts(info),
    replay: decodeReplay(attributes, info.replayWindow),
    encapsulation: decodeEncapsulation(attributes.bytes(XFRMA_ENCAP)),
    lastUsedSeconds: lastUsed === null ? null : xfrmLastused.decode(lastUsed).seconds,
  };
}

type Info = ValueOf<typeof xfrmUsersaInfo>;
const BLANK_INFO: Info = {
  ...xfrmUsersaInfo.decode(new Uint8Array(xfrmUsersaInfo.size)),
  lft: UNLIMITED,
};
type StateFacts = Omit<KernelState, "replay" | "lastUsedSeconds" | "encapsulation">;

function decodeEncapsulation(bytes: Uint8Array | null): KernelState["encapsulation"] {
  if (bytes === null) return null;
  const { type, sourcePort, destinationPort } = xfrmEncapTmpl.decode(bytes);
  return type === UDP_ENCAP_ESPINUDP ? { sourcePort, destinationPort } : "other";
}

/** The fixed part of a state: also in expire events. */
export function stateFacts(info: Info): StateFacts {
  const family = asFamily(info.family);
  const { curlft, stats } = info;
  return {
    id: { destination: addressFromUnion(info.id.daddr, family), spi: info.id.spi, protocol: info.id.proto },
    source: addressFromUnion(info.saddr, family),
    mode: info.mode === XFRM_MODE_TUNNEL ? "tunnel" : info.mode === XFRM_MODE_TRANSPORT ? "transport" : "other",
    reqid: info.reqid,
    esn: (info.flags & XFRM_STATE_ESN) !== 0,
    bytes: curlft.bytes,
    packets: curlft.packets,
    hardPacketLimit: info.lft.hardPackets,
    addTimeSeconds: curlft.addTime,
    useTimeSeconds: curlft.useTime,
    drops: { replayWindow: stats.replayWindow, replay: stats.replay, integrity: stats.integrityFailed },
  };
}

/** For messages: which state, never a key. */
export function describe({ destination, spi }: Pick<StateId, "destination" | "spi">): string {
  return `state ${destination}/0x${spi.toString(16).padStart(8, "0")}`;
}

/** One text per (destination, SPI, protocol). */
export function stateKey(id: KernelState["id"]): string {
  return `${id.destination}/${id.spi}/${id.protocol}`;
}

export function idFields({ destination, spi, protocol }: KernelState["id"]): ValueOf<typeof xfrmUsersaId> {
  return { daddr: addressUnion(destination), spi, family: familyOf(destination), proto: protocol };
}

function infoOf(spec: StateSpec, legacyWindow: number): Partial<Info> {
  const { id, source, reqid, mode, esn, allowance } = spec;
  const tunnelFlag = mode === "tunnel" ? XFRM_STATE_AF_UNSPEC : 0;
  const family = familyOf(id.destination);
  // RFC 4302 §2.6: the header is padded to 4 bytes in IPv4. Without the flag the kernel takes 8 there as well (net/ipv4/ah4.c).
  const alignFlag = id.protocol === IPPROTO_AH && family === AF_INET ? XFRM_STATE_ALIGN4 : 0;
  return {
    id: { daddr: addressUnion(id.destination), spi: id.spi, proto: id.protocol },
    saddr: addressUnion(source),
    lft: allowance.kind === "unlimited" ? UNLIMITED : { ...UNLIMITED, hardPackets: LEASE_PACKET_LIMIT },
    family,
    reqid,
    mode: mode === "tunnel" ? XFRM_MODE_TUNNEL : XFRM_MODE_TRANSPORT,
    replayWindow: legacyWindow,
    flags: tunnelFlag | alignFlag | (esn ? XFRM_STATE_ESN : 0),
  };
}

function checkSpec({ id, esn, replayWindowPackets: window, allowance }: StateSpec): void {
  const where = describe(id);
  const isWindow = Number.isInteger(window) && window >= 0 && window <= REPLAY_WINDOW_MAX_PACKETS;
  if (!isWindow || (esn && window === 0)) {
    throw new EsplexError("kernel.refused", `${where}: replay window ${window} is not possible`, { code: "EINVAL" });
  }
  if (!Number.isInteger(id.spi) || id.spi < 256 || id.spi > 0xffffffff) {
    throw new EsplexError("kernel.refused", `${where}: SPI below 256 (RFC 4303 §2.1, RFC 4302 §2.4)`, {
      code: "EINVAL",
    });
  }
  if (allowance.kind === "lease") checkLease(allowance.range, esn);
}

/** Numbers start at 1 and end with the field (RFC 4303 §2.2); a lease fits the packet limit. */
export function checkLease({ first, end }: SequenceRange, esn: boolean): void {
  const space = esn ? 2n ** 64n : 2n ** 32n;
  if (first < 1n || end <= first || end > space || end - first > LEASE_PACKET_LIMIT) {
    throw new EsplexError("kernel.refused", `lease [${first}, ${end}) is not possible`, { code: "EINVAL", first, end });
  }
}
