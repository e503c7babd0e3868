import { expect, it } from "vitest";
import { steeringRuleset } from "../../../src/daemons/node/steering-ruleset.ts";
import type { NetHandlers } from "../net/net-worker.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import { mirrored, testSa } from "./fixtures.ts";
import type { PlainSa } from "./plain.ts";
import type { PlainWish, XfrmHandlers } from "./xfrm-worker.ts";

//  c 192.0.2.1, 2001:db8::1 ──── veth ──── d (owns V)
//
// Packets wait for a verdict until all are there, as they do until a node has its lease; then d's own kernel gets them at once.

const QUEUE = 7;
const PINGS = 10;
const CASES = [
  { version: 4, c0: "192.0.2.1", v: "192.0.2.100", prefixBits: 24 },
  { version: 6, c0: "2001:db8::1", v: "2001:db8::100", prefixBits: 64 },
].flatMap((plan) => (["transport", "tunnel"] as const).map((mode) => ({ ...plan, mode })));

describeWithEsp("packets that have waited for their verdict", () => {
  it.each(CASES)("IPv$version, $mode mode: each of one flow arrives", async ({ version, c0, v, prefixBits, mode }) => {
    await using c = await Namespace.create("hc");
    await using d = await Namespace.create("hd");
    await veth(
      { namespace: c, name: "veth0", addresses: [`${c0}/${prefixBits}`] },
      { namespace: d, name: "veth0", addresses: [`${v}/${prefixBits}`] },
    );
    await c.exec("ping", ["-c", "1", "-W", "5", v]);

    await using net = await d.worker<NetHandlers>("test/netns/net/net-worker.ts");
    await net.call("openQueue", {
      ...{ number: QUEUE, copyRangeBytes: 65_535, maxLength: 1000, mark: null },
      ...{ verdict: "accept", holdBack: PINGS, busyMs: 0 },
    });
    await net.call(
      "applyRuleset",
      steeringRuleset("s", { dvipas: [v], gateways: [] }, { ipsec: `queue num ${QUEUE}`, icmpErrors: "accept" }),
    );
    const worker = "test/netns/xfrm/xfrm-worker.ts";
    await using cXfrm = await c.worker<XfrmHandlers>(worker);
    await using dXfrm = await d.worker<XfrmHandlers>(worker);
    const sa = testSa(v, c0, { mode });
    await dXfrm.call("apply", wish(sa));
    await cXfrm.call("apply", wish(mirrored(sa)));

    const burst = ["-q", "-c", String(PINGS), "-l", String(PINGS), "-W", "5", v];
    const said = await c.exec("ping", version === 4 ? burst : ["-6", ...burst]);
    expect(said).toContain(`${PINGS} received`);
    expect(await d.xfrmStat()).toEqual({});
  });
});

/** The guard of an owner lets neighbour discovery through, which c needs as well. */
function wish(sa: PlainSa): PlainWish {
  const lease = { kind: "lease", range: { first: 1n, end: 500n } } as const;
  return {
    sas: [{ sa, options: { outbound: { allowance: lease, eventThresholdPackets: 0 } } }],
    guards: [{ dvipa: sa.dvipa, role: "distributor" }],
  };
}
