import type { QueueCounters } from "../../net/nfqueue.ts";
import {
  ICMP_DROPS,
  OTHER_DROPS,
  RULESET_DROPS,
  STEERING_DROPS,
  XFRM_DROPS,
  type Explanation,
} from "./drop-reasons.ts";
import type { FilterStatus } from "./status.ts";

/** What a node knows of dropped packets. */
export interface DropSources {
  readonly counters: Readonly<Record<string, number>>;
  /** Null where nothing is steered. */
  readonly queue: QueueCounters | null;
  readonly filters: readonly FilterStatus[];
  /** Of the host's rulesets, by `TABLE.COUNTER`. */
  readonly rulesets: ReadonlyMap<string, number>;
  /** The kernel's, by its names. */
  readonly xfrm: ReadonlyMap<string, number>;
}

/** Packets that were dropped for one reason. */
export interface Drop extends Explanation {
  readonly counter: string;
  readonly packets: number;
}

const UNEXPLAINED: Explanation = { why: "this version has no words for it", advice: "see docs/operations.md" };
/** Counters with a table of reasons, by what they begin with. */
const REASONS: readonly { readonly prefix: string; readonly table: Readonly<Record<string, Explanation>> }[] = [
  { prefix: "steer.drop.", table: STEERING_DROPS },
  { prefix: "icmp.drop.", table: ICMP_DROPS },
];

/**
 * All of it, most packets first: since the daemon started, of filters and rulesets since they were last changed, the kernel's since the
 * host started.
 */
export function explainDrops({ counters, queue, filters, rulesets, xfrm }: DropSources): readonly Drop[] {
  const drops = [
    ...Object.entries(counters).flatMap(([counter, packets]) => counterDrop(counter, packets)),
    ...(queue === null ? [] : queueDrops(queue)),
    ...filters.flatMap(filterDrops),
    ...named(rulesets, RULESET_DROPS),
    ...named(xfrm, XFRM_DROPS),
  ];
  return drops.filter(({ packets }) => packets > 0).sort((a, b) => b.packets - a.packets);
}

function named(counters: ReadonlyMap<string, number>, table: Readonly<Record<string, Explanation>>): Drop[] {
  return [...counters].map(([counter, packets]) => ({ counter, packets, ...(table[counter] ?? UNEXPLAINED) }));
}

function counterDrop(counter: string, packets: number): Drop[] {
  const known = OTHER_DROPS[counter];
  if (known !== undefined) return [{ counter, packets, ...known }];
  if (!/\.drop\./.test(counter)) return [];
  const reasons = REASONS.find(({ prefix }) => counter.startsWith(prefix));
  const explanation = reasons?.table[counter.slice(reasons.prefix.length)];
  return [{ counter, packets, ...(explanation ?? UNEXPLAINED) }];
}

function queueDrops({ droppedFull, droppedOverrun }: QueueCounters): Drop[] {
  const { advice } = STEERING_DROPS.queueOverrun;
  return [
    { counter: "steeringQueue.droppedFull", packets: droppedFull, why: "the queue to the daemon was full", advice },
    { counter: "steeringQueue.droppedOverrun", packets: droppedOverrun, why: "the daemon's socket was full", advice },
  ];
}

function filterDrops({ dvipa, rules, unmatched, wrongTunnel }: FilterStatus): Drop[] {
  const asked = "that is what the cluster file says: `dvipas[].filter`";
  return [
    ...rules.flatMap(({ name, action, packets }) =>
      action === "drop"
        ? [{ counter: `filter.${dvipa}.${name}`, packets, why: `the rule ${name} drops it`, advice: asked }]
        : [],
    ),
    ...(unmatched.action === "drop"
      ? [
          {
            counter: `filter.${dvipa}`,
            packets: unmatched.packets,
            why: "no rule matched, and the policy is drop",
            advice: asked,
          },
        ]
      : []),
    {
      ...{ counter: `filter.${dvipa}.tunnelCheck`, packets: wrongTunnel.packets },
      why: "its addresses and ports are none that its SA was negotiated for",
      advice: "a peer uses an SA for something else; the node's log names it",
    },
  ];
}
