/**
 * Rekeying begun by the distributor while ping and downloads run, also when the client rekeys at the same moment; and a second SA of
 * the same tunnel, as the client makes it when it authenticates anew. Topology:
 * `netns/layout.ts`. "0 packets lost" is counted by ping, whose interval is far below the time that a rekey takes. The window
 * is the largest and the rates are low: what is lost here is lost by a rekey, not by a lease that ran dry on a slow machine.
 */
import { afterEach, describe, expect, it } from "vitest";
import { readClientDrops, readXfrmStat } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { DVIPA } from "../../netns/layout.ts";
import type { ChildName, ClientSettings, StrongSwan } from "../../netns/strongswan.ts";
import { download, pingWhile } from "../../netns/traffic.ts";
import type { SaStatus } from "../../src/daemons/node/status.ts";
import { close, negotiate, statesOnEveryNode, whatStopped } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const REKEY_LIMIT_MS = 60_000;
/** 50 packets a second. */
const PINGS = { batch: 25, intervalSeconds: 0.04 };
/** Four seconds each, so that most rekeys fall into one. */
const TRANSFER_BYTES = 1_000_000;
const PACE = { bytesPerSecond: 250_000, limitSeconds: 120 };
const REKEYS = 5;
const REAUTHENTICATIONS = 3;
/** How often a second IKE SA comes and goes. */
const SECONDS = 2;
const WINDOW_PACKETS = 4096;
const TEST_LIMIT_MS = 400_000;

let client: StrongSwan;
const lab = useLab({ targets: 2, cluster: { peerWindowPackets: WINDOW_PACKETS } }, async (up) => {
  await up.startCluster();
  client = await up.startClient({ replayWindowPackets: WINDOW_PACKETS });
});

afterEach(async () => {
  await client.terminate();
});

/** The one SA that the distributor sends on; waits until there is no other. */
async function onlySa(not: SaStatus | undefined): Promise<SaStatus> {
  const { sas } = await lab().distributor.waitFor(
    "has one SA, a new one",
    REKEY_LIMIT_MS,
    (status) => status.sas.length === 1 && status.sas[0]?.id !== not?.id && status.sas[0]?.outbound === "now",
  );
  const [sa] = sas;
  if (sa === undefined) throw new Error("no SA");
  return sa;
}

async function order(sa: SaStatus): Promise<void> {
  await lab().distributor.ask("rekeyChild", { sa: sa.id });
}

/** Runs `work` under ping and a download; fails when a packet is lost, repeated, late or in clear. */
async function underTraffic(
  mode: ChildName,
  settings: Partial<ClientSettings>,
  work: (first: SaStatus) => Promise<void>,
): Promise<number> {
  const before = await nodeErrors();
  const capture = await lab().startCapture();
  await negotiate(lab(), client, mode, { ...settings, replayWindowPackets: WINDOW_PACKETS });
  await statesOnEveryNode(lab(), 2);
  const first = await onlySa(undefined);
  const kept = await keptByClient();
  const stopped = await whatStopped(lab());
  const { sent, received } = await pingWhile(lab(), () => whileDownloading(() => work(first)), PINGS);
  expect(await nodeErrors()).toEqual(before);
  const told = `${(await keptByClient()) - kept} kept by the client; ${await whatStopped(lab())}; before: ${stopped}`;
  expect(received, told).toBe(sent);
  await statesOnEveryNode(lab(), 2);
  await close(lab(), client);
  expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
  const wire = await examineCapture(capture.path, DVIPA);
  expect(wire).toMatchObject({ duplicates: [], cleartextPackets: 0 });
  expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
  return wire.espFromDvipaBySpi.size;
}

/** Waits until the distributor sends on another SA than `not`, the newest. */
async function newestSent(not: SaStatus): Promise<void> {
  await lab().distributor.waitFor("sends on the newest SA", REKEY_LIMIT_MS, ({ sas }) => {
    const newest = sas.at(-1);
    return newest !== undefined && newest.id !== not.id && newest.outbound === "now";
  });
}

/** Runs `work` once a download runs; downloads go on until it is done. */
async function whileDownloading(work: () => Promise<void>): Promise<void> {
  let isDone = false;
  const downloads = async (): Promise<void> => {
    do expect(await download(lab(), TRANSFER_BYTES, PACE)).toMatchObject({ ok: true });
    while (!isDone);
  };
  const running = downloads();
  try {
    await lab().distributor.waitFor("sees the download", REKEY_LIMIT_MS, ({ targets }) =>
      targets.some(({ connections }) => connections > 0),
    );
    await work();
  } finally {
    isDone = true;
    await running;
  }
}

/**
 * For a person, when a ping is lost: packets, of ping or not, that never left the client, since its kernel had chosen an SA for them
 * that was deleted before they were encrypted (`net/xfrm/xfrm_output.c`, `xfrm_output_one`).
 */
async function keptByClient(): Promise<number> {
  return (await readXfrmStat(lab().network, "client")).get("XfrmOutStateInvalid") ?? 0;
}

/** Packets for SAs that a kernel did not have: what a break before make would show. */
async function nodeErrors(): Promise<readonly (readonly [string, number])[]> {
  const names = ["client", ...lab().nodes.map(({ node }) => node)];
  return Promise.all(
    names.map(async (node) => {
      const stat = await readXfrmStat(lab().network, node);
      return [node, (stat.get("XfrmInNoStates") ?? 0) + (stat.get("XfrmInStateInvalid") ?? 0)] as const;
    }),
  );
}

describe("rekeying by the distributor", () => {
  it.each([
    ["without PFS", "transport", "aes256gcm16"],
    ["with PFS", "tunnel", "aes256gcm16-x25519"],
    ["with PFS after a wrong guess", "transport", "aes128-sha256-ecp256"],
  ] as const)(
    "%s in %s mode loses no packet",
    async (_, mode, espProposals) => {
      const spis = await underTraffic(mode, { espProposals }, async (first) => {
        let sa = first;
        for (let i = 0; i < REKEYS; i++) {
          await order(sa);
          const heir = await onlySa(sa);
          expect(heir).toMatchObject({ reqid: sa.reqid, mode, suite: sa.suite });
          sa = heir;
        }
      });
      expect(spis).toBe(1 + REKEYS);
      const log = await lab().logTail("client", 400);
      const exchanges = log.slice(log.lastIndexOf("establishing CHILD_SA"));
      expect(exchanges.match(/parsed CREATE_CHILD_SA request \d+ \[.*REKEY_SA/g)?.length).toBeGreaterThanOrEqual(
        REKEYS,
      );
      const pfs = /generating CREATE_CHILD_SA response \d+ \[.* KE /.test(exchanges);
      expect(pfs).toBe(espProposals !== "aes256gcm16");
    },
    TEST_LIMIT_MS,
  );
});

describe("both ends rekey at the same moment", () => {
  it(
    "one SA is left on every node, and no packet is lost",
    async () => {
      await underTraffic("transport", { espProposals: "aes256gcm16-x25519" }, async (first) => {
        let sa = first;
        for (let i = 0; i < REKEYS; i++) {
          const [said] = await Promise.all([client.rekey("transport"), order(sa)]);
          expect(said.exitCode).toBe(0);
          sa = await onlySa(sa);
        }
      });
      const { counters } = await lab().distributor.status();
      expect(counters["ike.childRekeyBegun"]).toBeGreaterThanOrEqual(REKEYS);
    },
    TEST_LIMIT_MS,
  );
});

describe("a second SA of the same tunnel", () => {
  it.each(["transport", "tunnel"] as const)(
    "reauthentication in %s mode, make before break, loses no packet",
    async (mode) => {
      const spis = await underTraffic(mode, {}, async (first) => {
        let sa = first;
        for (let i = 0; i < REAUTHENTICATIONS; i++) {
          expect((await client.reauthenticate()).exitCode).toBe(0);
          const next = await onlySa(sa);
          expect(next).toMatchObject({ reqid: sa.reqid, mode });
          sa = next;
        }
      });
      expect(spis).toBe(1 + REAUTHENTICATIONS);
    },
    TEST_LIMIT_MS,
  );

  it(
    "the younger one goes first: the older one is sent on again, and no packet is lost",
    async () => {
      const spis = await underTraffic("transport", { hasAgain: true }, async (first) => {
        for (let i = 0; i < SECONDS; i++) {
          const made = await client.initiate("transport", 30, "again");
          expect(made.exitCode, made.stdout + made.stderr).toBe(0);
          await newestSent(first);
          expect((await client.terminate(30, "again")).exitCode).toBe(0);
          expect(await onlySa(undefined)).toMatchObject({ id: first.id });
        }
      });
      expect(spis).toBe(1 + SECONDS);
    },
    TEST_LIMIT_MS,
  );
});
