import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { steeringMark, steeringTable } from "../../../src/net/ids.ts";
import { AF_INET } from "../../../src/net/inet-address.ts";
import type { QueuedPacket } from "../../../src/net/nfqueue.ts";
import { targetRoute } from "../../../src/net/routes.ts";
import { steeringRule } from "../../../src/net/rules.ts";
import { eventually } from "../support/eventually.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { UdpHandlers } from "../support/udp-worker.ts";
import type { Worker } from "../support/worker.ts";
import type { NetHandlers, QueuePlan } from "./net-worker.ts";

//  c 192.0.2.1 ── veth0 ── 192.0.2.2 d 198.51.100.1 ── veth1 ── 198.51.100.2 t
//                       has V 192.0.2.100                     has V on lo, no ARP
//
// d queues datagrams to V; its worker marks them; a rule ahead of `local` routes them, untouched, to t.

const V = "192.0.2.100";
const PORT = 7777;
const QUEUE = 42;

let parts: AsyncDisposable[] = [];
let d: Namespace;
let dNet: Worker<NetHandlers>;
let cUdp: Worker<UdpHandlers>;
let dUdp: Worker<UdpHandlers>;
let tUdp: Worker<UdpHandlers>;
const none = undefined;
const PLAN: QueuePlan = {
  number: QUEUE,
  copyRangeBytes: 40,
  maxLength: 1000,
  mark: null,
  verdict: "accept",
  holdBack: 1,
  busyMs: 0,
};

beforeAll(async () => {
  const [c, d_, t] = await Promise.all([Namespace.create("qc"), Namespace.create("qd"), Namespace.create("qt")]);
  d = d_;
  await veth(
    { namespace: c, name: "veth0", addresses: ["192.0.2.1/24"] },
    { namespace: d, name: "veth0", addresses: ["192.0.2.2/24", `${V}/32`] },
  );
  await veth(
    { namespace: d, name: "veth1", addresses: ["198.51.100.1/24"] },
    { namespace: t, name: "veth1", addresses: ["198.51.100.2/24"] },
  );
  await t.ip(`address add ${V}/32 dev lo`);
  await t.ip("route add default via 198.51.100.1");
  for (const name of ["all", "veth0", "veth1"]) await d.sysctl(`net/ipv4/conf/${name}/rp_filter`, "0");
  await d.sysctl("net/ipv4/ip_forward", "1");
  const udp = "test/netns/support/udp-worker.ts";
  dNet = await d.worker<NetHandlers>("test/netns/net/net-worker.ts");
  [cUdp, dUdp, tUdp] = await Promise.all([
    c.worker<UdpHandlers>(udp),
    d.worker<UdpHandlers>(udp),
    t.worker<UdpHandlers>(udp),
  ]);
  for (const worker of [dUdp, tUdp]) await worker.call("listen", { address: "0.0.0.0", port: PORT });
  const rule = `ip daddr ${V} udp dport ${PORT} counter queue num ${QUEUE}`;
  await dNet.call("applyRuleset", `table inet q { chain c { type filter hook prerouting priority -150; ${rule}; }\n}`);
  parts = [dNet, cUdp, dUdp, tUdp, c, d, t];
});

afterEach(async () => {
  await dNet.call("closeQueue", none);
  dNet.events.splice(0);
});

afterAll(async () => {
  for (const part of parts) await part[Symbol.asyncDispose]();
});

describe("nfqueue", () => {
  it("hands over the first bytes with length, mark and interface; an accepted packet goes its way", async () => {
    await dNet.call("openQueue", PLAN);
    const before = await dUdp.call("received", none);
    await cUdp.call("send", { address: V, port: PORT, count: 3 });
    await eventually("the datagrams", async () => (await dUdp.call("received", none)) === before + 3);
    const [packet] = dNet.events.filter(isPacket);
    const { index } = await dNet.call("linkByName", "veth0");
    // 20 bytes IPv4, 8 bytes UDP, "esplex test"
    expect(packet).toMatchObject({ lengthBytes: 39, mark: 0, indev: index });
    expect(packet?.payload).toHaveLength(39);
    expect(packet?.payload.slice(0, 1)).toEqual(Uint8Array.of(0x45));
    expect(packet?.payload.slice(16, 20)).toEqual(Uint8Array.of(192, 0, 2, 100));
  });

  it("a dropped packet goes nowhere", async () => {
    await dNet.call("openQueue", { ...PLAN, verdict: "drop" });
    const before = [await dUdp.call("received", none), await dNet.call("queued", none)];
    await cUdp.call("send", { address: V, port: PORT, count: 5 });
    await eventually("five verdicts", async () => (await dNet.call("queued", none)) === (before[1] ?? 0) + 5);
    await eventually("the queue to empty", async () => (await dNet.call("queueCounters", none))?.waiting === 0);
    expect(await dUdp.call("received", none)).toBe(before[0]);
  });

  it("marks are applied before routing: the packet goes to the target of its rule, untouched", async () => {
    const rule = steeringRule(AF_INET, steeringMark(3), steeringTable(3));
    const { index } = await dNet.call("linkByName", "veth1");
    await dNet.call("addRule", rule);
    await dNet.call("addRoute", targetRoute(steeringTable(3), "198.51.100.2", index));
    await dNet.call("moveLocalRule", AF_INET);
    await dNet.call("openQueue", { ...PLAN, mark: steeringMark(3), holdBack: 8 });
    const before = [await dUdp.call("received", none), await tUdp.call("received", none)];
    await cUdp.call("send", { address: V, port: PORT, count: 40 });
    await eventually("all at the target", async () => (await tUdp.call("received", none)) === (before[1] ?? 0) + 40);
    expect(await dUdp.call("received", none)).toBe(before[0]);
    await dNet.call("moveLocalRuleBack", AF_INET);
    await dNet.call("deleteRule", rule);
  });

  it("never fails open: a full queue and a closed queue drop, and the kernel counts", async () => {
    await dNet.call("openQueue", { ...PLAN, verdict: "none", maxLength: 4 });
    const before = await dUdp.call("received", none);
    await cUdp.call("send", { address: V, port: PORT, count: 10 });
    const full = await eventually("drops", async () => {
      const counters = await dNet.call("queueCounters", none);
      return counters !== null && counters.droppedFull >= 6 ? counters : null;
    });
    expect(full).toMatchObject({ waiting: 4, droppedFull: 6, droppedOverrun: 0 });
    await dNet.call("closeQueue", none);
    await cUdp.call("send", { address: V, port: PORT, count: 5 });
    const counted = async (): Promise<boolean> => {
      const text = await d.exec("nft", ["list", "ruleset"]);
      return Number(/packets (\d+)/.exec(text)?.[1]) >= 15;
    };
    await eventually("the rule's counter", counted);
    expect(await dUdp.call("received", none)).toBe(before);
  });

  it("leaves the event loop its turns, however long packets come and take", async () => {
    await dNet.call("openQueue", { ...PLAN, verdict: "drop", busyMs: 4 });
    const before = await dNet.call("queued", none);
    await cUdp.call("send", { address: V, port: PORT, count: 600 });
    await eventually("all verdicts", async () => (await dNet.call("queued", none)) === before + 600);
    // One system call's, and one for each time that the netlink package looks again.
    expect(await dNet.call("mostInATurn", none)).toBeGreaterThan(32);
    expect(await dNet.call("mostInATurn", none)).toBeLessThanOrEqual(64);
  });

  it("survives a handler that throws, and a second reader is refused", async () => {
    await dNet.call("openQueue", { ...PLAN, verdict: "throw" });
    await cUdp.call("send", { address: V, port: PORT, count: 2 });
    const isFault = (event: unknown): event is { message: string } => (event as { kind: string }).kind === "fault";
    expect(await dNet.event(isFault)).toMatchObject({ message: "Error: handler gone wrong" });
    await using second = await d.worker<NetHandlers>("test/netns/net/net-worker.ts");
    await expect(second.call("openQueue", PLAN)).rejects.toMatchObject({ code: "kernel.refused" });
    expect(await dNet.call("readSysctl", ["net", "ipv4", "ip_forward"])).toBe("1");
  });
});

function isPacket(event: unknown): event is QueuedPacket {
  return (event as { kind: string }).kind === "packet";
}
