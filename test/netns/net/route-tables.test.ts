import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { wayOf } from "../../../src/daemons/node/return-ways.ts";
import { LOCAL_RULE_PRIORITY, returnTable, steeringMark, steeringTable } from "../../../src/net/ids.ts";
import { AF_INET, AF_INET6 } from "../../../src/net/inet-address.ts";
import { returnRoutes, targetRoute } from "../../../src/net/routes.ts";
import { returnRule, steeringRule } from "../../../src/net/rules.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { Worker } from "../support/worker.ts";
import type { NetHandlers } from "./net-worker.ts";

// One namespace with a cable into another: everything is added, listed by our reader and by iproute2, deleted, gone.

let n: Namespace;
let other: Namespace;
let net: Worker<NetHandlers>;
const none = undefined;

beforeAll(async () => {
  [n, other] = await Promise.all([Namespace.create("n"), Namespace.create("o")]);
  await veth(
    { namespace: n, name: "veth0", addresses: ["192.0.2.1/24", "2001:db8::1/64"] },
    { namespace: other, name: "veth0", addresses: ["192.0.2.2/24", "2001:db8::2/64"] },
  );
  net = await n.worker<NetHandlers>("test/netns/net/net-worker.ts");
});

afterAll(async () => {
  for (const part of [net, n, other]) await part[Symbol.asyncDispose]();
});

describe("links and addresses", () => {
  it("finds an interface by name and by address", async () => {
    const link = await net.call("linkByName", "veth0");
    expect(link).toMatchObject({ name: "veth0", mtuBytes: 1500, up: true });
    expect(await net.call("linkOwning", "192.0.2.1")).toEqual(link);
    expect(await net.call("linkOwning", "2001:db8::1")).toEqual(link);
    expect(await net.call("linkOwning", "192.0.2.77")).toBeNull();
    await expect(net.call("linkByName", "nosuch0")).rejects.toMatchObject({ code: "kernel.missing" });
    expect((await net.call("links", none)).map(({ name }) => name)).toEqual(expect.arrayContaining(["lo", "veth0"]));
  });

  it.each([
    ["192.0.2.100", 32],
    ["2001:db8::100", 128],
  ])("adds %s/%i to lo, recognisably ours", async (address, prefixBits) => {
    const entry = { address, prefixBits, interfaceIndex: (await net.call("linkByName", "lo")).index };
    await net.call("addAddress", entry);
    expect(await net.call("ourAddresses", none)).toEqual([{ ...entry, protocol: 155, isPreferred: prefixBits === 32 }]);
    expect(await n.ip("address show dev lo")).toContain(`${address}/${prefixBits}`);
    await expect(net.call("addAddress", entry)).rejects.toMatchObject({ details: { code: "EEXIST" } });
    await net.call("deleteAddress", entry);
    expect(await net.call("ourAddresses", none)).toEqual([]);
    expect(await n.ip("address show dev lo")).not.toContain(address);
    await expect(net.call("deleteAddress", entry)).rejects.toMatchObject({ details: { code: "EADDRNOTAVAIL" } });
  });
});

describe.each([
  [AF_INET, "-4", "192.0.2.2"],
  [AF_INET6, "-6", "2001:db8::2"],
] as const)("rules and routes, family %i", (family, flag, gateway) => {
  it("steering rule and target route", async () => {
    const rule = steeringRule(family, steeringMark(7), steeringTable(7));
    await net.call("addRule", rule);
    expect(await net.call("ourRules", family)).toEqual([rule]);
    expect(await n.ip(`${flag} rule show`)).toMatch(/^90:\s+from all fwmark 0x45500007 lookup 1162870791 proto 155/m);
    await expect(net.call("addRule", rule)).rejects.toMatchObject({ details: { code: "EEXIST" } });

    const { index } = await net.call("linkByName", "veth0");
    const entry = targetRoute(steeringTable(7), gateway, index);
    await net.call("addRoute", entry);
    await net.call("replaceRoute", entry);
    expect(await net.call("ourRoutes", family)).toEqual([entry]);
    const shown = await n.ip(`${flag} route show table ${steeringTable(7)}`);
    expect(shown).toMatch(new RegExp(`^default via ${gateway} dev veth0 proto 155 .*onlink`));

    await net.call("deleteRoute", entry);
    await net.call("deleteRule", rule);
    expect(await net.call("ourRoutes", family)).toEqual([]);
    expect(await net.call("ourRules", family)).toEqual([]);
    await expect(net.call("deleteRule", rule)).rejects.toMatchObject({ details: { code: "ENOENT" } });
    await expect(net.call("deleteRoute", entry)).rejects.toMatchObject({ details: { code: "ESRCH" } });
  });

  it("the way back to a distributor: a rule for TCP from the DVIPA, a route, and a blackhole behind it", async () => {
    const [dvipa, destination] =
      family === AF_INET
        ? ["192.0.2.100", { address: "10.1.0.0", prefixBits: 16 }]
        : ["2001:db8::100", { address: "2001:db8:1::", prefixBits: 64 }];
    const rule = returnRule(dvipa, returnTable(1));
    await net.call("addRule", rule);
    expect(await net.call("ourRules", family)).toEqual([rule]);
    const text = new RegExp(`^90:\\s+from ${dvipa} ipproto tcp lookup ${returnTable(1)} proto 155`, "m");
    expect(await n.ip(`${flag} rule show`)).toMatch(text);

    const { index } = await net.call("linkByName", "veth0");
    const entries = returnRoutes(returnTable(1), destination, index, 1_360);
    for (const entry of entries) await net.call("replaceRoute", entry);
    const found = await net.call("ourRoutes", family);
    expect(found.map(wayOf).sort()).toEqual(entries.map(wayOf).sort());
    const shown = await n.ip(`${flag} route show table ${returnTable(1)}`);
    expect(shown).toMatch(/^10\.1\.0\.0\/16 dev veth0|^2001:db8:1::\/64 dev veth0/m);
    expect(shown).toMatch(/mtu 1360/);
    expect(shown).toMatch(/^blackhole .*metric 4294967295/m);

    for (const entry of found) await net.call("deleteRoute", entry);
    await net.call("deleteRule", rule);
    expect(await net.call("ourRoutes", family)).toEqual([]);
    expect(await net.call("ourRules", family)).toEqual([]);
  });

  it("moves the rule for the local table behind the steering rules and back, as often as asked", async () => {
    const before = await n.ip(`${flag} rule show`);
    await twice(() => net.call("moveLocalRule", family));
    const moved = await n.ip(`${flag} rule show`);
    expect(moved).toMatch(new RegExp(`^${LOCAL_RULE_PRIORITY}:\\s+from all lookup local`, "m"));
    expect(moved).not.toMatch(/^0:/m);
    await n.exec("ping", ["-c", "1", "-W", "5", gateway]);
    await twice(() => net.call("moveLocalRuleBack", family));
    expect(await n.ip(`${flag} rule show`)).toBe(before);
  });
});

describe("sysctl and nftables", () => {
  it("changes settings and puts them back", async () => {
    const name = ["net", "ipv4", "conf", "veth0", "rp_filter"];
    const before = await net.call("readSysctl", name);
    await net.call("setSysctl", { name, value: "2" });
    await net.call("setSysctl", { name, value: "1" });
    expect(await net.call("readSysctl", name)).toBe("1");
    await net.call("restoreSysctls", none);
    expect(await net.call("readSysctl", name)).toBe(before);
    await expect(net.call("readSysctl", ["net", "nosuch"])).rejects.toMatchObject({ code: "kernel.missing" });
    await expect(net.call("readSysctl", ["net", "..", "kernel"])).rejects.toMatchObject({ code: "config.invalid" });
  });

  it("applies a ruleset whole or not at all", async () => {
    const table = "table inet esplex_test { chain c { type filter hook input priority 0; counter accept; }\n}";
    await net.call("applyRuleset", table);
    const objects = (await net.call("listTable", "esplex_test")) ?? [];
    expect(objects.flatMap((object) => Object.keys(object))).toEqual(
      expect.arrayContaining(["table", "chain", "rule"]),
    );
    const broken =
      "table inet esplex_two { chain c { counter drop; }\n}\ntable inet esplex_test { chain c { nonsense; }\n}";
    const refusal = net.call("applyRuleset", broken);
    await expect(refusal).rejects.toMatchObject({
      code: "kernel.refused",
      details: { operation: "apply nftables ruleset" },
    });
    expect(await net.call("listTable", "esplex_two")).toBeNull();
    await twice(() => net.call("deleteTable", "esplex_test"));
    expect(await n.exec("nft", ["list", "ruleset"])).toBe("");
    await expect(net.call("deleteTable", "x; flush ruleset")).rejects.toMatchObject({ code: "config.invalid" });
  });
});

async function twice(work: () => Promise<void>): Promise<void> {
  await work();
  await work();
}
