/**
 * Recorded ESP packets come again: the short version of `npm run fault -- replay`. Topology: `netns/layout.ts` with two targets, and an
 * attacker on the client's link. What was accepted is the kernels' own count.
 */
import { afterAll, describe, expect, it } from "vitest";
import type { StrongSwan } from "../../netns/strongswan.ts";
import type { Drop } from "../../src/daemons/node/drops.ts";
import { ReplayMoments } from "../fault/replay-moments.ts";
import { negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";
import { acceptedPackets, inboundStates, Replayer } from "../support/replayer.ts";

let client: StrongSwan;
let replayer: Replayer;
let moments: ReplayMoments;
const lab = useLab({ targets: 2 }, async (up) => {
  await up.startCluster();
  client = await up.startClient();
  replayer = await Replayer.start(up);
  await negotiate(up, client, "transport");
  await statesOnEveryNode(up, 2);
  moments = new ReplayMoments(up, client, replayer, () => {});
});
afterAll(() => replayer[Symbol.asyncDispose]());

function acceptedNoneTwice(): void {
  const last = moments.results.at(-1);
  expect(last?.replayed).toBeGreaterThan(0);
  expect(last).toMatchObject({ acceptedTwice: 0 });
}

describe("a packet that comes twice is accepted once", () => {
  it("at once, on its way and a moment later, while connections open and close", async () => {
    await moments.following("following", [0, 20, 150], () => moments.traffic());
    acceptedNoneTwice();
    // The originals were all accepted, and recorded: there was something to accept twice.
    expect(await acceptedPackets(lab())).toBe((await replayer.recorded()).length);
  });

  it("after its connection closed, though its SYN would be a new connection's, for the other target", async () => {
    await moments.again("closed");
    acceptedNoneTwice();
    const { counters } = await lab().distributor.status();
    const replayed = (counters["steer.drop.replayed"] ?? 0) + (counters["steer.drop.tooOld"] ?? 0);
    expect(replayed).toBeGreaterThan(0);
    const drops = (await lab().distributor.ask("drops")) as readonly Drop[];
    const told = drops.filter(({ counter }) => /^steer\.drop\.(replayed|tooOld)$/.test(counter));
    expect(told.reduce((sum, { packets }) => sum + packets, 0)).toBe(replayed);
    expect(told.every(({ why, advice }) => why !== "" && advice !== "")).toBe(true);
  });

  it("after its target was stopped and started again: the new state begins with what all have received", async () => {
    await moments.restart("t1", "SIGTERM");
    await moments.again("restarted");
    acceptedNoneTwice();
    const text = await lab().network.run("t1", ["ip", "-s", "xfrm", "state", "list", "nokeys"]);
    const window = /dst 192\.0\.2\.100[\s\S]*?seq-hi 0x0, seq (0x[0-9a-f]+)/.exec(text)?.[1];
    const highest = Math.max(...(await replayer.recorded()).map(({ sequence }) => sequence));
    expect(Number(window)).toBe(highest);
    // Past the distributor, as one that checks nothing would bring it: the target's own kernel knows it.
    await moments.again("past the distributor", replayer.pastDistributor("t1", "trust"));
    acceptedNoneTwice();
  });

  it("after another program flushed its target's states", async () => {
    await moments.traffic();
    await moments.flushStates("t2");
    await moments.again("flushed");
    acceptedNoneTwice();
  });

  it("when it is sent to another target itself, over the client network", async () => {
    await moments.traffic();
    await moments.again("past the distributor", replayer.pastDistributor("t2", "client"));
    acceptedNoneTwice();
  });

  it("but past the distributor, over the trusted link, at a target that has not received it: the control", async () => {
    await moments.traffic();
    await moments.again("planted", replayer.pastDistributor("t2", "trust"));
    expect(moments.results.at(-1)?.acceptedTwice).toBeGreaterThan(0);
  });

  it("and of an open connection's packets with forged SYN, FIN and RST none is accepted, and it goes on", async () => {
    const before = await moments.quiet();
    const running = moments.download();
    const forgedBefore = await replayer.forge("flippedFlags", { perPacket: 1 });
    await running;
    expect((await replayer.endForging()) - forgedBefore).toBeGreaterThan(100);
    const after = await moments.quiet();
    const accepted = after.accepted - before.accepted;
    expect(accepted).toBeGreaterThan(0);
    expect(accepted).toBeLessThanOrEqual(after.recorded - before.recorded);
  });

  it("after its SA was rekeyed, at a kernel that has the old one no more", async () => {
    const [spi = 0] = (await inboundStates(lab())).map((state) => state.spi);
    await moments.rekey();
    await moments.again("rekeyed", replayer.toDistributor, spi);
    acceptedNoneTwice();
    await moments.traffic();
  });
});
