/**
 * Extended sequence numbers (RFC 4303 §2.2.1) and the largest windows, both ways. Topology: `netns/layout.ts`.
 */
import { describe, expect, it } from "vitest";
import type { Capture } from "../../netns/capture.ts";
import { readClientDrops, readCleartext, readXfrmStat } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { DVIPA } from "../../netns/layout.ts";
import type { ClientSettings, StrongSwan } from "../../netns/strongswan.ts";
import { download, onEveryTarget, ping, requestName, upload } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const WINDOW_PACKETS = 4096;
const DOWNLOAD_BYTES = 5_000_000;
const UPLOAD_BYTES = 1_000_000;
const TEST_LIMIT_MS = 400_000;
const SETTLE_LIMIT_MS = 30_000;

const CASES = [
  { mode: "transport", espProposals: "aes256gcm16-x25519-esn" },
  { mode: "tunnel", espProposals: "aes256gcm16-x25519-esn" },
  { mode: "transport", espProposals: "aes128-sha256-esn" },
  { mode: "tunnel", espProposals: "aes128-sha256-esn" },
] as const;

let client: StrongSwan;
let capture: Capture;
const window = { peerWindowPackets: WINDOW_PACKETS, inboundWindowPackets: WINDOW_PACKETS };
const lab = useLab({ cluster: window }, async (up) => {
  await up.startCluster();
  client = await up.startClient();
});

describe.each(CASES)("$espProposals in $mode mode", ({ mode, espProposals }) => {
  it("is negotiated, and every kernel has extended numbers and the window", async () => {
    capture = await lab().startCapture();
    await negotiateEsn(mode, espProposals);
    expect(await client.listSas()).toMatch(/ESP:[^\n]*\/ESN/);
    await everyStateIsEsn();
  });

  it("answers ping at d1 and requests from each target", async () => {
    expect(await ping(lab(), 10)).toEqual({ sent: 10, received: 10 });
    const nodes: (string | undefined)[] = [];
    while (nodes.length < 6) nodes.push((await requestName(lab())).node);
    expect([...nodes].sort()).toEqual(["t1", "t1", "t2", "t2", "t3", "t3"]);
  });

  it("transfers with the right checksum, one at a time and all at once", { timeout: TEST_LIMIT_MS }, async () => {
    const single = await onEveryTarget(lab(), () => download(lab(), DOWNLOAD_BYTES));
    expect(single.map(({ ok, node }) => `${ok} ${node ?? ""}`).sort()).toEqual(["true t1", "true t2", "true t3"]);
    const parallel = await Promise.all(lab().targets.map(() => download(lab(), DOWNLOAD_BYTES)));
    expect(parallel.map(({ ok, node }) => `${ok} ${node ?? ""}`).sort()).toEqual(["true t1", "true t2", "true t3"]);
    const uploads = await onEveryTarget(lab(), () => upload(lab(), UPLOAD_BYTES));
    expect(uploads.filter(({ ok }) => !ok)).toEqual([]);
  });

  it("keeps extended numbers over a rekey", async () => {
    const before = await everyStateIsEsn();
    expect((await client.rekey(mode)).exitCode).toBe(0);
    // strongSwan keeps the old inbound state for some seconds (`delete_rekeyed_delay`).
    await until("client and nodes have the new SA and not the old one", SETTLE_LIMIT_MS, async () => {
      const states = await Promise.all(["client", ...nodeNames()].map(statesOf));
      return states.every((list) => list.length === 2 && list.every(({ spi }) => !before.includes(spi)));
    });
    await everyStateIsEsn();
    expect(await ping(lab(), 3)).toEqual({ sent: 3, received: 3 });
    expect(await requestName(lab())).toMatchObject({ ok: true });
  });

  it("left no trace of a mistake on the wire or in a kernel", async () => {
    await close(lab(), client);
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    const wire = await examineCapture(capture.path, DVIPA);
    expect(wire).toMatchObject({ duplicates: [], cleartextPackets: 0 });
    expect(await readCleartext(lab().network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
    for (const node of nodeNames()) {
      const stat = await readXfrmStat(lab().network, node);
      expect([node, stat.get("XfrmInStateSeqError") ?? 0, stat.get("XfrmInStateProtoError") ?? 0]).toEqual([
        node,
        0,
        0,
      ]);
    }
  });
});

describe("`esn: allow`, the default", () => {
  it.each([
    ["aes256gcm16-esn-noesn", true],
    ["aes256gcm16-noesn-esn", false],
    ["aes256gcm16-noesn,aes256gcm16-esn", false],
    ["aes256gcm16", false],
  ])("%s: what the client lists first", async (espProposals, isEsn) => {
    await negotiateEsn("transport", espProposals);
    for (const node of ["client", ...nodeNames()]) {
      expect(
        (await statesOf(node)).map(({ esn }) => esn),
        node,
      ).toEqual([isEsn, isEsn]);
    }
    expect(await requestName(lab())).toMatchObject({ ok: true });
    await close(lab(), client);
  });
});

async function negotiateEsn(mode: "transport" | "tunnel", espProposals: string): Promise<void> {
  const changes: Partial<ClientSettings> = { espProposals, replayWindowPackets: WINDOW_PACKETS };
  await negotiate(lab(), client, mode, changes);
  await statesOnEveryNode(lab(), 2);
}

const nodeNames = (): string[] => lab().nodes.map(({ node }) => node);

interface ListedState {
  readonly spi: string;
  readonly isToDvipa: boolean;
  readonly esn: boolean;
  /** What iproute2 shows of `XFRMA_REPLAY_ESN_VAL`. */
  readonly windowPackets: number;
}

/** States of a node as iproute2, not we, reads them. */
async function statesOf(node: string): Promise<ListedState[]> {
  const text = await lab().network.run(node, ["ip", "-d", "xfrm", "state", "list", "nokeys"]);
  return text
    .split(/^(?=src )/m)
    .filter((block) => block.startsWith("src "))
    .map((block) => ({
      spi: /spi (0x[0-9a-f]+)/.exec(block)?.[1] ?? "",
      isToDvipa: block.includes(`dst ${DVIPA}\n`),
      esn: /flag [^\n]*\besn\b/.test(block),
      windowPackets: Number(/replay_window (\d+), bitmap-length/.exec(block)?.[1] ?? -1),
    }));
}

/** Checks client, distributor and targets; returns the SPIs. */
async function everyStateIsEsn(): Promise<string[]> {
  const lists = await Promise.all(["client", ...nodeNames()].map(statesOf));
  expect(lists.flat().map(({ esn }) => esn)).toEqual(Array(2 * lists.length).fill(true));
  const inbound = lists.map((list, i) => list.find(({ isToDvipa }) => isToDvipa === i > 0)?.windowPackets);
  expect(inbound).toEqual(Array(lists.length).fill(WINDOW_PACKETS));
  return lists.flat().map(({ spi }) => spi);
}
