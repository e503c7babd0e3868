/** Runs src/net inside a namespace for the tests. */
import { addAddress, deleteAddress, listAddresses, listOurAddresses } from "../../../src/net/addresses.ts";
import type { AddressFamily } from "../../../src/net/inet-address.ts";
import { linkByName, linkOwning, listLinks } from "../../../src/net/links.ts";
import { NETLINK_ROUTE, NetlinkSocket } from "../../../src/net/netlink-socket.ts";
import { openQueue, type PacketQueue } from "../../../src/net/nfqueue.ts";
import { applyRuleset, deleteTable, listTable } from "../../../src/net/nftables.ts";
import { addRoute, deleteRoute, listOurRoutes, replaceRoute, type Route } from "../../../src/net/routes.ts";
import {
  addRule,
  deleteRule,
  listOurRules,
  listRules,
  moveLocalRuleBack,
  moveLocalRuleBehindSteering,
  type RoutingRule,
} from "../../../src/net/rules.ts";
import { readSysctl, SysctlJournal } from "../../../src/net/sysctl.ts";
import { push, serve } from "../support/serve.ts";

type NewAddress = Parameters<typeof addAddress>[1];
/** What the queue's worker answers to packet number n: `verdicts[n % length]`, in the order of `order`. */
export interface QueuePlan {
  readonly number: number;
  readonly copyRangeBytes: number;
  readonly maxLength: number;
  readonly mark: number | null;
  readonly verdict: "accept" | "drop" | "throw" | "none";
  /** Answer only when this many wait, the last one first. */
  readonly holdBack: number;
  /** How long each packet keeps the worker's event loop. */
  readonly busyMs: number;
}

const route = NetlinkSocket.open(NETLINK_ROUTE);
const journal = new SysctlJournal();
let queue: PacketQueue | null = null;
let queued = 0;
/** Packets that came in this turn of the event loop, and most in any. */
const turn = { packets: 0, most: 0 };

const handlers = {
  links: () => listLinks(route),
  linkByName: (name: string) => linkByName(route, name),
  linkOwning: (address: string) => linkOwning(route, address),
  addresses: () => listAddresses(route),
  ourAddresses: () => listOurAddresses(route),
  addAddress: (entry: NewAddress) => addAddress(route, entry),
  deleteAddress: (entry: NewAddress) => deleteAddress(route, entry),
  rules: (family: AddressFamily) => listRules(route, family),
  ourRules: (family: AddressFamily) => listOurRules(route, family),
  addRule: (rule: RoutingRule) => addRule(route, rule),
  deleteRule: (rule: RoutingRule) => deleteRule(route, rule),
  moveLocalRule: (family: AddressFamily) => moveLocalRuleBehindSteering(route, family),
  moveLocalRuleBack: (family: AddressFamily) => moveLocalRuleBack(route, family),
  addRoute: (entry: Route) => addRoute(route, entry),
  replaceRoute: (entry: Route) => replaceRoute(route, entry),
  deleteRoute: (entry: Route) => deleteRoute(route, entry),
  ourRoutes: (family: AddressFamily) => listOurRoutes(route, family),
  readSysctl: (name: readonly string[]) => readSysctl(name),
  setSysctl: ({ name, value }: { name: readonly string[]; value: string }) => journal.set(name, value),
  restoreSysctls: () => journal.restore(),
  applyRuleset: (text: string) => applyRuleset(text),
  deleteTable: (name: string) => deleteTable("inet", name),
  listTable: (name: string) => listTable("inet", name),
  openQueue: async (plan: QueuePlan) => {
    queue = await openQueue(queueOptions(plan));
  },
  queued: () => queued,
  mostInATurn: () => turn.most,
  queueCounters: () => queue?.counters() ?? null,
  closeQueue: () => queue?.close(),
};

export type NetHandlers = typeof handlers;
serve(handlers);

function queueOptions(plan: QueuePlan): Parameters<typeof openQueue>[0] {
  const held: number[] = [];
  const decide = (id: number): void => {
    if (plan.verdict !== "accept" && plan.verdict !== "drop") return;
    queue?.verdict(id, plan.verdict, plan.mark === null ? {} : { mark: plan.mark });
  };
  return {
    ...plan,
    onPacket: (packet) => {
      if (++queued <= 10) push({ kind: "packet", ...packet, payload: new Uint8Array(packet.payload) });
      countTurn();
      for (const untilMs = performance.now() + plan.busyMs; performance.now() < untilMs;);
      if (plan.verdict === "throw") throw new Error("handler gone wrong");
      held.push(packet.id);
      if (held.length >= plan.holdBack) for (const id of held.splice(0).reverse()) decide(id);
    },
    onOverrun: () => push({ kind: "overrun" }),
    onFault: (error) => push({ kind: "fault", message: String(error) }),
  };
}

function countTurn(): void {
  if (turn.packets === 0) setImmediate(() => (turn.packets = 0));
  turn.packets += 1;
  turn.most = Math.max(turn.most, turn.packets);
}
