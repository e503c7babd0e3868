import { expect, it } from "vitest";
import { steeringMark, steeringTable } from "../../../src/net/ids.ts";
import { AF_INET } from "../../../src/net/inet-address.ts";
import { targetRoute } from "../../../src/net/routes.ts";
import { steeringRule } from "../../../src/net/rules.ts";
import type { NetHandlers } from "../net/net-worker.ts";
import { Capture } from "../support/capture.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import { mirrored, testSa } from "./fixtures.ts";
import type { PlainSa, PlainWish, XfrmHandlers } from "./xfrm-worker.ts";

//  c 192.0.2.1 ──── client network ──── 192.0.2.2 d (owns V 192.0.2.100)
//       └────────── second cable ────── 203.0.113.3 t (V on lo, no ARP)
//  d 198.51.100.1 ─ trusted link ────── 198.51.100.2 t
//
// d forwards every ESP packet to V, still encrypted, to t; t answers straight to c. d has the SA as well.

const C = "192.0.2.1";
const V = "192.0.2.100";

describeWithEsp("still-encrypted packets pass the distributor", () => {
  it.each(["transport", "tunnel"] as const)("%s mode: steered by mark, decrypted at the target only", async (mode) => {
    await using c = await Namespace.create("fc");
    await using d = await Namespace.create("fd");
    await using t = await Namespace.create("ft");
    const end = (namespace: Namespace, name: string, address: string): Parameters<typeof veth>[0] => {
      return { namespace, name, addresses: [address] };
    };
    await veth(end(c, "veth0", `${C}/24`), end(d, "veth0", "192.0.2.2/24"));
    await veth(end(c, "veth1", "203.0.113.1/24"), end(t, "veth0", "203.0.113.3/24"));
    await veth(end(d, "veth1", "198.51.100.1/24"), end(t, "veth1", "198.51.100.2/24"));
    await d.ip(`address add ${V}/32 dev veth0`);
    await t.ip(`address add ${V}/32 dev lo`);
    await t.sysctl("net/ipv4/conf/all/arp_ignore", "1");
    await t.ip(`route add ${C}/32 via 203.0.113.1`);
    const noReversePathCheck = 'for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$file"; done';
    for (const namespace of [c, d, t]) await namespace.exec("sh", ["-c", noReversePathCheck]);
    await d.sysctl("net/ipv4/conf/all/send_redirects", "0");
    await d.sysctl("net/ipv4/ip_forward", "1");
    await c.exec("ping", ["-c", "1", "-W", "5", V]);
    await d.exec("ping", ["-c", "1", "-W", "5", "198.51.100.2"]);

    await using net = await d.worker<NetHandlers>("test/netns/net/net-worker.ts");
    const rule = `ip daddr ${V} meta l4proto esp meta mark set ${steeringMark(1)}`;
    await net.call("applyRuleset", `table inet s { chain c { type filter hook prerouting priority -150; ${rule}; }\n}`);
    await net.call("addRule", steeringRule(AF_INET, steeringMark(1), steeringTable(1)));
    const { index } = await net.call("linkByName", "veth1");
    await net.call("addRoute", targetRoute(steeringTable(1), "198.51.100.2", index));
    await net.call("moveLocalRule", AF_INET);

    const worker = "test/netns/xfrm/xfrm-worker.ts";
    await using cXfrm = await c.worker<XfrmHandlers>(worker);
    await using dXfrm = await d.worker<XfrmHandlers>(worker);
    await using tXfrm = await t.worker<XfrmHandlers>(worker);
    const sa = testSa(V, C, { mode });
    // Both hosts send on the one outbound SA, each from its own lease.
    await dXfrm.call("apply", wish(sa, "distributor", 1n));
    await tXfrm.call("apply", wish(sa, "target", 1001n));
    await cXfrm.call("apply", { ...wish(mirrored(sa), "target", 1n), guards: [] });

    await using toTarget = await Capture.start(d, "veth1", `host ${V} and not arp`, "out");
    await using answers = await Capture.start(t, "veth0", `host ${V} and not arp`, "out");
    await c.exec("ping", ["-c", "3", "-i", "0.05", "-W", "5", V]);
    const forwarded = await toTarget.stop();
    const answered = await answers.stop();
    expect(forwarded.map(({ esp }) => esp)).toEqual([1, 2, 3].map((sequence) => ({ spi: 0x1001, sequence })));
    expect(answered.map(({ esp }) => esp)).toEqual([1001, 1002, 1003].map((sequence) => ({ spi: 0x2002, sequence })));
    const received = async (xfrm: typeof dXfrm): Promise<bigint | undefined> =>
      (await xfrm.call("listStates", undefined)).find(({ id }) => id.spi === 0x1001)?.replay.seq;
    expect([await received(dXfrm), await received(tXfrm)]).toEqual([0n, 3n]);
    expect(await d.xfrmStat()).toEqual({});
  });
});

function wish(sa: PlainSa, role: "distributor" | "target", first: bigint): PlainWish {
  const lease = { kind: "lease", range: { first, end: first + 500n } } as const;
  return {
    sas: [{ sa, options: { outbound: { allowance: lease, eventThresholdPackets: 0 } } }],
    guards: [{ dvipa: sa.dvipa, role }],
  };
}
