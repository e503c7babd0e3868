/**
 * The service speaks one IP version and the bus the other: packets go on to a target in their own version, over addresses
 * that nobody configured. (`traffic.test.ts` has IPv6 over a bus on IPv4.) Topology: `netns/layout.ts`.
 */
import { describe, expect, it } from "vitest";
import { readDecapsulatedTcp } from "../../netns/counters.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { ping, requestName } from "../../netns/traffic.ts";
import { negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const REQUESTS = 4;

describe.each([4, 6] as const)("IPv%i over a bus on IPv6", (service) => {
  let client: StrongSwan;
  const lab = useLab({ targets: 2, versions: { service, bus: 6 } }, async (up) => {
    await up.startCluster();
    client = await up.startClient();
  });

  it("is served by each target in turn, none of it decrypted by d1", async () => {
    await negotiate(lab(), client, "transport");
    await statesOnEveryNode(lab(), 2);
    expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
    const nodes: (string | undefined)[] = [];
    while (nodes.length < REQUESTS) nodes.push((await requestName(lab())).node);
    expect(nodes.sort()).toEqual(["t1", "t1", "t2", "t2"]);
    expect(await readDecapsulatedTcp(lab().network, "d1")).toBe(0);
  });

  it("goes on over addresses of its own version", async () => {
    const flag = service === 4 ? "-4" : "-6";
    const routes = await lab().network.run("d1", ["ip", flag, "route", "show", "table", "all", "proto", "155"]);
    const gateways = [...routes.matchAll(/default via (\S+) dev trust0/g)].map(([, gateway]) => gateway);
    const targets = ["t1", "t2"].map((name) => lab().network.interfaceOf(name, "trust"));
    expect(gateways.sort()).toEqual(targets.map(({ address, address6 }) => (service === 4 ? address : address6)));
  });
});

describe("IPv6 where a host has no IPv6 on the trusted link", () => {
  let client: StrongSwan;
  const noIpv6 = ["sysctl", "-q", "-w", "net.ipv6.conf.trust0.disable_ipv6=1"];
  const lab = useLab({ targets: 2, versions: { service: 6 } }, async (up) => {
    await up.network.run("t2", noIpv6);
    await up.startCluster();
    client = await up.startClient();
  });

  it("gives such a target no connections, and says so", async () => {
    await negotiate(lab(), client, "transport");
    await statesOnEveryNode(lab(), 2);
    for (let i = 0; i < REQUESTS; i++) expect(await requestName(lab())).toMatchObject({ ok: true, node: "t1" });
    const { counters } = await lab().distributor.status();
    expect(counters["targets.unreachable"]).toBeGreaterThan(0);
    expect(await lab().logTail("d1", 400)).toContain("the target has no IPv6 address on the trusted link");
  });

  it("does not start such a distributor, and says what to do", async () => {
    expect(await lab().distributor.stop("SIGTERM")).toMatchObject({ exitCode: 0 });
    await lab().network.run("d1", noIpv6);
    await lab().distributor.start();
    expect(await lab().distributor.program.ended()).toMatchObject({ exitCode: 2 });
    expect(await lab().logTail("d1")).toMatch(/dvipas: 2001:db8:1::100 is IPv6, but .* enable IPv6 on it, here and on/);
  });
});
