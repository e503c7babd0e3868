/**
 * The filter of an IPv6 DVIPA, at its targets and at d1, which hands over in GRE of IPv6. Topology: `netns/layout.ts` with two
 * targets.
 */
import { describe, expect, it } from "vitest";
import { APPLICATION_PORT, SERVICE_ADDRESSES } from "../../netns/layout.ts";
import { requestName, upload } from "../../netns/traffic.ts";
import { negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import {
  connects,
  countOnTargets,
  filterCounts,
  isUnserved,
  pings,
  sendThroughTunnel,
  untilDecided,
} from "../support/filter-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

/** Nobody negotiated anything for it. */
const SPOOFED = "2001:db8:1::77";
const UPLOAD_BYTES = 500_000;
const OTHER_PORT = 81;

describe.each([
  ["at the targets", "target", 4],
  ["at d1", "distributor", 6],
] as const)("%s", (_name, at, bus) => {
  const filter = {
    at,
    rules: [
      {
        ...{ name: "web", protocol: "tcp", ports: [APPLICATION_PORT], action: "accept" },
        identity: SERVICE_ADDRESSES[6].client,
      },
      { name: "pings", protocol: "icmpv6", action: "accept" },
    ],
  };
  const lab = useLab(
    { targets: 2, versions: { service: 6, bus }, cluster: { filter, peer: { modes: ["tunnel"] } } },
    async (up) => {
      await up.startCluster();
      await negotiate(up, await up.startClient(), "tunnel");
      await statesOnEveryNode(up, 2);
    },
  );
  const decides = (place: string): Promise<number> =>
    at === "target"
      ? countOnTargets(lab(), place)
      : filterCounts(lab(), lab().distributor).then((counts) => counts[place] ?? 0);

  it("lets connections pass to the targets, full-sized packets too, and pings to d1", async () => {
    const { node } = await requestName(lab());
    expect(["t1", "t2"]).toContain(node);
    expect(await decides("web")).toBeGreaterThan(3);
    expect(await upload(lab(), UPLOAD_BYTES)).toMatchObject({ ok: true });
    expect(await pings(lab())).toBe(true);
    expect((await filterCounts(lab(), lab().distributor))["pings"]).toBe(2);
  });

  it("drops what no rule matches", async () => {
    expect(await isUnserved(lab(), lab().network.clientAddress, OTHER_PORT)).toBe(true);
    await untilDecided(async () => (await filterCounts(lab(), lab().distributor))["unmatched"] ?? 0);
  });

  it("drops what comes through the wrong tunnel", async () => {
    await sendThroughTunnel(lab(), SPOOFED);
    expect(await isUnserved(lab(), SPOOFED)).toBe(true);
    await untilDecided(() => decides("wrongTunnel"));
    expect(await connects(lab())).toBe(true);
  });
});
