/**
 * IKE_SA_INIT from hundreds of addresses while a real client connects. Topology: `netns/layout.ts` with one target; the flood comes
 * from 203.0.113.0/24, routed to the bridge of the client network.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { DVIPA } from "../../netns/layout.ts";
import { Program } from "../../netns/program.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { ping, requestName } from "../../netns/traffic.ts";
import type { Drop } from "../../src/daemons/node/drops.ts";
import { DEFAULT_IKE_SETTINGS } from "../../src/ike/settings.ts";
import { close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";
import { addStranger, STRANGER } from "../support/stranger.ts";

const FLOOD = fileURLToPath(new URL("../support/flood-init.main.ts", import.meta.url));
const RECORDED = fileURLToPath(new URL("../vectors/ike/ss-psk-transport.hex", import.meta.url));
const MESSAGES_PER_SECOND = 500;
const CONNECTIONS = 3;
const SEEN_LIMIT_MS = 60_000;
const TEST_LIMIT_MS = 300_000;

let client: StrongSwan;
// Whoever comes may be a peer: the distributor has to answer.
const lab = useLab({ targets: 1, cluster: { peer: { address: "ANY" } } }, async (up) => {
  await addStranger(up.network);
  await up.network.run("net", ["ip", "route", "add", "local", "203.0.113.0/24", "dev", "lo"]);
  await up.network.run("d1", ["ip", "route", "add", "203.0.113.0/24", "via", STRANGER]);
  await up.startCluster();
  client = await up.startClient();
});

/** The first message of a recorded negotiation. */
async function recordedInit(): Promise<string> {
  const line = (await readFile(RECORDED, "utf8")).split("\n").find((text) => text !== "" && !text.startsWith("#"));
  return line?.trim().split(/\s+/).at(-1) ?? "";
}

it(
  "a real client connects, and what the flood leaves is bounded",
  async () => {
    const flood = Program.start({
      network: lab().network,
      node: "net",
      label: "flood",
      command: [process.execPath, FLOOD, DVIPA, await recordedInit(), String(MESSAGES_PER_SECOND)],
      logFile: join(lab().directory, "log", "flood.log"),
    });
    const { limits } = DEFAULT_IKE_SETTINGS;
    await lab().distributor.waitFor(
      "demands cookies",
      SEEN_LIMIT_MS,
      ({ counters }) => (counters["ike.cookieDemanded"] ?? 0) > 2 * limits.halfOpen,
    );
    for (let turn = 0; turn < CONNECTIONS; turn++) {
      await negotiate(lab(), client, "transport");
      await statesOnEveryNode(lab(), 2);
      expect(await ping(lab(), 3)).toEqual({ sent: 3, received: 3 });
      expect(await requestName(lab())).toMatchObject({ ok: true, node: "t1" });
      await close(lab(), client);
    }
    await flood.assertRunning();
    await flood.stop("SIGKILL");
    const withheld = ((await lab().distributor.ask("drops")) as readonly Drop[]).find(
      ({ counter }) => counter === "esplex.init_withheld",
    );
    expect(withheld?.packets).toBeGreaterThan(0);
    const { counters } = await lab().distributor.status();
    // Cookies begin at the threshold; a few more were half open before they did.
    expect(counters["ike.initAnswered"]).toBeLessThanOrEqual(limits.halfOpen);
    expect(counters["ike.ikeEstablished"]).toBe(CONNECTIONS);
  },
  TEST_LIMIT_MS,
);
