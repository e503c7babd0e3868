import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { dvipaGuard, ipProtocolOf } from "../../../src/xfrm/shadow.ts";
import { AH_SUITES, ESP_SUITES, suiteName, type ChildSuite } from "../../../src/sa/suite.ts";
import { tunnelReqid } from "../../../src/net/ids.ts";
import { Capture } from "../support/capture.ts";
import { eventually } from "../support/eventually.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { UdpHandlers } from "../support/udp-worker.ts";
import type { Worker } from "../support/worker.ts";
import { AH_256, GCM_128, mirrored, testSa } from "./fixtures.ts";
import type { PlainSa } from "./plain.ts";
import type { PlainWish, XfrmHandlers } from "./xfrm-worker.ts";

//   c (the peer) 192.0.2.1 ── veth ── 192.0.2.2 d (has the DVIPA 192.0.2.100)
//   2001:db8::1                       2001:db8::2          2001:db8::100

const C = { 4: "192.0.2.1", 6: "2001:db8::1" } as const;
const D = { 4: "192.0.2.2", 6: "2001:db8::2" } as const;
const V = { 4: "192.0.2.100", 6: "2001:db8::100" } as const;

let c: Namespace;
let d: Namespace;
let cXfrm: Worker<XfrmHandlers>;
let dXfrm: Worker<XfrmHandlers>;
let cUdp: Worker<UdpHandlers>;
let dUdp: Worker<UdpHandlers>;

beforeAll(async () => {
  [c, d] = await Promise.all([Namespace.create("c"), Namespace.create("d")]);
  await veth(
    { namespace: c, name: "veth0", addresses: [`${C[4]}/24`, `${C[6]}/64`] },
    { namespace: d, name: "veth0", addresses: [`${D[4]}/24`, `${D[6]}/64`, `${V[4]}/32`, `${V[6]}/128`] },
  );
  for (const address of [D[4], V[4], D[6], V[6]]) await c.exec("ping", ["-c", "1", "-W", "5", address]);
  const xfrm = "test/netns/xfrm/xfrm-worker.ts";
  const udp = "test/netns/support/udp-worker.ts";
  [cXfrm, dXfrm] = await Promise.all([c.worker<XfrmHandlers>(xfrm), d.worker<XfrmHandlers>(xfrm)]);
  [cUdp, dUdp] = await Promise.all([c.worker<UdpHandlers>(udp), d.worker<UdpHandlers>(udp)]);
});

afterAll(async () => {
  for (const part of [cXfrm, dXfrm, cUdp, dUdp, c, d]) await part[Symbol.asyncDispose]();
});

afterEach(async () => {
  await Promise.all([cXfrm.call("clear", none), dXfrm.call("clear", none)]);
});

describeWithEsp("shadow states and policies between two kernels", () => {
  type Combination = [string, ChildSuite, "transport" | "tunnel", 4 | 6, boolean];
  const combinations: readonly Combination[] = [
    ...[...ESP_SUITES, ...AH_SUITES].flatMap((suite): Combination[] => [
      [`${suiteName(suite)} transport`, suite, "transport", 4, false],
      [`${suiteName(suite)} tunnel`, suite, "tunnel", 4, false],
    ]),
    ["IPv6 transport", GCM_128, "transport", 6, false],
    ["IPv6 tunnel", GCM_128, "tunnel", 6, false],
    ...AH_SUITES.flatMap((suite): Combination[] => [
      [`IPv6 ${suiteName(suite)} transport`, suite, "transport", 6, false],
      [`IPv6 ${suiteName(suite)} tunnel and extended numbers`, suite, "tunnel", 6, true],
    ]),
    ["extended numbers and AH", AH_256, "transport", 4, true],
    ["extended numbers", GCM_128, "transport", 4, true],
    // Each a template of its own in the kernel: `authencesn` around CTR and around no cipher at all, CCM, ChaCha20-Poly1305.
    ["extended numbers and ChaCha20", { kind: "chacha20-poly1305" }, "transport", 4, true],
    ["extended numbers and CCM", { kind: "aes-ccm-16", keyBits: 128 }, "tunnel", 4, true],
    ["extended numbers and CTR", { kind: "aes-ctr", keyBits: 256, integrity: "hmac-sha2-384" }, "transport", 4, true],
    ["extended numbers and null", { kind: "null", integrity: "hmac-sha2-512" }, "tunnel", 4, true],
  ];

  it.each(combinations)("ping through %s, nothing in clear", async (_name, suite, mode, version, esn) => {
    const sa = testSa(V[version], C[version], { suite, mode, esn });
    await dXfrm.call("apply", wish(sa, "distributor"));
    await cXfrm.call("apply", wish(mirrored(sa), "target"));
    await using fromC = await Capture.start(c, "veth0", wireFilter(`host ${V[version]}`), "out");
    await using fromD = await Capture.start(d, "veth0", wireFilter(`host ${V[version]}`), "out");
    await c.exec("ping", ["-c", "3", "-i", "0.05", "-W", "5", V[version]]);
    const packets = [...(await fromC.stop()), ...(await fromD.stop())];
    expect(packets.map(({ protocol }) => protocol)).toEqual(Array(6).fill(ipProtocolOf(suite)));

    // What was asked for is what our reader and iproute2 list, with live counters.
    const [states, policies] = await Promise.all([dXfrm.call("listStates", none), dXfrm.call("listPolicies", none)]);
    expect(states.map(({ id, replay }) => [id.spi, replay.seq, replay.oseq])).toEqual(
      expect.arrayContaining([
        [0x1001, 3n, 0n],
        [0x2002, 0n, 3n],
      ]),
    );
    expect(states).toHaveLength(2);
    const listed = (await d.ip("xfrm policy list")).split("\n").filter((line) => line.startsWith("src "));
    expect(listed).toHaveLength(policies.length);
    // After a dirty restart: what is there is recognised, and nothing is made anew.
    expect(await dXfrm.call("apply", wish(sa, "distributor"))).toEqual({ taken: {}, rounds: 1, conflicts: [] });
    await clearBoth();
  });

  it("converges over a dirty kernel: adopts live states as they are, removes the rest", async () => {
    const sa = testSa(V[4], C[4]);
    await dXfrm.call("apply", wish(sa, "distributor"));
    await cXfrm.call("apply", wish(mirrored(sa), "target"));
    await c.exec("ping", ["-c", "2", "-i", "0.05", "-W", "5", V[4]]);
    const foreign = "state add src 192.0.2.9 dst 192.0.2.8 proto esp spi 0x9999 reqid 7 mode transport aead".split(" ");
    await d.exec("ip", ["xfrm", ...foreign, "rfc4106(gcm(aes))", `0x${"11".repeat(20)}`, "128"]);

    const again = await dXfrm.call("apply", wish(sa, "distributor"));
    expect(again).toEqual({ taken: {}, rounds: 1, conflicts: [] });
    const live = (await dXfrm.call("listStates", none)).find(({ id }) => id.spi === 0x2002);
    expect(live?.replay.oseq).toBe(2n);

    // A new SA takes the place of the old one; the old one's states and policies go.
    const next = testSa(V[4], C[4], {
      inbound: { ...sa.inbound, spi: 0x3003 },
      outbound: { ...sa.outbound, spi: 0x4004 },
    });
    await dXfrm.call("apply", wish(next, "distributor"));
    const spis = (await dXfrm.call("listStates", none)).map(({ id }) => id.spi).sort((a, b) => a - b);
    expect(spis).toEqual([0x3003, 0x4004, 0x9999]);

    await dXfrm.call("clear", none);
    expect((await dXfrm.call("listStates", none)).map(({ id }) => id.spi)).toEqual([0x9999]);
    expect(await d.ip("xfrm policy list")).toBe("");
    await d.exec("ip", ["xfrm", "state", "flush"]);
    await clearBoth();
  });

  it("an SA of ESP and one of AH with the same SPIs are there side by side", async () => {
    const esp = testSa(V[4], C[4]);
    const ah = testSa(V[4], C[4], { suite: AH_256, reqid: tunnelReqid(2), id: "f".repeat(32) });
    const both = { ...wish(esp, "target"), sas: [...wish(esp, "target").sas, ...wish(ah, "target").sas] };
    await dXfrm.call("apply", both);
    const names = async (): Promise<string[]> =>
      (await dXfrm.call("listStates", none)).map(({ id }) => `${id.spi.toString(16)}/${id.protocol}`).sort();
    expect(await names()).toEqual(["1001/50", "1001/51", "2002/50", "2002/51"]);
    await dXfrm.call("change", { wish: { sas: [], guards: [] }, gone: wish(esp, "target") });
    expect(await names()).toEqual(["1001/51", "2002/51"]);
    await clearBoth();
  });

  it("adopts nothing of others: a state with our name and another reqid is a conflict", async () => {
    const foreign = `state add src ${C[4]} dst ${V[4]} proto esp spi 0x1001 reqid 7 mode transport aead`.split(" ");
    await d.exec("ip", ["xfrm", ...foreign, "rfc4106(gcm(aes))", `0x${"22".repeat(20)}`, "128"]);
    const report = await dXfrm.call("apply", wish(testSa(V[4], C[4]), "target"));
    expect(report.conflicts).toEqual([{ what: `state ${V[4]}/4097/50`, why: "one that is not ours has its name" }]);
    await d.exec("ip", ["xfrm", "state", "flush"]);
    await clearBoth();
  });

  it("a change of one SA asks for its names and tells its changes, beside any number of others", async () => {
    const old = testSa(V[4], C[4]);
    const others = manySas(40);
    const one = (sa: PlainSa): PlainWish => wish(sa, "target");
    const all: PlainWish = { sas: others.flatMap((sa) => one(sa).sas), guards: [{ dvipa: V[4], role: "target" }] };
    const nothing: PlainWish = { sas: [], guards: [] };
    await dXfrm.call("apply", all);

    const added = await dXfrm.call("change", { wish: one(old), gone: nothing });
    expect(added.said).toEqual({ asked: 4, ordered: 4, dumps: 0 });
    expect(added.report).toEqual({ taken: { addState: 2, addPolicy: 2 }, rounds: 1, conflicts: [] });
    const again = await dXfrm.call("change", { wish: one(old), gone: nothing });
    expect(again.report).toEqual({ taken: {}, rounds: 1, conflicts: [] });

    // Rekeyed: the policies stay, because the new SA wants them too.
    const next = testSa(V[4], C[4], {
      inbound: { ...old.inbound, spi: 0x3003 },
      outbound: { ...old.outbound, spi: 0x4004 },
    });
    const both: PlainWish = { sas: [...one(old).sas, ...one(next).sas], guards: [] };
    const joined = await dXfrm.call("change", { wish: both, gone: nothing });
    expect(joined.report.taken).toEqual({ addState: 2 });
    const left = await dXfrm.call("change", { wish: one(next), gone: one(old) });
    expect(left.report.taken).toEqual({ deleteState: 2 });
    expect(left.said.dumps).toBe(0);
    const removed = await dXfrm.call("change", { wish: nothing, gone: one(next) });
    expect(removed.said).toEqual({ asked: 4, ordered: 4, dumps: 0 });
    expect(removed.report.taken).toEqual({ deletePolicy: 2, deleteState: 2 });
    expect(await dXfrm.call("listStates", none)).toHaveLength(80);
    expect(await dXfrm.call("apply", all)).toEqual({ taken: {}, rounds: 1, conflicts: [] });

    // Somebody else's state in its place is neither adopted nor deleted, though it is named.
    const foreign = `state add src ${C[4]} dst ${V[4]} proto esp spi 0x1001 reqid 7 mode transport aead`.split(" ");
    await d.exec("ip", ["xfrm", ...foreign, "rfc4106(gcm(aes))", `0x${"22".repeat(20)}`, "128"]);
    const refused = await dXfrm.call("change", { wish: one(old), gone: nothing });
    expect(refused.report.conflicts).toEqual([
      { what: `state ${V[4]}/4097/50`, why: "one that is not ours has its name" },
    ]);
    await dXfrm.call("change", { wish: nothing, gone: one(old) });
    expect((await dXfrm.call("listStates", none)).filter(({ id }) => id.spi === 0x1001)).toHaveLength(1);
    await d.exec("ip", ["xfrm", "state", "flush"]);
    await clearBoth();
  });

  it("an audit names what is not as it should be, and what it names is put right", async () => {
    const some = manySas(20);
    const all: PlainWish = {
      sas: some.flatMap((sa) => wish(sa, "target").sas),
      guards: [{ dvipa: V[4], role: "target" }],
    };
    await dXfrm.call("apply", all);
    expect(await dXfrm.call("suspects", all)).toEqual({
      named: 0,
      report: { taken: {}, rounds: 1, conflicts: [] },
    });

    // One policy and one state less, a policy and a state more, another policy changed.
    const ip = (words: string): Promise<unknown> => d.exec("ip", ["xfrm", ...words.split(" ")]);
    await ip(`policy delete src 198.51.100.1/32 dst ${V[4]}/32 dir in`);
    await ip(`state delete src ${V[4]} dst 198.51.100.2 proto esp spi 0x20001`);
    const [stale] = manySas(21).slice(20);
    if (stale === undefined) throw new Error("no SA");
    const nothing: PlainWish = { sas: [], guards: [] };
    await dXfrm.call("change", { wish: { ...nothing, sas: wish(stale, "target").sas }, gone: nothing });
    const [guard] = dvipaGuard(V[4], "target");
    if (guard === undefined) throw new Error("no policy");
    await dXfrm.call("updatePolicy", { ...guard, action: "allow" });
    const { named, report } = (await dXfrm.call("suspects", all)) ?? {};
    expect(named).toBe(7);
    expect(report).toEqual({
      taken: { addPolicy: 1, addState: 1, updatePolicy: 1, deletePolicy: 2, deleteState: 2 },
      rounds: 1,
      conflicts: [],
    });
    expect(await dXfrm.call("apply", all)).toEqual({ taken: {}, rounds: 1, conflicts: [] });

    // A name that is taken is more than a name can tell.
    await dXfrm.call("clear", none);
    const foreign = `state add src 198.51.100.1 dst ${V[4]} proto esp spi 0x10000 reqid 7 mode transport aead`.split(
      " ",
    );
    await d.exec("ip", ["xfrm", ...foreign, "rfc4106(gcm(aes))", `0x${"22".repeat(20)}`, "128"]);
    expect(await dXfrm.call("suspects", all)).toBeNull();
    await ip("state flush");
  });

  it("300 SAs with their policies come and go with one call each", async () => {
    const count = 300;
    const policies = 2 * count + dvipaGuard(V[4], "target").length;
    const result = await dXfrm.call("applyMany", { sa: testSa(V[4], C[4]), count });
    expect(result).toMatchObject({ states: 2 * count, policies });
    expect(result.added).toMatchObject({ rounds: 1, taken: { addState: 2 * count, addPolicy: policies } });
    expect(result.removed).toMatchObject({ rounds: 1, taken: { deleteState: 2 * count, deletePolicy: policies } });
  });

  it("single policies: add, update in place, delete", async () => {
    const [policy] = dvipaGuard(V[4], "target");
    if (policy === undefined) throw new Error("no policy");
    await dXfrm.call("addPolicy", policy);
    await expect(dXfrm.call("addPolicy", policy)).rejects.toMatchObject({ details: { code: "EEXIST" } });
    expect(await dXfrm.call("listPolicies", none)).toMatchObject([policy]);
    expect(await d.ip("xfrm policy")).toContain(`src 0.0.0.0/0 dst ${V[4]}/32 \n\tdir in action block priority 47000`);
    await dXfrm.call("updatePolicy", { ...policy, action: "allow", priority: 45_501 });
    expect(await dXfrm.call("listPolicies", none)).toMatchObject([{ action: "allow", priority: 45_501 }]);
    await dXfrm.call("deletePolicy", policy);
    await expect(dXfrm.call("deletePolicy", policy)).rejects.toMatchObject({ details: { code: "ENOENT" } });
    expect(await d.ip("xfrm policy")).toBe("");
  });

  it("removes larval states too", async () => {
    const sa = testSa(V[4], C[4]);
    const { guards } = wish(sa, "distributor");
    await dXfrm.call("subscribe", { groups: ["ACQUIRE"] });
    await dXfrm.call("apply", { guards, sas: [{ sa, options: { outbound: null } }] });
    await dUdp.call("send", { address: C[4], port: 9, from: V[4], count: 1 });
    const acquire = await dXfrm.event(
      (event): event is { kind: "acquire" } => (event as { kind: string }).kind === "acquire",
    );
    expect(acquire).toMatchObject({ reqid: sa.reqid, source: V[4], destination: C[4], selector: { protocol: 17 } });
    expect((await dXfrm.call("listStates", none)).map(({ id }) => id.spi)).toContain(0);
    await dXfrm.call("clear", none);
    expect(await dXfrm.call("listStates", none)).toEqual([]);
    expect(await d.ip("xfrm state list nokeys")).toBe("");
  });
});

describe("the guard of a DVIPA", () => {
  it.each([4, 6] as const)(
    "lets nothing in or out in clear without an SA, IKE at the distributor excepted: IPv%s",
    async (version) => {
      const any = version === 4 ? "0.0.0.0" : "::";
      await dUdp.call("listen", { address: any, port: 500 });
      await dUdp.call("listen", { address: any, port: 5000 + version });
      await dXfrm.call("apply", { sas: [], guards: [{ dvipa: V[version], role: "distributor" }] });
      const before = await dUdp.call("received", none);
      await using capture = await Capture.start(c, "veth0", wireFilter(`src host ${V[version]}`));

      expect((await c.try("ping", ["-c", "2", "-i", "0.2", "-W", "1", V[version]])).exitCode).not.toBe(0);
      await cUdp.call("send", { address: V[version], port: 5000 + version, count: 3 });
      expect(await dUdp.call("send", { address: C[version], port: 9, from: V[version], count: 3 })).toEqual({
        sent: 0,
        failed: 3,
      });
      await cUdp.call("send", { address: V[version], port: 500, count: 2 });
      expect(await c.try("ping", ["-c", "1", "-W", "5", D[version]])).toMatchObject({ exitCode: 0 });

      expect(await capture.stop()).toEqual([]);
      expect(await dUdp.call("received", none)).toBe(before + 2);
      expect(Object.keys(await d.xfrmStat())).toEqual(expect.arrayContaining(["XfrmInPolBlock", "XfrmOutPolBlock"]));
      await clearBoth();
    },
  );

  it("a target blocks IKE to the DVIPA as well", async () => {
    await dXfrm.call("apply", { sas: [], guards: [{ dvipa: V[4], role: "target" }] });
    const before = await dUdp.call("received", none);
    await cUdp.call("send", { address: V[4], port: 500, count: 2 });
    await cUdp.call("send", { address: D[4], port: 500, count: 1 });
    // The last that was sent has come, and none of those before it.
    await eventually("the datagram to d's own address", async () => (await dUdp.call("received", none)) > before);
    expect(await dUdp.call("received", none)).toBe(before + 1);
    await clearBoth();
  });
});

const none = undefined;

function wish(sa: PlainSa, role: "distributor" | "target"): PlainWish {
  const lease = { kind: "lease", range: { first: 1n, end: 1000n } } as const;
  const options = { outbound: { allowance: lease, eventThresholdPackets: 0 } };
  return { sas: [{ sa, options }], guards: role === "distributor" ? [{ dvipa: sa.dvipa, role }] : [] };
}

/** SAs with peers 198.51.100.1 and so on. */
function manySas(count: number): PlainSa[] {
  const { inbound, outbound } = testSa(V[4], C[4]);
  return Array.from({ length: count }, (_, i) =>
    testSa(V[4], `198.51.100.${i + 1}`, {
      inbound: { ...inbound, spi: 0x10000 + i },
      outbound: { ...outbound, spi: 0x20000 + i },
    }),
  );
}

/** ARP and neighbour discovery (ICMPv6 types 133…137) go in clear. */
function wireFilter(hosts: string): string {
  return `${hosts} and not arp and not (icmp6 and ip6[40] >= 133 and ip6[40] <= 137)`;
}

async function clearBoth(): Promise<void> {
  await Promise.all([cXfrm.call("clear", none), dXfrm.call("clear", none)]);
  for (const namespace of [c, d]) {
    expect(await namespace.ip("xfrm state list nokeys")).toBe("");
    expect(await namespace.ip("xfrm policy list")).toBe("");
  }
}
