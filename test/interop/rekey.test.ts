/**
 * Rekeying of the Child SA by the client while a download runs, and a target that comes late. Topology:
 * `netns/layout.ts`; t3 starts after the negotiation.
 */
import { afterEach, describe, expect, it } from "vitest";
import { readClientDrops } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { DVIPA } from "../../netns/layout.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download, ping, requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { establishedIkeSas } from "../support/peer-matrix.ts";
import { useLab } from "../support/lab-fixture.ts";

const TRANSFER_BYTES = 12_000_000;
/** Slow enough that the rekey falls into the transfer, which then takes six seconds. */
const PACE = { bytesPerSecond: 2_000_000, limitSeconds: 90 };
const REKEY_LIMIT_MS = 30_000;

let client: StrongSwan;
const lab = useLab({}, async (up) => {
  await up.startCluster(["t3"]);
  client = await up.startClient();
});

afterEach(async () => {
  // Whatever a failed test left; after a good one there is nothing to close.
  await client.terminate();
});

describe("a target that joins late", () => {
  it("gets a snapshot of the SAs and takes its turn", async () => {
    await negotiate(lab(), client, "transport");
    await statesOnEveryNode(lab(), 2, ["d1", "t1", "t2"]);
    await lab().startTarget("t3");
    await statesOnEveryNode(lab(), 2);
    const nodes: (string | undefined)[] = [];
    while (nodes.length < 6) nodes.push((await requestName(lab())).node);
    expect(nodes.sort()).toEqual(["t1", "t1", "t2", "t2", "t3", "t3"]);
    await close(lab(), client);
  });
});

describe("rekeying by the client", () => {
  it.each([
    ["without PFS", "transport", "aes256gcm16", false],
    ["with PFS", "transport", "aes256gcm16-x25519", true],
    ["with PFS after a wrong guess", "tunnel", "aes128gcm16-x448-ecp256", true],
  ] as const)("%s in %s mode does not disturb a download", async (_, mode, espProposals, pfs) => {
    const capture = await lab().startCapture();
    await negotiate(lab(), client, mode, { espProposals });
    await statesOnEveryNode(lab(), 2);
    const [before] = (await lab().distributor.status()).sas;
    const running = download(lab(), TRANSFER_BYTES, PACE);
    await lab().distributor.waitFor("sees the download", REKEY_LIMIT_MS, ({ targets }) =>
      targets.some(({ connections }) => connections > 0),
    );
    expect((await client.rekey(mode)).exitCode).toBe(0);
    const rekeyed = await lab().distributor.waitFor(
      "has the new SA only",
      REKEY_LIMIT_MS,
      ({ sas }) => sas.length === 1 && sas[0]?.id !== before?.id && sas[0]?.outbound === "now",
    );
    expect(rekeyed.sas[0]).toMatchObject({ reqid: before?.reqid, mode });
    expect(await running).toMatchObject({ ok: true });
    expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
    await statesOnEveryNode(lab(), 2);
    const log = await lab().logTail("client", 400);
    const exchange = log.slice(log.lastIndexOf("establishing CHILD_SA"));
    expect(/CREATE_CHILD_SA response \d+ \[.* SA No KE /.test(exchange)).toBe(pfs);
    await close(lab(), client);
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    const wire = await examineCapture(capture.path, DVIPA);
    expect(wire).toMatchObject({ duplicates: [], cleartextPackets: 0 });
    expect(wire.espFromDvipaBySpi.size).toBe(2);
    expect(Math.min(...wire.espFromDvipaBySpi.values())).toBeGreaterThan(100);
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
  });

  it("goes on when we have synchronised message IDs with it (RFC 6311), whoever begins", async () => {
    await negotiate(lab(), client, "transport");
    const synchronised = async (): Promise<number> =>
      (await lab().distributor.status()).counters["ike.messageIdsSynchronised"] ?? 0;
    const before = await synchronised();
    const onlySa = async (not: string): Promise<string> => {
      const { sas } = await lab().distributor.waitFor(
        "has one SA, a new one",
        REKEY_LIMIT_MS,
        (status) => status.sas.length === 1 && status.sas[0]?.id !== not && status.sas[0]?.outbound === "now",
      );
      return sas[0]?.id ?? "";
    };
    const first = await onlySa("");
    const [ike] = await establishedIkeSas(lab());
    await lab().distributor.ask("synchroniseIke", { ike: ike?.id ?? "" });
    await until("both have agreed", REKEY_LIMIT_MS, async () => (await synchronised()) === before + 1);
    expect((await client.rekey("transport")).exitCode).toBe(0);
    const second = await onlySa(first);
    await lab().distributor.ask("rekeyChild", { sa: second });
    await onlySa(second);
    expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
    expect(await lab().logTail("client", 400)).toContain("responder requested MID sync");
    await close(lab(), client);
  });

  it("leaves nothing behind", async () => {
    await until("no node has an SA", REKEY_LIMIT_MS, async () => {
      const statuses = await Promise.all(lab().nodes.map((daemon) => daemon.status()));
      return statuses.every(({ sas }) => sas.length === 0);
    });
  });
});
