import type { Capture } from "./capture.ts";
import { readCleartext, readClientDrops, readDecapsulatedTcp } from "./counters.ts";
import { examineCapture, type WireEvidence } from "./evidence.ts";
import type { Lab } from "./lab.ts";
import type { RequestResult } from "./traffic.ts";

/** The last line of `demo --json`. Every number is measured. */
export interface DemoResult {
  readonly ping: { sent: number; received: number };
  readonly curl: { requests: number; failed: number; byTarget: Record<string, number> };
  readonly download: { ok: boolean };
  readonly espSequences: { seen: number; duplicates: number };
  readonly clientDrops: { replay: number; integrity: number };
  readonly cleartextPackets: number;
  readonly distributorDecapsulatedTcp: number;
}

/** What the demo's steps add up to while they run. */
export class Tally {
  readonly ping = { sent: 0, received: 0 };
  readonly requests: RequestResult[] = [];
  readonly transfers: { readonly kind: "download" | "upload"; readonly results: readonly RequestResult[] }[] = [];

  addPing(result: { readonly sent: number; readonly received: number }): void {
    this.ping.sent += result.sent;
    this.ping.received += result.received;
  }

  /** Requests answered, by target. */
  byTarget(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const { node } of this.requests) if (node !== undefined) counts[node] = (counts[node] ?? 0) + 1;
    return counts;
  }
}

/** Everything measured, and what is wrong with it in plain words. */
export interface Measurement {
  readonly result: DemoResult;
  readonly wire: WireEvidence;
  readonly problems: readonly string[];
}

/** Ends the capture, reads all counters and judges. */
export async function measure(lab: Lab, tally: Tally, capture: Capture): Promise<Measurement> {
  const { droppedByKernel } = await capture.stop();
  const [wire, clientDrops, { fromDvipa, toDvipa }, decapsulated] = await Promise.all([
    examineCapture(capture.path, lab.network.dvipa),
    readClientDrops(lab.network),
    readCleartext(lab.network),
    readDecapsulatedTcp(lab.network, "d1"),
  ]);
  const result: DemoResult = {
    ping: { ...tally.ping },
    curl: {
      requests: tally.requests.length,
      failed: tally.requests.filter(({ ok }) => !ok).length,
      byTarget: tally.byTarget(),
    },
    download: { ok: transferProblems(lab, tally).length === 0 },
    espSequences: { seen: wire.espFromDvipa, duplicates: wire.duplicateCount },
    clientDrops: { ...clientDrops },
    // The capture sees the client's link only; the bridge counters see every link but say less. The worse one counts.
    cleartextPackets: Math.max(wire.cleartextPackets, fromDvipa + toDvipa),
    distributorDecapsulatedTcp: decapsulated,
  };
  const problems = [...transferProblems(lab, tally), ...judge(lab, result, wire)];
  if (droppedByKernel > 0) problems.push(`the capture lost ${droppedByKernel} packets, so it proves nothing`);
  return { result, wire, problems };
}

function judge(lab: Lab, result: DemoResult, wire: WireEvidence): string[] {
  const problems: string[] = [];
  const wrongWhen = (wrong: boolean, problem: string): void => {
    if (wrong) problems.push(problem);
  };
  const { ping, curl, clientDrops, espSequences } = result;
  wrongWhen(
    ping.sent === 0 || ping.received !== ping.sent,
    `${ping.sent - ping.received} of ${ping.sent} pings got no answer`,
  );
  wrongWhen(curl.requests === 0 || curl.failed > 0, `${curl.failed} of ${curl.requests} requests failed`);
  const idle = lab.targets.filter(({ node }) => (curl.byTarget[node] ?? 0) === 0);
  wrongWhen(idle.length > 0, `no request reached ${idle.map(({ node }) => node).join(", ")}`);
  wrongWhen(espSequences.seen === 0, "no ESP packet came from the DVIPA");
  wrongWhen(espSequences.duplicates > 0, `${espSequences.duplicates} sequence numbers were used twice`);
  wrongWhen(clientDrops.replay > 0, `the client threw away ${clientDrops.replay} packets as too old or repeated`);
  wrongWhen(clientDrops.integrity > 0, `the client threw away ${clientDrops.integrity} packets with a wrong checksum`);
  wrongWhen(result.cleartextPackets > 0, `${result.cleartextPackets} packets of the DVIPA travelled in clear`);
  wrongWhen(
    result.distributorDecapsulatedTcp > 0,
    `d1 decrypted ${result.distributorDecapsulatedTcp} TCP packets itself`,
  );
  const silent = lab.targets.filter(
    ({ node }) => ![...wire.espFromDvipaByMac.keys()].some((mac) => lab.ownerOfMac(mac) === node),
  );
  wrongWhen(silent.length > 0, `no ESP packet came straight from ${silent.map(({ node }) => node).join(", ")}`);
  return problems;
}

function transferProblems(lab: Lab, tally: Tally): string[] {
  return tally.transfers.flatMap(({ kind, results }) => {
    const failed = results.filter(({ ok }) => !ok).map(({ problem }) => `${kind}: ${problem ?? "failed"}`);
    const missing = lab.targets.filter(({ node }) => !results.some((result) => result.ok && result.node === node));
    return [...failed, ...missing.map(({ node }) => `${kind}: none was served by ${node}`)];
  });
}
