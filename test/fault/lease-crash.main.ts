/**
 * `npm run fault -- lease-crash [--seconds N] [--seed N] [--plant]`: real traffic from three targets while daemons are
 * killed, the coupling service's writes fail and trusted links are cut. Every packet on the client's link is captured and
 * read by a checker that knows nothing of the daemons. stdout: progress, then one line of JSON; exit 1 when a claim fails.
 */
import { randomInt } from "node:crypto";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { readCleartext, readClientDrops } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { Lab } from "../../netns/lab.ts";
import { DVIPA } from "../../netns/layout.ts";
import { describeLab } from "../../netns/report.ts";
import { onEveryTarget, requestName } from "../../netns/traffic.ts";
import { burntBound, burntByFailures } from "./burnt.ts";
import { ClientLoad } from "./client-load.ts";
import { Injector, shuffledFaults, type Fault } from "./faults.ts";
import { verifyLedger } from "./ledger-evidence.ts";
import { plantFaultsOnWire } from "./plant.ts";
import { SeededRandom } from "./random.ts";

const HELP = `Usage: lease-crash [--seconds N] [--seed N] [--plant]

  --seconds N  how long faults go on (default 300); what runs then comes to its end
  --seed N     which faults, in which order, for how long (default: random, printed)
  --plant      positive control: at the end, real packets are repeated on the wire and some sent in clear; the run must fail
`;
const DEFAULT_SECONDS = 300;
const PEER_WINDOW_PACKETS = 1024;
const FIRST_REKEYS = 8;
/** One draw in so many is of two faults at once. */
const DOUBLE_EVERY = 4;
/** Calm between two draws, ms: some transfers shall finish. */
const LEAST_CALM_MS = 500;
const LONGEST_CALM_MS = 3_000;
/** Fewer ESP packets from the cluster than this in each second, on average, prove little. Our choice. */
const LEAST_PACKETS_PER_SECOND = 50;

const started = performance.now();
function say(line: string): void {
  process.stdout.write(`${((performance.now() - started) / 1000).toFixed(1).padStart(6)} s  ${line}\n`);
}

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: String(DEFAULT_SECONDS) },
    seed: { type: "string", default: String(randomInt(2 ** 31)) },
    plant: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const [seconds, seed] = [Number(values.seconds), Number(values.seed)];
if (values.help || !(seconds > 0) || !Number.isInteger(seed)) {
  process.stdout.write(HELP);
  process.exit(values.help ? 0 : 2);
}

await using lab = await Lab.create({ cluster: { peerWindowPackets: PEER_WINDOW_PACKETS } });
try {
  process.exitCode = (await run(lab)) ? 0 : 1;
} catch (error) {
  process.stderr.write(`${await describeLab(lab)}\nlease-crash failed: ${String(error)}\n`);
  process.exitCode = 1;
}

/** Returns whether every claim holds. */
async function run(lab: Lab): Promise<boolean> {
  say(`seed ${seed}, ${seconds} s`);
  await lab.startCluster();
  const client = await lab.startClient();
  // A client that has no SA at the moment is not to be mistaken for the cluster: it sends nothing in clear. The selector
  // is another one than strongSwan's, which removes policies by it.
  const block = ["ip", "xfrm", "policy", "add", "dst", DVIPA, "dir", "out"];
  await lab.network.run("client", [...block, "action", "block", "priority", "4294967295"]);
  const capture = await lab.startCapture();
  const injector = new Injector(lab, client);
  await injector.negotiate("transport");
  // The journal grows, so that a limit of its size leaves room for the service's log.
  for (let count = 0; count < FIRST_REKEYS; count++) await injector.rekey();
  const load = ClientLoad.start(lab);
  say("three downloads, two request loops and ping run; after d1's death the client drops its SA and negotiates anew");
  try {
    await injectUntil(injector, lab, performance.now() + seconds * 1000);
  } finally {
    await load.stop();
  }
  const afterwards = await onEveryTarget(lab, () => requestName(lab));
  if (values.plant) await plantFaultsOnWire(lab, say);
  const { droppedByKernel } = await capture.stop();
  const [wire, ledger, clear, drops] = await Promise.all([
    examineCapture(capture.path, DVIPA),
    verifyLedger(join(lab.stateDirectory, "ledger"), capture.path),
    readCleartext(lab.network),
    readClientDrops(lab.network),
  ]);
  const result = {
    packets: wire.espFromDvipa,
    kills: injector.kills,
    duplicates: Math.max(wire.duplicateCount, ledger.duplicates, ledger.duplicateIvs),
    outsideLease: ledger.outsideLease,
    cleartext: Math.max(wire.cleartextPackets, clear.fromDvipa + clear.toDvipa),
    burnt: burntByFailures(ledger),
    burntBound: burntBound(injector.done, lab.nodes.length, PEER_WINDOW_PACKETS),
    downloads: load.downloads,
    requests: load.requests,
    pings: load.pings,
    servedBy: Object.fromEntries(load.servedBy),
    faults: Object.fromEntries(
      Map.groupBy(injector.done, ({ kind }) => kind)
        .entries()
        .map(([k, f]) => [k, f.length]),
    ),
    ledger: { ...ledger, named: undefined },
    skippedOnWire: wire.numbersSkipped,
    sas: wire.espFromDvipaBySpi.size,
    clientDrops: drops,
    droppedByKernel,
    seconds,
    seed,
  };
  const problems = [
    [result.duplicates > 0, `numbers used twice, the first: ${JSON.stringify(wire.duplicates)}`],
    [result.outsideLease + ledger.violations > 0, `numbers outside leases, the first: ${ledger.named.join("; ")}`],
    [result.burnt > result.burntBound, "more numbers were skipped than C6 allows"],
    [result.cleartext > 0, `packets in clear, the first: ${wire.cleartextSamples.join("; ")}`],
    [load.downloads.corrupted + load.requests.corrupted > 0, "transfers with wrong bytes"],
    [load.downloads.finished === 0, "no download finished"],
    [result.packets < seconds * LEAST_PACKETS_PER_SECOND, "too few packets to prove anything"],
    [droppedByKernel > 0, "the capture lost packets, so it proves nothing"],
    [new Set(afterwards.filter(({ ok }) => ok).map(({ node }) => node)).size < lab.targets.length, "a target is lost"],
  ].flatMap(([isBad, problem]) => (isBad === true ? [String(problem)] : []));
  for (const problem of problems) say(`✗ ${problem}`);
  process.stdout.write(`${JSON.stringify(result)}\n`);
  return problems.length === 0;
}

async function injectUntil(injector: Injector, lab: Lab, endMs: number): Promise<void> {
  const random = new SeededRandom(seed);
  let deck: Fault[] = [];
  while (performance.now() < endMs) {
    const names = lab.targets.map(({ node }) => node);
    if (deck.length === 0) deck = shuffledFaults(random, names);
    const faults = deck.splice(0, 1);
    const second = deck[0];
    // Two faults of one node would be one.
    if (random.between(0, DOUBLE_EVERY) === 0 && second !== undefined && second.node !== faults[0]?.node) {
      faults.push(...deck.splice(0, 1));
    }
    await delay(random.between(LEAST_CALM_MS, LONGEST_CALM_MS));
    const before = performance.now();
    say(faults.map(({ kind, node, brokenMs }) => `${kind} ${node} for ${brokenMs} ms`).join(" and "));
    await injector.run(faults);
    say(`  all well again after ${((performance.now() - before) / 1000).toFixed(1)} s`);
  }
}
