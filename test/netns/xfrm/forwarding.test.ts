import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { steeringMark, steeringTable } from "../../../src/net/ids.ts";
import { steeringRuleset } from "../../../src/daemons/node/steering-ruleset.ts";
import { AF_INET, AF_INET6, type AddressFamily } from "../../../src/net/inet-address.ts";
import { suiteName, type ChildSuite } from "../../../src/sa/suite.ts";
import { ipProtocolOf } from "../../../src/xfrm/shadow.ts";
import { targetRoute } from "../../../src/net/routes.ts";
import { steeringRule } from "../../../src/net/rules.ts";
import type { NetHandlers } from "../net/net-worker.ts";
import { Capture } from "../support/capture.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { Worker } from "../support/worker.ts";
import { AH_256, GCM_128, mirrored, testSa } from "./fixtures.ts";
import type { PlainSa } from "./plain.ts";
import type { PlainWish, XfrmHandlers } from "./xfrm-worker.ts";

//  c .1 ──── client network ──── .2 d (owns V)
//    .1 ──── second cable ────── .3 t (V on lo, answers nobody who asks for it)
//  d .1 ──── trusted link ────── .2 t
//
// d forwards every ESP or AH packet to V, still protected, to t; t answers straight to c. d has the SA as well.

interface Plan {
  readonly version: 4 | 6;
  readonly family: AddressFamily;
  /** Of client network, second cable and trusted link, up to the host's number. */
  readonly networks: readonly [string, string, string];
  readonly prefixBits: number;
  readonly v: string;
}

const PLANS: readonly Plan[] = [
  {
    version: 4,
    family: AF_INET,
    networks: ["192.0.2.", "203.0.113.", "198.51.100."],
    prefixBits: 24,
    v: "192.0.2.100",
  },
  {
    version: 6,
    family: AF_INET6,
    networks: ["2001:db8:1::", "2001:db8:2::", "2001:db8:3::"],
    prefixBits: 64,
    v: "2001:db8:1::100",
  },
];
const CASES = (["transport", "tunnel"] as const).flatMap((mode) =>
  [GCM_128, AH_256].map((suite) => ({ mode, suite, name: suiteName(suite) })),
);
/** Of `testSa`. */
const INBOUND_SPI = 0x1001;
/** Its ESP or AH comes in three fragments. An IPv6 tunnel fragments what goes into it instead. */
const LARGE_BYTES = "4000";

describeWithEsp("still-protected packets pass the distributor", () => {
  describe.each(PLANS)("IPv$version", (plan) => {
    let lab: Lab;
    beforeAll(async () => {
      lab = await Lab.create(plan);
    });
    afterAll(() => lab[Symbol.asyncDispose]());

    it.each(CASES)("$name, $mode mode: steered by mark, decrypted at the target only", async ({ mode, suite }) => {
      const { c, d, t, v } = lab;
      await lab.steer(suite);
      await lab.protect(testSa(v, lab.c0, { mode, suite }));

      const protocol = ipProtocolOf(suite);
      const filter = `host ${v} and (ip proto ${protocol} or ip6 proto ${protocol})`;
      await using toTarget = await Capture.start(d, "veth1", filter, "out");
      await using answers = await Capture.start(t, "veth0", filter, "out");
      await c.exec("ping", ["-c", "3", "-i", "0.05", "-W", "5", v]);
      const forwarded = await toTarget.stop();
      const answered = await answers.stop();
      expect(forwarded.map(({ esp }) => esp)).toEqual([1, 2, 3].map((sequence) => ({ spi: INBOUND_SPI, sequence })));
      expect(answered.map(({ esp }) => esp)).toEqual([1001, 1002, 1003].map((sequence) => ({ spi: 0x2002, sequence })));
      expect(await lab.received()).toEqual([0n, 3n]);
      expect(await d.xfrmStat()).toEqual({});

      // Fragments are steered whole: none of a large packet goes to d's own kernel.
      await c.exec("ping", ["-c", "2", "-i", "0.05", "-W", "5", "-s", LARGE_BYTES, v]);
      const [atDistributor, atTarget] = await lab.received();
      expect(atDistributor).toBe(0n);
      expect(atTarget).toBeGreaterThanOrEqual(5n);
      expect(await d.xfrmStat()).toEqual({});
    });
  });
});

type Xfrm = Worker<XfrmHandlers>;

/** The hosts of one plan; each case has its own ruleset and SA. */
class Lab implements AsyncDisposable {
  readonly v: string;
  /** The client's address. */
  readonly c0: string;
  readonly c: Namespace;
  readonly d: Namespace;
  readonly t: Namespace;
  readonly #net: Worker<NetHandlers>;
  readonly #xfrm: readonly [c: Xfrm, d: Xfrm, t: Xfrm];

  private constructor(
    { v, networks: [client] }: Plan,
    [c, d, t]: readonly [Namespace, Namespace, Namespace],
    net: Worker<NetHandlers>,
    xfrm: readonly [Xfrm, Xfrm, Xfrm],
  ) {
    this.v = v;
    this.c0 = `${client}1`;
    this.c = c;
    this.d = d;
    this.t = t;
    this.#net = net;
    this.#xfrm = xfrm;
  }

  static async create(plan: Plan): Promise<Lab> {
    const hosts = await Promise.all([Namespace.create("fc"), Namespace.create("fd"), Namespace.create("ft")]);
    const [c, d, t] = hosts;
    await connect(plan, c, d, t);
    const worker = "test/netns/xfrm/xfrm-worker.ts";
    const [net, ...xfrm] = await Promise.all([
      d.worker<NetHandlers>("test/netns/net/net-worker.ts"),
      c.worker<XfrmHandlers>(worker),
      d.worker<XfrmHandlers>(worker),
      t.worker<XfrmHandlers>(worker),
    ]);
    const [, , trust] = plan.networks;
    await net.call("addRule", steeringRule(plan.family, steeringMark(1), steeringTable(1)));
    const { index } = await net.call("linkByName", "veth1");
    await net.call("addRoute", targetRoute(steeringTable(1), `${trust}2`, index));
    await net.call("moveLocalRule", plan.family);
    return new Lab(plan, hosts, net, xfrm);
  }

  /** By SPI, the first 32 bits of what the IP header carries (AH: the second): a later fragment has none, so it would stay with d. */
  async steer(suite: ChildSuite): Promise<void> {
    const spiAt = suite.kind === "ah" ? 32 : 0;
    const mark = `@th,${spiAt},32 ${INBOUND_SPI} meta mark set ${steeringMark(1)}`;
    await this.#net.call(
      "applyRuleset",
      steeringRuleset("s", { dvipas: [this.v], gateways: [] }, { ipsec: mark, icmpErrors: "accept" }),
    );
  }

  /** The guard of an owner lets neighbour discovery through, which c needs as well. Both hosts send on the one outbound SA, each from its own lease. */
  async protect(sa: PlainSa): Promise<void> {
    const [c, d, t] = this.#xfrm;
    for (const xfrm of this.#xfrm) await xfrm.call("clear", undefined);
    await d.call("apply", wish(sa, "distributor", 1n));
    await t.call("apply", wish(sa, "target", 1001n));
    await c.call("apply", wish(mirrored(sa), "distributor", 1n));
  }

  /** The highest number that d and t have accepted. */
  async received(): Promise<readonly (bigint | undefined)[]> {
    const [, ...hosts] = this.#xfrm;
    const states = await Promise.all(hosts.map((xfrm) => xfrm.call("listStates", undefined)));
    return states.map((list) => list.find(({ id }) => id.spi === INBOUND_SPI)?.replay.seq);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const part of [this.#net, ...this.#xfrm, this.c, this.d, this.t]) await part[Symbol.asyncDispose]();
  }
}

async function connect(plan: Plan, c: Namespace, d: Namespace, t: Namespace): Promise<void> {
  const { family, networks, prefixBits, v } = plan;
  const [client, cable, trust] = networks;
  const end = (namespace: Namespace, name: string, address: string): Parameters<typeof veth>[0] => {
    return { namespace, name, addresses: [`${address}/${prefixBits}`] };
  };
  await veth(end(c, "veth0", `${client}1`), end(d, "veth0", `${client}2`));
  await veth(end(c, "veth1", `${cable}1`), end(t, "veth0", `${cable}3`));
  await veth(end(d, "veth1", `${trust}1`), end(t, "veth1", `${trust}2`));
  const host = family === AF_INET ? "32" : "128";
  const noDad = family === AF_INET ? "" : " nodad";
  await d.ip(`address add ${v}/${host} dev veth0${noDad}`);
  await t.ip(`address add ${v}/${host} dev lo${noDad}`);
  await t.sysctl("net/ipv4/conf/all/arp_ignore", "1");
  await t.ip(`route add ${client}1/${host} via ${cable}1`);
  const noReversePathCheck = 'for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$file"; done';
  for (const namespace of [c, d, t]) await namespace.exec("sh", ["-c", noReversePathCheck]);
  await d.sysctl("net/ipv4/conf/all/send_redirects", "0");
  await d.sysctl("net/ipv4/ip_forward", "1");
  await d.sysctl("net/ipv6/conf/all/forwarding", "1");
  await c.exec("ping", ["-c", "1", "-W", "5", v]);
  await d.exec("ping", ["-c", "1", "-W", "5", `${trust}2`]);
}

function wish(sa: PlainSa, role: "distributor" | "target", first: bigint): PlainWish {
  const lease = { kind: "lease", range: { first, end: first + 500n } } as const;
  return {
    sas: [{ sa, options: { outbound: { allowance: lease, eventThresholdPackets: 0 } } }],
    guards: [{ dvipa: sa.dvipa, role }],
  };
}
