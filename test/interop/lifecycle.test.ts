/**
 * Stopping and killing daemons. Topology: `netns/layout.ts`.
 */
import { describe, expect, it } from "vitest";
import type { Capture } from "../../netns/capture.ts";
import { readCleartext } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { DVIPA } from "../../netns/layout.ts";
import { residue, snapshotKernel } from "../../netns/residue.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download, ping, requestName, type RequestResult } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const TRANSFER_BYTES = 12_000_000;
/** Six seconds at least; the client gives up after forty. */
const PACE = { bytesPerSecond: 2_000_000, limitSeconds: 40 };
const RECOVERY_LIMIT_MS = 60_000;
const TEST_LIMIT_MS = 300_000;

let client: StrongSwan;
let capture: Capture;
const before = new Map<string, readonly string[]>();
const lab = useLab({}, async (up) => {
  for (const { name } of up.network.nodes) before.set(name, await snapshotKernel(up.network, name));
  await up.startCluster();
  client = await up.startClient();
  capture = await up.startCapture();
  await negotiate(up, client, "transport");
  await statesOnEveryNode(up, 2);
});

/** Requests until each of these targets has answered. */
async function servedBy(names: readonly string[]): Promise<void> {
  const seen = new Set<string | undefined>();
  await until(`${names.join(", ")} answer requests`, RECOVERY_LIMIT_MS, async () => {
    seen.add((await requestName(lab())).node);
    return names.every((name) => seen.has(name));
  });
}

/** Starts a download and waits until d1 has it in its table; the promise is in an object, so that it is not awaited. */
async function downloadUnderWay(): Promise<{ readonly target: string; readonly result: Promise<RequestResult> }> {
  const result = download(lab(), TRANSFER_BYTES, PACE);
  const { targets } = await lab().distributor.waitFor("sees the download", RECOVERY_LIMIT_MS, (status) =>
    status.targets.some(({ connections }) => connections > 0),
  );
  return { target: targets.find(({ connections }) => connections > 0)?.name ?? "", result };
}

function tell(killed: string, { ok, problem }: RequestResult): void {
  console.log(`SIGKILL of ${killed} during a download: the user ${ok ? "noticed nothing" : `saw: ${problem ?? "?"}`}`);
}

describe("SIGKILL during a download", { timeout: TEST_LIMIT_MS }, () => {
  it("of a target's daemon: it starts over a dirty kernel and converges", async () => {
    const { target, result } = await downloadUnderWay();
    await lab().target(target).stop("SIGKILL");
    await lab().startTarget(target);
    tell(target, await result);
    await statesOnEveryNode(lab(), 2);
    await servedBy(["t1", "t2", "t3"]);
  });

  it("of the coupling service: it goes on above its old ceiling", async () => {
    const { result } = await downloadUnderWay();
    await lab().coupling.stop("SIGKILL");
    await lab().coupling.start();
    await lab().coupling.ready();
    await Promise.all(lab().nodes.map((daemon) => daemon.ready()));
    tell("the coupling service", await result);
    await servedBy(["t1", "t2", "t3"]);
  });

  it("of the distributor: it clears up what it lost, and the client can come back", async () => {
    const { result } = await downloadUnderWay();
    await lab().distributor.stop("SIGKILL");
    await lab().distributor.start();
    await lab().distributor.ready();
    await lab().targetsConnected();
    await statesOnEveryNode(lab(), 0);
    // Its SA is still there at the client, so that nothing leaves in clear; the download waits in vain.
    tell("the distributor", await result);
    await client.swanctl(["--terminate", "--ike", "dvipa", "--force", "--timeout", "1"]);
    await negotiate(lab(), client, "transport");
    await statesOnEveryNode(lab(), 2);
    expect(await ping(lab(), 3)).toEqual({ sent: 3, received: 3 });
    await servedBy(["t1", "t2", "t3"]);
  });

  it("left no trace of a mistake on the wire", async () => {
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    expect(await examineCapture(capture.path, DVIPA)).toMatchObject({ duplicates: [], cleartextFromDvipa: 0 });
    expect(await readCleartext(lab().network)).toMatchObject({ fromDvipa: 0 });
  });
});

describe("another program at a target", { timeout: TEST_LIMIT_MS }, () => {
  it("removes a policy, of which the kernel tells nobody: the next audit puts it back", async () => {
    const policies = (): Promise<string> => lab().network.run("t1", ["ip", "xfrm", "policy"]);
    const lines = (text: string): string[] => text.split(/^(?=src )/m).sort();
    const before = lines(await policies());
    const own = before.find((block) => block.includes("dir out") && block.includes("tmpl"));
    const [, source = "", destination = ""] = /^src (\S+) dst (\S+)/.exec(own ?? "") ?? [];
    await lab().network.run("t1", ["ip", "xfrm", "policy", "delete", "src", source, "dst", destination, "dir", "out"]);
    expect(lines(await policies())).toHaveLength(before.length - 1);
    await until("the policy is back", RECOVERY_LIMIT_MS, async () => {
      return lines(await policies()).length === before.length;
    });
    expect(lines(await policies())).toEqual(before);
  });
});

describe("SIGTERM leaves nothing behind in the kernel", { timeout: TEST_LIMIT_MS }, () => {
  it.each(["t1", "d1", "t2", "t3", "cf"])("of %s, with an SA alive", async (name) => {
    const daemon = [lab().coupling, ...lab().nodes].find(({ node }) => node === name);
    expect(await daemon?.stop("SIGTERM")).toEqual({ exitCode: 0, signal: null });
    const left = residue(before.get(name) ?? [], await snapshotKernel(lab().network, name));
    expect(left).toEqual([]);
  });

  it("and everything starts again", async () => {
    await lab().startCluster();
    await client.swanctl(["--terminate", "--ike", "dvipa", "--force", "--timeout", "1"]);
    await negotiate(lab(), client, "tunnel");
    await statesOnEveryNode(lab(), 2);
    await servedBy(["t1", "t2", "t3"]);
  });
});
