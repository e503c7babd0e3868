import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { Worker } from "../support/worker.ts";
import type { NetHandlers } from "./net-worker.ts";

//  c 2001:db8::1 ── veth0 ── 2001:db8::2 n (V first on lo, as a target has it, then on veth0, as a distributor has it)
//
// IPv6 has no arp_ignore: an address on lo must not be answered for because it is on lo.

const V = "2001:db8::100";
const BITS = 128;

let c: Namespace;
let n: Namespace;
let net: Worker<NetHandlers>;

beforeAll(async () => {
  [c, n] = await Promise.all([Namespace.create("nc"), Namespace.create("nn")]);
  await veth(
    { namespace: c, name: "veth0", addresses: ["2001:db8::1/64"] },
    { namespace: n, name: "veth0", addresses: ["2001:db8::2/64"] },
  );
  net = await n.worker<NetHandlers>("test/netns/net/net-worker.ts");
  await eventually(
    "the neighbour",
    async () => (await c.try("ping", ["-c", "1", "-W", "1", "2001:db8::2"])).exitCode === 0,
  );
});

afterAll(async () => {
  for (const part of [net, n, c]) await part[Symbol.asyncDispose]();
});

/** What c knows of V's link-layer address after it has asked. */
async function resolved(): Promise<string> {
  await c.ip("-6 neigh flush all");
  const { exitCode } = await c.try("ping", ["-c", "1", "-W", "4", V]);
  const { stdout } = await c.try("ip", ["-6", "neigh", "show", V]);
  const state = /(REACHABLE|STALE|DELAY|FAILED|INCOMPLETE)/.exec(stdout)?.[1] ?? "nothing";
  return `${exitCode === 0 ? "answers" : "silent"} ${state === "INCOMPLETE" ? "FAILED" : state}`;
}

describe("an IPv6 DVIPA", () => {
  it.each(["0", "1"])("on lo is used but not announced, forwarding %s", async (forwarding) => {
    await n.sysctl("net/ipv6/conf/all/forwarding", forwarding);
    const entry = { address: V, prefixBits: BITS, interfaceIndex: (await net.call("linkByName", "lo")).index };
    await net.call("addAddress", entry);
    expect(await resolved()).toBe("silent FAILED");
    await c.ip(`-6 route add ${V}/128 via 2001:db8::2`);
    await c.exec("ping", ["-c", "1", "-W", "5", V]);
    await c.ip(`-6 route del ${V}/128 via 2001:db8::2`);
    await net.call("deleteAddress", entry);
  });

  it("on the client's link is answered for at once, and never chosen as a source", async () => {
    const entry = { address: V, prefixBits: BITS, interfaceIndex: (await net.call("linkByName", "veth0")).index };
    await net.call("addAddress", entry);
    expect(await resolved()).toBe("answers REACHABLE");
    expect(await n.ip("-6 route get 2001:db8::1")).toContain("src 2001:db8::2");
    expect(await n.ip("-6 address show dev veth0")).toMatch(/2001:db8::100\/128 .*deprecated/);
    await net.call("deleteAddress", entry);
  });
});
