import { describe, expect, it } from "vitest";
import type { PeerConnection } from "../../netns/ipsec-peer.ts";
import type { Lab } from "../../netns/lab.ts";
import { readXfrmStat } from "../../netns/counters.ts";
import { pingWhile } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { whatStopped } from "./cluster-probes.ts";
import { establishedIkeSas, onlySa, type PeerLab } from "./peer-matrix.ts";

const REKEY_LIMIT_MS = 120_000;
const TEST_LIMIT_MS = 400_000;
/** A peer with a window of 32 leaves the distributor few numbers at a time: this is what it can answer with them. */
const PINGS = { batch: 15, intervalSeconds: 0.2 };

/** What was lost of pings until `work` is done. */
async function lostDuring(lab: Lab, { ipVersion }: PeerConnection, work: () => Promise<void>): Promise<number> {
  const { sent, received } = await pingWhile(lab, work, { ...PINGS, ipVersion });
  return sent - received;
}

/** Waits until another IKE SA is in the place of this one. */
async function ikeHeir(lab: Lab, old: string): Promise<void> {
  await until("one IKE SA is left, a new one", REKEY_LIMIT_MS, async () => {
    const [ike, ...others] = await establishedIkeSas(lab);
    return others.length === 0 && ike !== undefined && ike.id !== old && ike.children.length === 1;
  });
}

async function onlyIkeSa(lab: Lab): Promise<string> {
  const [ike] = await establishedIkeSas(lab);
  if (ike === undefined) throw new Error("no IKE SA");
  return ike.id;
}

/** Rekeys, of either kind, that the distributor began. */
async function begunByUs(lab: Lab): Promise<number> {
  const { counters } = await lab.distributor.status();
  return (counters["ike.childRekeyBegun"] ?? 0) + (counters["ike.ikeRekeyBegun"] ?? 0);
}

/**
 * Packets that came to the peer on an SA that it had no more. A peer that deletes the old SA without waiting for our answer to its
 * DELETE drops what we had sent on it before we heard of that, and nothing that we do can change it.
 */
async function tooLateForPeer(lab: Lab): Promise<number> {
  return (await readXfrmStat(lab.network, "client")).get("XfrmInNoStates") ?? 0;
}

/**
 * The Child SA and then the IKE SA are rekeyed by either end, each time once or (by a peer's short lifetimes) oftener, under
 * ping.
 */
export function testRekeys(
  { lab, peer, establish, close }: PeerLab,
  byUs: PeerConnection,
  byPeer: PeerConnection,
): void {
  describe("rekeying of the Child SA and of the IKE SA", () => {
    it(
      "by the cluster loses nothing",
      async () => {
        const sa = await establish(byUs, "peer");
        const lost = await lostDuring(lab(), byUs, async () => {
          await lab().distributor.ask("rekeyChild", { sa: sa.id });
          await onlySa(lab(), byUs, sa);
          const ike = await onlyIkeSa(lab());
          await lab().distributor.ask("rekeyIke", { ike });
          await ikeHeir(lab(), ike);
        });
        expect(lost, await whatStopped(lab())).toBe(0);
        await close(byUs);
      },
      TEST_LIMIT_MS,
    );

    it(
      "by the peer loses nothing but what was on its way when the peer let the old SA go",
      async () => {
        const sa = await establish(byPeer, "peer");
        const [ours, before] = [await begunByUs(lab()), await tooLateForPeer(lab())];
        const first = await onlyIkeSa(lab());
        const lost = await lostDuring(lab(), byPeer, async () => {
          await peer().rekeyChild?.(byPeer);
          await onlySa(lab(), byPeer, sa);
          await peer().rekeyIke?.(byPeer);
          await ikeHeir(lab(), first);
        });
        expect(lost, await whatStopped(lab())).toBeLessThanOrEqual((await tooLateForPeer(lab())) - before);
        expect(await begunByUs(lab())).toBe(ours);
        await close(byPeer);
      },
      TEST_LIMIT_MS,
    );
  });
}
