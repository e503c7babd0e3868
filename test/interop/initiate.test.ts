/**
 * The distributor as initiator towards a stock strongSwan, and the IKE SA rekeyed by either end. Topology: `netns/layout.ts`,
 * one target. The client's daemon has its default proposals and waits: only addresses and credentials are its own.
 */
import { afterEach, describe, expect, it } from "vitest";
import { readClientDrops } from "../../netns/counters.ts";
import type { ChildName, StrongSwan } from "../../netns/strongswan.ts";
import { ping, pingWhile, requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import type { IkeStatus } from "../../src/daemons/node/ike-controls.ts";
import { activeChildren, close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const SETTLE_LIMIT_MS = 60_000;
const TEST_LIMIT_MS = 300_000;
const PINGS = { batch: 25, intervalSeconds: 0.04 };
const WINDOW_PACKETS = 4096;

let client: StrongSwan;
const lab = useLab({ targets: 1, cluster: { peerWindowPackets: WINDOW_PACKETS } }, async (up) => {
  await up.startCluster();
  client = await up.startClient({ replayWindowPackets: WINDOW_PACKETS });
});

afterEach(async () => {
  await client.terminate();
});

async function ikeSas(): Promise<IkeStatus> {
  const all = (await lab().distributor.ask("ikeSas")) as IkeStatus;
  return all.filter(({ state }) => state === "established");
}

describe("the distributor reaches out", () => {
  it.each([
    ["default", "default"],
    ["aes256-sha384-ecp256", "aes256-sha512"],
  ])(
    "to strongSwan with IKE proposals %s and ESP proposals %s",
    async (proposals, espProposals) => {
      await client.load(lab().clientSettings({ proposals, espProposals, replayWindowPackets: WINDOW_PACKETS }));
      await lab().distributor.ask("initiate", { peer: "client" });
      await statesOnEveryNode(lab(), 2);
      expect(await activeChildren(lab())).toMatchObject([{ mode: "transport" }]);
      expect(await ikeSas()).toMatchObject([{ peerName: "client" }]);
      expect(await ping(lab(), 3)).toEqual({ sent: 3, received: 3 });
      expect(await requestName(lab())).toEqual({ ok: true, node: "t1", problem: undefined });
      // Once more: it is there already.
      await lab().distributor.ask("initiate", { peer: "client" });
      expect(await ikeSas()).toHaveLength(1);
      await close(lab(), client);
    },
    TEST_LIMIT_MS,
  );
});

describe("the IKE SA is rekeyed under traffic", () => {
  const byUs = async (): Promise<void> => {
    const [ike] = await ikeSas();
    await lab().distributor.ask("rekeyIke", { ike: ike?.id });
  };
  const byPeer = async (): Promise<void> => {
    expect((await client.swanctl(["--rekey", "--ike", "dvipa"])).exitCode).toBe(0);
  };
  const CASES: readonly [string, ChildName, readonly (() => Promise<void>)[]][] = [
    ["by us", "transport", [byUs]],
    ["by the client", "tunnel", [byPeer]],
    ["by both at once", "transport", [byUs, byPeer]],
  ];
  it.each(CASES)(
    "%s, in %s mode: the Child SA stays, no packet is lost, and the heir works",
    async (_, mode, rekeys) => {
      await negotiate(lab(), client, mode, { replayWindowPackets: WINDOW_PACKETS });
      await statesOnEveryNode(lab(), 2);
      expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
      const [before] = await ikeSas();
      const { sent, received } = await pingWhile(
        lab(),
        async () => {
          await Promise.all(rekeys.map(async (rekey) => rekey()));
          await until("one IKE SA is left, a new one", SETTLE_LIMIT_MS, async () => {
            const all = (await lab().distributor.ask("ikeSas")) as IkeStatus;
            const up = all.filter(({ state }) => state === "established");
            return up.length === 1 && up[0]?.id !== before?.id && all.every(({ state }) => state !== "deleting");
          });
          const [heir] = await ikeSas();
          expect(heir?.children.map(({ saId }) => saId)).toEqual(before?.children.map(({ saId }) => saId));
          // The heir is good for the next exchange.
          await lab().distributor.ask("rekeyChild", { sa: heir?.children[0]?.saId ?? "" });
          await lab().distributor.waitFor(
            "has rekeyed the Child SA",
            SETTLE_LIMIT_MS,
            ({ sas }) => sas.length === 1 && sas[0]?.id !== heir?.children[0]?.saId,
          );
        },
        PINGS,
      );
      expect(received).toBe(sent);
      expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
      await close(lab(), client);
    },
    TEST_LIMIT_MS,
  );
});
