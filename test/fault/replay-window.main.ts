/**
 * `npm run fault -- replay-window [--quick | --all] [--seconds N]`: loads of several targets at once on one SA, at peers with
 * small and large anti-replay windows. Counted at the client's kernel: packets dropped as too old, repeated or, with ESN, wrong.
 * stderr: a table; stdout: one line of JSON. Exit 1 when a cell whose window rule holds has drops, or nothing was tried.
 */
import { rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { readClientDrops } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { Lab } from "../../netns/lab.ts";
import { DVIPA } from "../../netns/layout.ts";
import { describeLab } from "../../netns/report.ts";
import { byLab, chooseCells, type Cell } from "./window-cells.ts";

const HELP = `Usage: replay-window [--quick | --all] [--seconds N]

  --quick      a few cells
  --all        every window with every number of targets, skew and load (90 cells, an hour or more)
  --seconds N  how long each load runs (default 5)
`;
const PACED_CLIENT = fileURLToPath(new URL("paced-client.ts", import.meta.url));
const SAMPLE_MS = 400;

interface CellResult extends Cell {
  /** ESP packets from the cluster on the client's link. */
  readonly packets: number;
  readonly drops: number;
  /** States that ran out of numbers under traffic, stopped, and were made anew. */
  readonly stops: number;
  /** Whether every node's status said at every moment of the load that the window carries its senders. */
  readonly ruleHolds: boolean;
  readonly duplicates: number;
}

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    all: { type: "boolean", default: false },
    seconds: { type: "string", default: "5" },
    help: { type: "boolean", default: false },
  },
});
const seconds = Number(values.seconds);
if (values.help || !(seconds > 0) || (values.quick && values.all)) {
  process.stdout.write(HELP);
  process.exit(values.help ? 0 : 2);
}

const cells: CellResult[] = [];
for (const group of byLab(chooseCells(values.all ? "all" : values.quick ? "quick" : "covering"))) {
  cells.push(...(await tryInOneLab(group)));
}
const violations = cells.filter(({ ruleHolds }) => ruleHolds).reduce((sum, { drops }) => sum + drops, 0);
const duplicates = cells.reduce((sum, cell) => sum + cell.duplicates, 0);
process.stdout.write(`${JSON.stringify({ cells, violations })}\n`);
const isProof = cells.length > 0 && cells.every(({ packets }) => packets > 0);
process.exitCode = violations === 0 && duplicates === 0 && isProof ? 0 : 1;

async function tryInOneLab(group: readonly Cell[]): Promise<CellResult[]> {
  const [first] = group;
  if (first === undefined) return [];
  const { window, esn, targets } = first;
  await using lab = await Lab.create({
    targets,
    cluster: { peerWindowPackets: window, ...(esn ? { esn: "prefer", inboundWindowPackets: window } : {}) },
  });
  try {
    await lab.startCluster();
    const client = await lab.startClient({
      replayWindowPackets: window,
      ...(esn ? { espProposals: "aes256gcm16-esn" } : {}),
    });
    const { exitCode, stdout } = await client.initiate("transport");
    if (exitCode !== 0) throw new Error(`the client could not negotiate:\n${stdout}`);
    const results: CellResult[] = [];
    for (const cell of group) {
      const result = await tryCell(lab, cell);
      tell(result);
      results.push(result);
    }
    return results;
  } catch (error) {
    process.stderr.write(`${await describeLab(lab)}\n`);
    throw error;
  }
}

async function tryCell(lab: Lab, cell: Cell): Promise<CellResult> {
  const capture = await lab.startCapture();
  const [dropsBefore, stopsBefore] = [await drops(lab), await stops(lab)];
  const limitMs = (seconds + 60) * 1000;
  const command = [process.execPath, PACED_CLIENT, cell.skew, cell.load, String(seconds)];
  const isOver = new AbortController();
  const holding = watchRule(lab, isOver.signal);
  try {
    await lab.network.run("client", command, { limitMs });
  } finally {
    isOver.abort();
  }
  const ruleHolds = await holding;
  const { droppedByKernel } = await capture.stop();
  if (droppedByKernel > 0) throw new Error("the capture lost packets");
  const { espFromDvipa, duplicateCount } = await examineCapture(capture.path, DVIPA);
  await rm(capture.path);
  return {
    ...cell,
    packets: espFromDvipa,
    drops: (await drops(lab)) - dropsBefore,
    stops: (await stops(lab)) - stopsBefore,
    ruleHolds,
    duplicates: duplicateCount,
  };
}

/** Asks the nodes again and again; true when none ever said that the rule cannot be kept. */
async function watchRule(lab: Lab, signal: AbortSignal): Promise<boolean> {
  let isKept = true;
  while (!signal.aborted) {
    const statuses = await Promise.all(lab.targets.map((target) => target.status()));
    isKept &&= statuses.every(({ sas }) => sas.every(({ lease }) => lease.windowRule.kept));
    await new Promise((resolve) => setTimeout(resolve, SAMPLE_MS));
  }
  return isKept;
}

async function drops(lab: Lab): Promise<number> {
  const { replay, integrity } = await readClientDrops(lab.network);
  return replay + integrity;
}

async function stops(lab: Lab): Promise<number> {
  const statuses = await Promise.all(lab.nodes.map((node) => node.status()));
  return statuses.reduce((sum, { counters }) => sum + (counters["lease.reinstalled"] ?? 0), 0);
}

function tell({ window, esn, targets, skew, load, packets, drops, stops, ruleHolds }: CellResult): void {
  const rule = ruleHolds ? "rule holds" : "rule cannot be kept";
  const name = `window ${window}${esn ? " (ESN)" : ""}, ${targets} targets, ${skew}, ${load}`;
  process.stderr.write(`${name.padEnd(46)} ${packets} packets, ${drops} dropped, ${stops} stops, ${rule}\n`);
}
