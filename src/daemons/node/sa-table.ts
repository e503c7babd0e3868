import { EsplexError } from "../../core/errors.ts";
import type { ReceivedNumbers } from "../../sa/received-numbers.ts";
import type { SharedSa } from "../../sa/spec.ts";
import { inboundId, outboundId, returnPathOf, shadowOf } from "../../xfrm/shadow.ts";
import { stateKey, type KernelState } from "../../xfrm/states.ts";
import { WantedParts } from "../../xfrm/wanted-parts.ts";
import type { LeaseRunner } from "./lease-runner.ts";

/** Events of a parked state mean nothing; the first lease sets what fits it. */
const PARKED_THRESHOLD_PACKETS = 1;

/** Who told this node of an SA: its own IKE, or the distributor of that name. */
export type SaSource = string;
/** The source of what this node negotiated itself: no node can have this name. */
export const OWN_IKE: SaSource = "(own IKE)";

/** True for an SA that its distributor keeps for itself: a target only has its way back to that. */
export function endsAtDistributor({ source, sa }: Pick<Entry, "source" | "sa">): boolean {
  return source !== OWN_IKE && sa.gateway !== undefined;
}

/** What a source says of an SA. */
export interface KeptSa {
  readonly sa: SharedSa;
  readonly epoch: bigint;
  readonly outbound: "now" | "hold";
  /** What the nodes have authenticated of it already; absent: nothing. */
  readonly received?: ReceivedNumbers | null;
}

export interface Entry {
  readonly source: SaSource;
  /** Its peer's port may change. */
  sa: SharedSa;
  readonly epoch: bigint;
  outbound: "now" | "hold";
  /** Where it stands among the SAs that were to be sent on, in the order of that; 0: it never was. */
  turn: number;
  /** What its inbound state starts with should it have to be made. */
  readonly windowStart: { numbers: ReceivedNumbers | null };
  /** The outbound half, once it may be used. */
  runner: LeaseRunner | null;
  /** True while the kernel should have the outbound state. */
  outboundAlive: boolean;
  /** Kernel states of the outbound key that this process has made and that may send, or will with their first lease. */
  instances: number;
}

/** The SAs of a node by id and by kernel state, and what they want of the kernel. Touches nothing. */
export class SaTable {
  readonly wanted = new WantedParts();
  readonly #routesOn: (entry: Pick<Entry, "source" | "sa">) => boolean;
  readonly #entries = new Map<string, Entry>();
  /** By `stateKey` of either half. */
  readonly #byState = new Map<string, Entry>();
  #turns = 0;

  /** `routesOn`: whether this node forwards what comes through an SA. */
  constructor(routesOn: (entry: Pick<Entry, "source" | "sa">) => boolean = () => false) {
    this.#routesOn = routesOn;
  }

  get(saId: string): Entry | undefined {
    return this.#entries.get(saId);
  }

  has(saId: string): boolean {
    return this.#entries.has(saId);
  }

  /** In the order of their coming. */
  values(): IterableIterator<Entry> {
    return this.#entries.values();
  }

  ofState(id: KernelState["id"]): Entry | undefined {
    return this.#byState.get(stateKey(id));
  }

  /** Throws when the SA cannot be expressed: then it was never here. */
  enter(source: SaSource, { sa, epoch, outbound: wish, received = null }: KeptSa): Entry {
    const outbound = endsAtDistributor({ source, sa }) ? "hold" : wish;
    const isNow = outbound === "now";
    const start = { windowStart: { numbers: received }, runner: null, outboundAlive: isNow, instances: 0 };
    const entry: Entry = { source, sa, epoch, outbound, turn: isNow ? this.#nextTurn() : 0, ...start };
    if (endsAtDistributor(entry)) returnPathOf(sa);
    else this.setAlive(entry, isNow);
    this.#entries.set(sa.id, entry);
    for (const key of stateKeys(sa)) this.#byState.set(key, entry);
    return entry;
  }

  leave({ sa }: Entry): void {
    this.#entries.delete(sa.id);
    for (const key of stateKeys(sa)) this.#byState.delete(key);
    this.wanted.set(sa.id, null);
  }

  /** It is to be sent on, before those that were until now. */
  setNow(entry: Entry): void {
    entry.outbound = "now";
    entry.turn = this.#nextTurn();
  }

  /** Whether the kernel should have the outbound state. */
  setAlive(entry: Entry, isAlive: boolean): void {
    entry.outboundAlive = isAlive;
    const parked = { allowance: { kind: "parked" }, eventThresholdPackets: PARKED_THRESHOLD_PACKETS } as const;
    const routesOn = this.#routesOn(entry);
    const outbound = isAlive ? parked : null;
    this.wanted.set(entry.sa.id, shadowOf(entry.sa, { outbound, received: entry.windowStart, routesOn }));
  }

  /** What the SA leads to may be sent to its distributor in clear: there is a way back to that, and no other. */
  openReturnPath({ sa }: Entry): void {
    this.wanted.set(sa.id, returnPathOf(sa));
  }

  /** Another port of its peer. Whether there is a UDP header at all never changes. */
  movePeer(entry: Entry, peerUdpPort: number | null): void {
    if (entry.sa.peerUdpPort === peerUdpPort || entry.sa.peerUdpPort === null || peerUdpPort === null) return;
    entry.sa = { ...entry.sa, peerUdpPort };
    if (!endsAtDistributor(entry)) this.setAlive(entry, entry.outboundAlive);
  }

  /** The kernel names states by address and SPI: an SA that would take another's name is refused. */
  checkIds(sa: SharedSa): void {
    for (const key of stateKeys(sa)) {
      const other = this.#byState.get(key)?.sa;
      if (other !== undefined) throw new EsplexError("kernel.refused", "another SA has this SPI", { sa: other.id });
    }
  }

  /** The SA that a tunnel's packets leave on, of several the one whose turn came last; null when there is none. */
  sender(tunnel: number): Entry | null {
    const usable = [...this.#entries.values()].filter(({ sa, runner }) => sa.reqid === tunnel && runner !== null);
    return usable.toSorted((one, other) => one.turn - other.turn).at(-1) ?? null;
  }

  /** Outbound states that only their runner makes anew: each is a kernel instance of its key, counted before it may send. */
  isRunByRunner(key: string): boolean {
    const entry = this.#byState.get(key);
    return entry !== undefined && entry.runner !== null && key === stateKey(outboundId(entry.sa));
  }

  #nextTurn(): number {
    this.#turns += 1;
    return this.#turns;
  }
}

/** How the kernel names the two states of an SA. */
function stateKeys(sa: SharedSa): readonly string[] {
  return [stateKey(inboundId(sa)), stateKey(outboundId(sa))];
}
