import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { steeringRuleset } from "../../../src/daemons/node/steering-ruleset.ts";
import { eventually } from "../support/eventually.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { UdpHandlers } from "../support/udp-worker.ts";
import type { Worker } from "../support/worker.ts";
import type { NetHandlers } from "./net-worker.ts";

//  c 192.0.2.1, 2001:db8::1 ── veth0 ── 192.0.2.2, 2001:db8::2 n (has V4 and V6)
//
// The ruleset makes n's kernel reassemble fragments without tracking connections, and where another one has them tracked, none
// of a DVIPA's own.

const V4 = "192.0.2.100";
const V6 = "2001:db8::100";

let parts: AsyncDisposable[] = [];
let n: Namespace;
let cUdp: Worker<UdpHandlers>;
let nUdp: Worker<UdpHandlers>;

beforeAll(async () => {
  const [c, n_] = await Promise.all([Namespace.create("rc"), Namespace.create("rn")]);
  n = n_;
  await veth(
    { namespace: c, name: "veth0", addresses: ["192.0.2.1/24", "2001:db8::1/64"] },
    { namespace: n, name: "veth0", addresses: ["192.0.2.2/24", `${V4}/32`, "2001:db8::2/64", `${V6}/128`] },
  );
  const net = await n.worker<NetHandlers>("test/netns/net/net-worker.ts");
  const udp = "test/netns/support/udp-worker.ts";
  [cUdp, nUdp] = await Promise.all([c.worker<UdpHandlers>(udp), n.worker<UdpHandlers>(udp)]);
  await net.call(
    "applyRuleset",
    steeringRuleset("s", { dvipas: [V4, V6], gateways: [] }, { ipsec: "accept", icmpErrors: "accept" }),
  );
  parts = [net, cUdp, nUdp, c, n];
});

afterAll(async () => {
  for (const part of parts) await part[Symbol.asyncDispose]();
});

async function trackedFlows(): Promise<number> {
  return Number(await n.exec("cat", ["/proc/sys/net/netfilter/nf_conntrack_count"]));
}

/** How many flows are tracked more after three datagrams to this port of the DVIPA. */
async function trackedBy(address: string, port: number): Promise<number> {
  await nUdp.call("listen", { address, port });
  const [before, received] = [await trackedFlows(), await nUdp.call("received", undefined)];
  await cUdp.call("send", { address, port, count: 3 });
  await eventually("the datagrams", async () => (await nUdp.call("received", undefined)) === received + 3);
  return (await trackedFlows()) - before;
}

describe("connection tracking beside the steering", () => {
  it.each([V4, V6])("is not begun by it: %s", async (address) => {
    expect(await trackedBy(address, 500)).toBe(0);
    expect(await trackedBy(address, 501)).toBe(0);
  });

  it.each([V4, V6])("of another table has no entry for IKE of %s, and one for other datagrams", async (address) => {
    const tracking = "table inet other { chain c { type filter hook prerouting priority 0; ct state new counter; }; }";
    await n.exec("nft", [tracking]);
    expect(await trackedBy(address, 4500)).toBe(0);
    expect(await trackedBy(address, 4501)).toBe(1);
    await n.exec("nft", ["delete table inet other"]);
  });
});
