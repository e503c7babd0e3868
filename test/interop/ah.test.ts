/**
 * AH (RFC 4302) instead of ESP, with a stock strongSwan: every suite in both modes and IP versions, extended numbers, rekeying by
 * either end. Topology: `netns/layout.ts`, two targets. The ledger is held against the capture at the end.
 */
import { describe, expect, it } from "vitest";
import { join } from "node:path";
import type { Capture } from "../../netns/capture.ts";
import { readClientDrops, readCleartext, readXfrmStat } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import type { ChildName, StrongSwan } from "../../netns/strongswan.ts";
import { download, onEveryTarget, ping, requestName, upload } from "../../netns/traffic.ts";
import { close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";
import { verifyLedger } from "../fault/ledger-evidence.ts";

const WINDOW_PACKETS = 4096;
const DOWNLOAD_BYTES = 300_000;
const UPLOAD_BYTES = 100_000;
/** Slow enough that both rekeys fall into the transfer. */
const TRANSFER_BYTES = 2_000_000;
const PACE = { bytesPerSecond: 400_000, limitSeconds: 90 };
const PING = { count: 150, intervalSeconds: 0.02 };
const LIMIT_MS = 30_000;
const TEST_LIMIT_MS = 240_000;

const SUITES = [
  ["sha256", "AH/HMAC_SHA2_256_128", "hmac(sha256)"],
  ["sha384", "AH/HMAC_SHA2_384_192", "hmac(sha384)"],
  ["sha512-esn", "AH/HMAC_SHA2_512_256", "hmac(sha512)"],
] as const;
const MODES = ["transport", "tunnel"] as const;
const CASES = SUITES.flatMap(([ahProposals, suite, algorithm]) =>
  MODES.map((mode) => ({ ahProposals, suite, algorithm, mode })),
);

describe.each([4, 6] as const)("IPv%s", (version) => {
  let client: StrongSwan;
  let capture: Capture;
  let negotiations = 0;
  const ahProposals = ["sha256", "sha384", "sha512"];
  const settings = { espProposals: ["aes128gcm16"], peerWindowPackets: WINDOW_PACKETS, peer: { ahProposals } };
  const lab = useLab({ targets: 2, cluster: settings, versions: { service: version } }, async (up) => {
    await up.startCluster();
    client = await up.startClient();
    capture = await up.startCapture();
  });
  const begin = async (mode: ChildName, proposals: string): Promise<void> => {
    negotiations++;
    await negotiate(lab(), client, mode, { ahProposals: proposals, replayWindowPackets: WINDOW_PACKETS });
    await statesOnEveryNode(lab(), 2);
  };

  // Every suite in both modes once; IPv6 differs in the header's padding, which depends on the suite alone.
  it.each(CASES.filter((_, i) => version === 4 || i % 2 === (i >> 1) % 2))(
    "$ahProposals in $mode mode: installed everywhere as AH, and every target serves",
    { timeout: TEST_LIMIT_MS },
    async ({ ahProposals: proposals, suite, algorithm, mode }) => {
      await begin(mode, proposals);
      for (const daemon of [lab().distributor, ...lab().targets]) {
        expect((await daemon.status()).sas).toMatchObject([{ suite, mode }]);
        const states = await lab().network.run(daemon.node, ["ip", "-d", "xfrm", "state", "list", "nokeys"]);
        expect(states.split("proto ah ")).toHaveLength(3);
        expect(states.split(algorithm)).toHaveLength(3);
        expect(/flag [^\n]*\besn\b/.test(states)).toBe(proposals.endsWith("-esn"));
      }
      expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
      for (const transfer of [() => download(lab(), DOWNLOAD_BYTES), () => upload(lab(), UPLOAD_BYTES)]) {
        const served = await onEveryTarget(lab(), transfer);
        expect(served.map(({ ok, node }) => `${ok} ${node ?? ""}`).sort()).toEqual(["true t1", "true t2"]);
      }
      await close(lab(), client);
    },
  );

  it(
    "a rekey by either end loses no packet, and AH stays AH",
    async () => {
      await begin("transport", "sha256-x25519");
      const [first] = (await lab().distributor.status()).sas;
      const running = download(lab(), TRANSFER_BYTES, PACE);
      const pinging = ping(lab(), PING.count, { intervalSeconds: PING.intervalSeconds });
      expect((await client.rekey("transport")).exitCode).toBe(0);
      const second = await onlySa(first?.id);
      expect(second).toMatchObject({ suite: "AH/HMAC_SHA2_256_128", reqid: first?.reqid });
      // Whatever has become of the traffic above on a slow machine: each SA has carried something.
      expect(await requestName(lab())).toMatchObject({ ok: true });
      await lab().distributor.ask("rekeyChild", { sa: second.id });
      const third = await onlySa(second.id);
      expect(third).toMatchObject({ suite: "AH/HMAC_SHA2_256_128", reqid: first?.reqid });
      expect(await requestName(lab())).toMatchObject({ ok: true });
      negotiations += 2;
      expect(await running).toMatchObject({ ok: true });
      expect(await pinging).toEqual({ sent: PING.count, received: PING.count });
      await statesOnEveryNode(lab(), 2);
      await close(lab(), client);
    },
    TEST_LIMIT_MS,
  );

  it("left no number twice, no packet that a kernel dropped, nothing in clear, and a ledger that proves it", async () => {
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    const { network } = lab();
    const wire = await examineCapture(capture.path, network.dvipa);
    expect(wire).toMatchObject({ duplicates: [], duplicateCount: 0, cleartextPackets: 0 });
    expect(wire.ahFromDvipa).toBe(wire.espFromDvipa);
    expect(wire.espFromDvipaBySpi.size).toBe(negotiations);
    expect(await readCleartext(network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
    expect(await readClientDrops(network)).toEqual({ replay: 0, integrity: 0 });
    for (const { node } of lab().nodes) {
      const stat = await readXfrmStat(network, node);
      const errors = ["XfrmInStateSeqError", "XfrmInStateProtoError", "XfrmInTmplMismatch", "XfrmInNoStates"];
      expect([node, ...errors.map((name) => stat.get(name) ?? 0)]).toEqual([node, 0, 0, 0, 0]);
    }
    const proof = await verifyLedger(join(lab().stateDirectory, "ledger"), capture.path);
    expect(proof).toMatchObject({ proven: true, duplicates: 0, outsideLease: 0, cutPackets: 0, sas: negotiations });
    expect(proof.packets).toBe(wire.ahFromDvipa);
  });

  /** The one SA that the distributor sends on, another than before. */
  async function onlySa(not: string | undefined): Promise<{ readonly id: string }> {
    const { sas } = await lab().distributor.waitFor(
      "has one SA, a new one",
      LIMIT_MS,
      (status) => status.sas.length === 1 && status.sas[0]?.id !== not && status.sas[0]?.outbound === "now",
    );
    const [sa] = sas;
    if (sa === undefined) throw new Error("no SA");
    return sa;
  }
});
