import type { QueueCounters } from "../../net/nfqueue.ts";
import type { UseCounts } from "../../sa/use.ts";
import type { WindowRule } from "../../sequence/size.ts";
import type { RefillLatency } from "./refill-clock.ts";

/** What `esplex status` shows of a node. Plain JSON: SPIs as `0x…` text, 64-bit numbers as decimal text, never a key. */
export interface NodeStatus {
  readonly daemon: "node";
  readonly node: string;
  /** True when the node does its job: coupling service reached, kernel reconciled, IKE open where it distributes. */
  readonly ready: boolean;
  /** Why it is not ready, in words; empty when it is. */
  readonly waitingFor: readonly string[];
  readonly dvipas: readonly DvipaStatus[];
  /** The targets of the DVIPAs that this node distributes. */
  readonly targets: readonly TargetStatus[];
  readonly totals: SaTotals & { readonly connections: number };
  /** Empty in the brief form, as are the connections. */
  readonly sas: readonly SaStatus[];
  readonly connections: readonly ConnectionStatus[];
  /** What the filters of this node's DVIPAs have decided; empty where there is none. */
  readonly filters: readonly FilterStatus[];
  /** The queue of packets to this node's DVIPAs; null where it distributes none. */
  readonly steeringQueue: QueueCounters | null;
  readonly counters: Readonly<Record<string, number>>;
}

export interface DvipaStatus {
  readonly address: string;
  readonly role: "distributor" | "target";
  /** The ownership epoch under which the distributor acts. */
  readonly epoch: string;
}

export interface TargetStatus {
  readonly name: string;
  readonly connected: boolean;
  /** It gets no new connections, by an operator's order. */
  readonly draining: boolean;
  /** Ports of DVIPAs on which its applications listen, as it says. */
  readonly listening: readonly { readonly dvipa: string; readonly port: number }[];
  /** Entries of the connection table that point to it. */
  readonly connections: number;
}

export interface SaTotals {
  readonly sas: number;
  /** SAs by the state of this node's lease on them; `none`: this node may not send on it yet, or no more. */
  readonly leases: Readonly<Record<string, number>>;
  /** SAs whose peer's window does not carry the nodes that send on them. */
  readonly windowRuleBroken: number;
}

export interface SaStatus {
  readonly id: string;
  readonly dvipa: string;
  /** Where it ends, if that is an address of the distributor; null: at the DVIPA. */
  readonly gateway: string | null;
  readonly peer: string;
  readonly peerName: string;
  readonly mode: "transport" | "tunnel";
  readonly suite: string;
  readonly reqid: number;
  readonly spiIn: string;
  readonly spiOut: string;
  /** Whether new packets may use the outbound half (a rekeyed SA waits for the peer). */
  readonly outbound: "now" | "hold";
  readonly lease: LeaseStatus;
  /** What this node has carried on it since its daemon started; null for an SA without a lifesize. */
  readonly use: Readonly<Record<keyof UseCounts, string>> | null;
}

export interface LeaseStatus {
  readonly state: string;
  /** Numbers `[first, end)` that this node's kernel may send; null when it holds none. */
  readonly first: string | null;
  readonly end: string | null;
  /** The next number that the kernel will send, as last heard. */
  readonly next: string | null;
  /** Kernel states made for this key by this process: more than one means that a lease ran out under traffic. */
  readonly kernelInstances: number;
  /** Whether the peer's window carries the nodes that send on the SA. */
  readonly windowRule: WindowRule;
  /** How long refills take; null while the node does not send on the SA. */
  readonly refill: RefillLatency | null;
}

/** A DVIPA's filter on this node: packets and bytes that it has looked at, since the filter was last changed. */
export interface FilterStatus {
  readonly dvipa: string;
  readonly rules: readonly RuleStatus[];
  /** What no rule matched. */
  readonly unmatched: { readonly action: "accept" | "drop"; readonly packets: number; readonly bytes: number };
  /** Dropped: the packet's addresses and ports are none that its SA was negotiated for, or nobody told of the SA. */
  readonly wrongTunnel: { readonly packets: number; readonly bytes: number };
}

export interface RuleStatus {
  readonly name: string;
  readonly action: "accept" | "drop";
  readonly log: boolean;
  readonly packets: number;
  readonly bytes: number;
}

export interface ConnectionStatus {
  readonly client: string;
  readonly clientPort: number;
  readonly dvipa: string;
  readonly port: number;
  readonly target: string;
  readonly state: string;
}
