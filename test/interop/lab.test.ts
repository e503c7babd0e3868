/**
 * The lab's own evidence, without any daemon: each counter that has to stay zero elsewhere is shown to count here.
 *
 *   client ── 192.0.2.0/24 ── d1 (DVIPA by hand)
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Capture } from "../../netns/capture.ts";
import {
  countCleartext,
  countDecapsulatedTcp,
  readCleartext,
  readClientDrops,
  readDecapsulatedTcp,
} from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { DVIPA, planNodes } from "../../netns/layout.ts";
import { LabNetwork } from "../../netns/network.ts";
import { residue, snapshotKernel } from "../../netns/residue.ts";
import { HandMadeSa } from "../support/hand-made-sa.ts";

let network: LabNetwork;
let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "esplex-test-"));
  network = await LabNetwork.create(`esplex${process.pid}`, planNodes(1));
});
afterAll(async () => {
  await network.destroy();
  await rm(directory, { recursive: true });
});

describe("the lab", () => {
  it("sees what a node leaves behind in its kernel", async () => {
    const before = await snapshotKernel(network, "t1");
    expect(residue(before, await snapshotKernel(network, "t1"))).toEqual([]);
    await network.run("t1", ["ip", "rule", "add", "fwmark", "7", "table", "77"]);
    await network.run("t1", ["sysctl", "-q", "-w", "net.ipv4.conf.cli0.arp_ignore=1"]);
    const found = residue(before, await snapshotKernel(network, "t1"));
    expect(found.some((line) => line.startsWith("+ rule:") && line.includes("fwmark 0x7"))).toBe(true);
    expect(found).toContain("+ sysctl: net.ipv4.conf.cli0.arp_ignore = 1");
    expect(found).toContain("- sysctl: net.ipv4.conf.cli0.arp_ignore = 0");
  });

  it("counts cleartext, decapsulated TCP and replays when there are some", async () => {
    await countCleartext(network);
    await countDecapsulatedTcp(network, "d1");
    const capture = await Capture.start(network, join(directory, "link.pcap"));
    await network.run("d1", ["ip", "address", "add", `${DVIPA}/32`, "dev", "cli0"]);
    await network.run("client", ["ping", "-n", "-c", "2", "-i", "0.2", DVIPA]);
    await network.run("d1", ["ip", "address", "delete", `${DVIPA}/32`, "dev", "cli0"]);
    const sa = await HandMadeSa.install(network);
    await network.run("client", ["ping", "-n", "-c", "3", "-i", "0.2", DVIPA]);
    // Nobody listens: one SYN to d1, one RST back.
    expect((await network.try("client", ["curl", "--silent", `http://${DVIPA}/`])).exitCode).toBe(7);
    await sa.setNextNumber(4);
    expect((await network.try("client", ["ping", "-n", "-c", "1", "-W", "1", DVIPA])).exitCode).toBe(1);
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    const wire = await examineCapture(capture.path, DVIPA);
    expect(wire).toMatchObject({ cleartextPackets: 4, espToDvipa: 5, espFromDvipa: 5, duplicateCount: 1 });
    expect(await readCleartext(network)).toEqual({ fromDvipa: 2, toDvipa: 2 });
    expect(await readDecapsulatedTcp(network, "d1")).toBe(1);
    expect(await readClientDrops(network)).toEqual({ replay: 1, integrity: 0 });
  });
});
