import type { NodeStatus } from "../src/daemons/node/status.ts";
import { formatTable } from "../src/cli/table.ts";
import { readClientDrops } from "./counters.ts";
import type { Measurement } from "./demo-measure.ts";
import type { Lab } from "./lab.ts";

/** Where the demo talks. */
export type Say = (line: string) => void;

/** SAs, leases and connections of every node, as the daemons tell them now. */
export async function showCluster(lab: Lab, say: Say): Promise<void> {
  const statuses = await Promise.all(lab.nodes.map((daemon) => daemon.status()));
  say(
    formatTable(
      "SAs and their leases",
      ["node", "peer", "mode", "suite", "SPI out", "lease", "numbers"],
      statuses.flatMap(leaseRows),
    ).trimEnd(),
  );
  const { targets, connections } = await lab.distributor.status();
  const rows = targets.map(({ name, connected, connections: open }) => [name, connected ? "yes" : "no", String(open)]);
  say(formatTable("targets as d1 sees them", ["target", "connected", "connections"], rows).trimEnd());
  if (connections.length > 0)
    say(`entries in d1's connection table: ${connections.length} (closed connections stay for a while)`);
}

function leaseRows(status: NodeStatus): string[][] {
  return status.sas.map((sa) => {
    const { first, end, next, state } = sa.lease;
    const numbers = first === null ? "-" : `[${first}, ${end ?? "?"}) next ${next ?? "?"}`;
    return [status.node, sa.peerName, sa.mode, sa.suite, sa.spiOut, state, numbers];
  });
}

/** The client's own counters: what its kernel threw away. */
export async function showClient(lab: Lab, say: Say): Promise<void> {
  const { replay, integrity } = await readClientDrops(lab.network);
  say(`client's kernel: ${replay} packets dropped as too old or repeated, ${integrity} with a wrong checksum`);
}

/** Who sent what, and the verdict in plain words. */
export function showVerdict(lab: Lab, { result, wire, problems }: Measurement, say: Say): void {
  const senders = [...wire.espFromDvipaByMac].map(([mac, count]) => [lab.ownerOfMac(mac), mac, String(count)]);
  senders.sort(([a = ""], [b = ""]) => a.localeCompare(b));
  say(
    formatTable(
      "ESP packets from the DVIPA on the client's wire, by sender",
      ["node", "MAC", "packets"],
      senders,
    ).trimEnd(),
  );
  const { ping, curl, espSequences, clientDrops } = result;
  const served = Object.entries(curl.byTarget).map(([name, count]) => `${name} ${count}`);
  say(
    formatTable(
      "measured",
      ["what", "number"],
      [
        ["pings answered", `${ping.received} of ${ping.sent}`],
        ["requests answered", `${curl.requests - curl.failed} of ${curl.requests} (${served.sort().join(", ")})`],
        ["transfers with the right checksum", result.download.ok ? "all" : "not all"],
        ["sequence numbers seen / seen twice", `${espSequences.seen} / ${espSequences.duplicates}`],
        ["dropped by the client (replay / integrity)", `${clientDrops.replay} / ${clientDrops.integrity}`],
        ["packets of the DVIPA in clear", String(result.cleartextPackets)],
        ["TCP packets decrypted by d1", String(result.distributorDecapsulatedTcp)],
      ],
    ).trimEnd(),
  );
  if (problems.length === 0) {
    say("Verdict: it works. One address, one security association per mode, and every target answered by itself.");
  } else {
    say("Verdict: it does not work:");
    for (const problem of problems) say(`  - ${problem}`);
  }
}
