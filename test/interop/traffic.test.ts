/**
 * The main job: one address, three targets, each with its own kernel on one shared SA. Topology: `netns/layout.ts`.
 */
import { describe, expect, it } from "vitest";
import type { Capture } from "../../netns/capture.ts";
import { readCleartext, readClientDrops, readDecapsulatedTcp } from "../../netns/counters.ts";
import { examineCapture, type WireEvidence } from "../../netns/evidence.ts";
import type { Lab } from "../../netns/lab.ts";
import { residue, snapshotKernel } from "../../netns/residue.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download, onEveryTarget, ping, requestName, upload } from "../../netns/traffic.ts";
import { close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const MODES = ["transport", "tunnel"] as const;
/** Of one; the paths of the others differ only in the packets' form: less will do. */
const LARGE_BYTES = 20_000_000;
const SMALL_BYTES = 5_000_000;
/** Three fragments on the wire. */
const FRAGMENTED_BYTES = 4000;
const PARALLEL_REQUESTS = 30;
const TEST_LIMIT_MS = 400_000;

describe.each([4, 6] as const)("IPv%i", (ipVersion) => {
  let client: StrongSwan;
  let capture: Capture;
  const before = new Map<string, readonly string[]>();
  const lab = useLab({ versions: { service: ipVersion } }, async (up) => {
    for (const { name } of up.network.nodes) before.set(name, await snapshotKernel(up.network, name));
    await up.startCluster();
    client = await up.startClient();
  });

  describe.each(MODES)("traffic in %s mode", (mode) => {
    const transferBytes = ipVersion === 4 && mode === "transport" ? LARGE_BYTES : SMALL_BYTES;

    it("is negotiated, and every node has the SA", async () => {
      capture = await lab().startCapture();
      await negotiate(lab(), client, mode);
      await statesOnEveryNode(lab(), 2);
      const statuses = await Promise.all(lab().nodes.map((daemon) => daemon.status()));
      const ids = statuses.map(({ sas }) => sas.map(({ id, spiOut, reqid }) => `${id} ${spiOut} ${reqid}`));
      expect(new Set(ids.flat()).size).toBe(1);
      expect(ids.every((list) => list.length === 1)).toBe(true);
    });

    it("answers ping at d1", async () => {
      expect(await ping(lab(), 10)).toEqual({ sent: 10, received: 10 });
    });

    it("answers pings that come in fragments", async () => {
      expect(await ping(lab(), 3, { bytes: FRAGMENTED_BYTES })).toEqual({ sent: 3, received: 3 });
      const { counters } = await lab().distributor.status();
      expect(counters["steer.drop.fragment"] ?? 0).toBe(0);
    });

    it("serves requests in turn from each target", async () => {
      const nodes: (string | undefined)[] = [];
      while (nodes.length < 9) nodes.push((await requestName(lab())).node);
      for (const first of [0, 3, 6]) expect(nodes.slice(first, first + 3).sort()).toEqual(["t1", "t2", "t3"]);
    });

    it(`serves ${PARALLEL_REQUESTS} requests at the same time`, async () => {
      const results = await Promise.all(Array.from({ length: PARALLEL_REQUESTS }, () => requestName(lab())));
      expect(results.filter(({ ok }) => !ok)).toEqual([]);
      for (const { node } of lab().targets) expect(results.filter((result) => result.node === node)).toHaveLength(10);
    });

    it("downloads from each target with the right checksum", { timeout: TEST_LIMIT_MS }, async () => {
      const results = await onEveryTarget(lab(), () => download(lab(), transferBytes));
      expect(results.map(({ ok, node }) => `${ok} ${node ?? ""}`).sort()).toEqual(["true t1", "true t2", "true t3"]);
    });

    it("uploads to each target with the right checksum", { timeout: TEST_LIMIT_MS }, async () => {
      const results = await onEveryTarget(lab(), () => upload(lab(), transferBytes));
      expect(results.map(({ ok, node }) => `${ok} ${node ?? ""}`).sort()).toEqual(["true t1", "true t2", "true t3"]);
    });

    it("downloads from all targets at the same time", { timeout: TEST_LIMIT_MS }, async () => {
      const results = await Promise.all(lab().targets.map(() => download(lab(), transferBytes)));
      expect(results.map(({ ok, node }) => `${ok} ${node ?? ""}`).sort()).toEqual(["true t1", "true t2", "true t3"]);
    });

    it("left no trace of a mistake on the wire", async () => {
      await close(lab(), client);
      expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
      const wire = await examineCapture(capture.path, lab().network.dvipa);
      expect(wire).toMatchObject({ duplicates: [], cleartextPackets: 0 });
      // An IPv6 tunnel fragments what goes into it (RFC 4303 §3.3.4), all others their ESP.
      expect(wire.espFragments > 0).toBe(!(ipVersion === 6 && mode === "tunnel"));
      expect(sendersOf(lab(), wire)).toEqual(["d1", "t1", "t2", "t3"]);
      expect(await readCleartext(lab().network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
      expect(await readDecapsulatedTcp(lab().network, "d1")).toBe(0);
      expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
    });
  });

  it("leaves nothing behind in the kernel", { timeout: TEST_LIMIT_MS }, async () => {
    for (const daemon of [...lab().nodes].reverse()) {
      expect(await daemon.stop("SIGTERM")).toEqual({ exitCode: 0, signal: null });
      expect(residue(before.get(daemon.node) ?? [], await snapshotKernel(lab().network, daemon.node))).toEqual([]);
    }
  });
});

function sendersOf(lab: Lab, wire: WireEvidence): string[] {
  return [...wire.espFromDvipaByMac.keys()].map((mac) => lab.ownerOfMac(mac)).sort();
}
