/**
 * Leases in the kernel: how many numbers a node may still send on an SA, enforced by the state's packet limit.
 *
 * A state with `oseq` o and `packets` p under the limit H may send H − p more packets, and every packet adds one to
 * both, under the state's lock. So **o + H − p, the last number it can ever send, does not move while it sends**;
 * only we move it. Invariants (tests cite the numbers):
 *  1. After `install([first, end))` only numbers of [first, end) leave, each once; after them the state dies.
 *  2. `install` never takes a number that the state could have sent before: `first` > its last sendable number.
 *  3. `extend(end)` never lets the last sendable number pass end − 1, whatever is sent meanwhile.
 *  4. A write that does not show in the read that follows it deletes the state: fail closed.
 *  5. Tripwire: at every read, o + H − p is where our last write or read left it, that is, the numbers used since then equal the
 *     packets counted. Else the state is deleted.
 * They need every packet to count once: no `esp4_offload`/`esp6_offload` (see `probe.ts`), where a GSO packet counts once
 * and uses many numbers; and nobody else who writes to these states.
 */
import { EsplexError, isError } from "../core/errors.ts";
import { u32, type ValueOf } from "../core/struct.ts";
import { isErrno } from "../net/kernel-error.ts";
import { Attributes, MessageBuilder, NLM_F_REPLACE, numberBytes, type NetlinkRequest } from "../net/netlink-message.ts";
import type { NetlinkSocket } from "../net/netlink-socket.ts";
import { XFRM_AE_RTHR, XFRM_MSG_GETAE, XFRM_MSG_NEWAE, XFRMA_LTIME_VAL, XFRMA_REPLAY_THRESH } from "./constants.ts";
import { OutboundUse, type Sent } from "./outbound-use.ts";
import { decodeReplay, encodeReplay, type ReplayState } from "./replay.ts";
import {
  checkLease,
  deleteState,
  describe,
  idFields,
  LEASE_PACKET_LIMIT,
  stateKey,
  type SequenceRange,
  type StateId,
} from "./states.ts";
import { xfrmAeventId, xfrmLifetimeCur } from "./structs.ts";

/** The state of an SA that runs on leases. */
export interface LeasedState {
  readonly id: StateId;
  readonly esn: boolean;
}

/** What the kernel says about a state's numbers at one moment. */
export interface LeaseReading {
  /** Last number sent. */
  readonly oseq: bigint;
  /** Packets that the state may still send. */
  readonly leftNumbers: bigint;
  /** `oseq + leftNumbers`: does not move while the state sends. */
  readonly lastSendable: bigint;
  readonly bytes: bigint;
  readonly eventThresholdPackets: number;
}

/** What an extension came to. */
export interface ExtensionResult extends LeaseReading {
  /**
   * Numbers below the new end that the state cannot reach yet. They are not lost: the kernel takes a new credit in
   * exchange for the rest of the old one, and the next `extend` adds what this one left out.
   */
  readonly pendingNumbers: bigint;
}

interface RawReading extends LeaseReading {
  readonly replay: ReplayState;
  readonly lifetime: ValueOf<typeof xfrmLifetimeCur>;
}

/** Reads and writes leases; work on one state runs in the order of the calls. Keep one for the life of the daemon. */
export class Leases {
  readonly #xfrm: NetlinkSocket;
  readonly #tails = new Map<string, Promise<unknown>>();
  /** `lastSendable` as our last write or read left it, by state (invariant 5). */
  readonly #expected = new Map<string, bigint>();
  /** By state, over all its lives. */
  readonly #use = new Map<string, OutboundUse>();
  readonly #nowMs: () => number;

  constructor(xfrm: NetlinkSocket, nowMs: () => number = () => performance.now()) {
    this.#xfrm = xfrm;
    this.#nowMs = nowMs;
  }

  /** What the SA has sent here since it was first read. */
  sent(id: StateId): Sent {
    return (this.#use.get(stateKey(id)) ?? new OutboundUse()).sent;
  }

  /**
   * Runs `add`, which adds the state, born with this lease; throws as it does. In its turn: a reading from before that finds no
   * state must not take this one for dead, with all its numbers used.
   */
  async add(id: StateId, { first, end }: SequenceRange, add: () => Promise<void>): Promise<void> {
    return this.#inOrder(id, async () => {
      this.forget(id);
      const bornMs = this.#nowMs();
      await add();
      this.#useOf(id).born(first, end, bornMs);
    });
  }

  /** The kernel says that the state has died at its limit, after so many bytes. */
  died(id: StateId, bytes: bigint): void {
    this.#use.get(stateKey(id))?.ended(bytes);
  }

  /** The SA is gone: nothing is known of it any more. */
  drop(id: StateId): void {
    this.forget(id);
    this.#use.delete(stateKey(id));
  }

  /** The state is taken out of the kernel: what it might still have sent since it was read last does not count. */
  retire(id: StateId): void {
    this.forget(id);
    this.#use.get(stateKey(id))?.retired();
  }

  /** Null when the state is gone. Throws `kernel.offload` (see `lastUsableOf`) when the tripwire has deleted it. */
  async read(id: StateId): Promise<LeaseReading | null> {
    return this.#inOrder(id, async () => {
      try {
        return publicPart(await this.#look(id));
      } catch (error) {
        if (!isErrno(error, "ESRCH")) throw error;
        this.forget(id);
        this.#use.get(stateKey(id))?.ended(null);
        return null;
      }
    });
  }

  /** The state is gone for good, or is about to be made anew: what is read next is not compared with what was. */
  forget(id: StateId): void {
    this.#expected.delete(stateKey(id));
  }

  /**
   * Replaces what the state may send by `range`, in one NEWAE; what was left of the lease before is burnt. ESRCH when
   * the state is gone, EINVAL when the range is impossible or not above everything the state could send (invariant 2).
   */
  async install(state: LeasedState, range: SequenceRange, eventThresholdPackets?: number): Promise<LeaseReading> {
    const { id } = state;
    checkLease(range, state.esn);
    return this.#inOrder(id, async () => {
      const before = await this.#look(id);
      if (range.first <= before.lastSendable) throw overlap(id, range, before);
      const builder = this.#aevent(id)
        .attribute(...encodeReplay({ ...before.replay, oseq: range.first - 1n }))
        .attribute(XFRMA_LTIME_VAL, lifetimeWithLeft(before, range.end - range.first));
      if (eventThresholdPackets !== undefined) {
        builder.attribute(XFRMA_REPLAY_THRESH, numberBytes(u32, eventThresholdPackets));
      }
      const after = await this.#write(id, builder, "install lease");
      this.#useOf(id).installed(range.first, after, this.#nowMs());
      const inRange = after.oseq >= range.first - 1n && after.lastSendable === range.end - 1n;
      if (!inRange) await this.#failClosed(id, before, after, range);
      return publicPart(after);
    });
  }

  /**
   * Moves the end of the running lease up to `end`: the numbers in between must be the node's own and contiguous. Only
   * the credit is written, so nothing is burnt.
   *
   * Why the kernel cannot pass end − 1 (invariant 3): let (o, p) be what is read and L = o + H − p the last sendable
   * number. Whatever is sent before the write takes effect, oseq is then some o' ≤ L. The write sets the credit to
   * c = (end − 1) − L, so the last sendable number becomes o' + c ≤ L + c = end − 1. (Writing end − 1 − o would let it
   * pass by the o' − o packets that were sent in between.) The L − o' numbers that the old credit still held come back
   * with the next extension, because L is read anew. Where c would be less than what is left now, nothing is written.
   *
   * `eventThreshold` gives the packets between two sequence events from now on, for what was read; null leaves them.
   */
  async extend(
    state: LeasedState,
    end: bigint,
    eventThreshold: (before: LeaseReading) => number | null = () => null,
  ): Promise<ExtensionResult> {
    const { id } = state;
    return this.#inOrder(id, async () => {
      const before = await this.#look(id);
      const credit = end - 1n - before.lastSendable;
      if (credit <= before.leftNumbers) return { ...publicPart(before), pendingNumbers: credit > 0n ? credit : 0n };
      checkLease({ first: before.lastSendable + 1n, end }, state.esn);
      const builder = this.#aevent(id).attribute(XFRMA_LTIME_VAL, lifetimeWithLeft(before, credit));
      const threshold = eventThreshold(publicPart(before));
      if (threshold !== null) builder.attribute(XFRMA_REPLAY_THRESH, numberBytes(u32, threshold));
      const after = await this.#write(id, builder, "extend lease");
      this.#useOf(id).credited(credit, after, this.#nowMs());
      const inRange = after.lastSendable < end && after.lastSendable >= before.oseq + credit;
      if (!inRange) await this.#failClosed(id, before, after, { first: before.oseq + 1n, end });
      return { ...publicPart(after), pendingNumbers: end - 1n - after.lastSendable };
    });
  }

  /** Takes away what the state may still send. The next packet kills it: park only what is not in use. */
  async park(id: StateId): Promise<LeaseReading> {
    return this.#inOrder(id, async () => {
      const before = await this.#look(id);
      const builder = this.#aevent(id).attribute(XFRMA_LTIME_VAL, lifetimeWithLeft(before, 0n));
      const after = await this.#write(id, builder, "park");
      this.#useOf(id).credited(0n, after, this.#nowMs());
      if (after.leftNumbers !== 0n || after.oseq > before.lastSendable) await this.#failClosed(id, before, after, null);
      return publicPart(after);
    });
  }

  /** Sequence events after every `packets` packets from now on; 0 for none. */
  async setThreshold(id: StateId, packets: number): Promise<void> {
    const builder = this.#aevent(id).attribute(XFRMA_REPLAY_THRESH, numberBytes(u32, packets));
    await this.#xfrm.request(builder.request(XFRM_MSG_NEWAE, NLM_F_REPLACE, `set event threshold of ${describe(id)}`));
  }

  #aevent(id: StateId, flags = 0): MessageBuilder {
    const zeros = xfrmAeventId.decode(new Uint8Array(xfrmAeventId.size));
    return new MessageBuilder(1024).head(xfrmAeventId.encode({ ...zeros, saId: idFields(id), flags }));
  }

  async #read(id: StateId): Promise<RawReading> {
    return this.#xfrm.get(this.#readRequest(id), (message) => decodeReading(message.body));
  }

  /** A reading that has passed the tripwire (invariant 5). */
  async #look(id: StateId): Promise<RawReading> {
    const reading = await this.#read(id);
    const expected = this.#expected.get(stateKey(id));
    if (expected !== undefined && reading.lastSendable !== expected) {
      await this.#failClosed(id, { lastSendable: expected }, publicPart(reading), null);
    }
    this.#expected.set(stateKey(id), reading.lastSendable);
    this.#useOf(id).looked(reading, this.#nowMs());
    return reading;
  }

  #useOf(id: StateId): OutboundUse {
    const key = stateKey(id);
    const known = this.#use.get(key) ?? new OutboundUse();
    this.#use.set(key, known);
    return known;
  }

  /** Write and read travel in one datagram: packets may go out in between, other writers cannot come in between. */
  async #write(id: StateId, builder: MessageBuilder, verb: string): Promise<RawReading> {
    const write = builder.request(XFRM_MSG_NEWAE, NLM_F_REPLACE, `${verb} of ${describe(id)}`);
    const after = await this.#xfrm.requestThenGet(write, this.#readRequest(id), ({ body }) => decodeReading(body));
    this.#expected.set(stateKey(id), after.lastSendable);
    return after;
  }

  #readRequest(id: StateId): NetlinkRequest {
    return this.#aevent(id, XFRM_AE_RTHR).request(XFRM_MSG_GETAE, 0, `read numbers of ${describe(id)}`);
  }

  /** Invariants 4 and 5. The numbers of both readings and of the range count as burnt. */
  async #failClosed(
    id: StateId,
    before: Pick<LeaseReading, "lastSendable">,
    after: LeaseReading,
    range: SequenceRange | null,
  ): Promise<never> {
    this.forget(id);
    this.#use.get(stateKey(id))?.ended(null);
    try {
      await deleteState(this.#xfrm, id);
    } catch (error) {
      if (!isErrno(error, "ESRCH")) throw error;
    }
    const lastUsable = before.lastSendable > after.lastSendable ? before.lastSendable : after.lastSendable;
    const facts = { range, lastUsable, expected: before.lastSendable, oseq: after.oseq, found: after.lastSendable };
    throw new EsplexError("kernel.offload", `${describe(id)} does not count one number per packet: deleted`, facts);
  }

  async #inOrder<T>(id: StateId, work: () => Promise<T>): Promise<T> {
    const key = stateKey(id);
    const run = (this.#tails.get(key) ?? Promise.resolve()).then(work);
    const tail = run.then(
      () => {},
      () => {},
    );
    this.#tails.set(key, tail);
    try {
      return await run;
    } finally {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }
}

/** The highest number that a state which the tripwire deleted may have used; null for any other error. */
export function lastUsableOf(error: unknown): bigint | null {
  const lastUsable = isError(error, "kernel.offload") ? error.details["lastUsable"] : null;
  return typeof lastUsable === "bigint" ? lastUsable : null;
}

/** What is left under the packet limit; nothing when the limit is passed. */
export function leftOf(packets: bigint): bigint {
  return packets >= LEASE_PACKET_LIMIT ? 0n : LEASE_PACKET_LIMIT - packets;
}

function decodeReading(body: Uint8Array): RawReading {
  const attributes = new Attributes(body, xfrmAeventId.size);
  const replay = decodeReplay(attributes, 0);
  const lifetime = xfrmLifetimeCur.decode(attributes.bytes(XFRMA_LTIME_VAL) ?? new Uint8Array());
  const leftNumbers = leftOf(lifetime.packets);
  return {
    oseq: replay.oseq,
    leftNumbers,
    lastSendable: replay.oseq + leftNumbers,
    bytes: lifetime.bytes,
    eventThresholdPackets: attributes.number(XFRMA_REPLAY_THRESH, u32) ?? 0,
    replay,
    lifetime,
  };
}

/** The other members are written back as read: the kernel takes all of them, and time 0 would expire the state. */
function lifetimeWithLeft({ lifetime }: RawReading, left: bigint): Uint8Array {
  return xfrmLifetimeCur.encode({ ...lifetime, packets: LEASE_PACKET_LIMIT - left });
}

function publicPart({ oseq, leftNumbers, lastSendable, bytes, eventThresholdPackets }: RawReading): LeaseReading {
  return { oseq, leftNumbers, lastSendable, bytes, eventThresholdPackets };
}

function overlap(id: StateId, { first, end }: SequenceRange, { lastSendable }: LeaseReading): EsplexError {
  const what = `lease [${first}, ${end}) of ${describe(id)} starts below ${lastSendable + 1n}, which it may have sent`;
  return new EsplexError("kernel.refused", what, { code: "EINVAL", first, end, lastSendable });
}
