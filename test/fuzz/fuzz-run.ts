import { Worker } from "node:worker_threads";
import { CaseBoard } from "./case-board.ts";
import type { Plant } from "./ike-targets.ts";
import type { WorkerOrder, WorkerReport } from "./worker.ts";

/** Processor time of one case; far above what a case takes that does not hang. Our choice. */
const CASE_CPU_US = 1_000_000;
const LOOK_MS = 50;
/** After so many findings more of them only take time. */
const FINDINGS_MAX = 20;
/** Until then the heap grows with caches and compiled code. */
const WARM_UP_REPORTS = 2;
const MEGABYTE = 1_000_000;

export interface FuzzOptions {
  readonly seed: number;
  readonly cases: number;
  readonly seconds: number;
  readonly plant: Plant;
  /** Names of the targets, in their order. */
  readonly targets: readonly string[];
  readonly onFinding: (finding: Finding) => void;
}

export interface Finding {
  readonly kind: "crash" | "hang";
  readonly target: string;
  /** The case, for `--replay`. */
  readonly hex: string;
  readonly stack: string;
}

export interface FuzzResult {
  readonly cases: number;
  readonly crashes: number;
  readonly hangs: number;
  readonly heapGrowthMb: number;
  readonly seed: number;
  /** How often each target said what. */
  readonly reasons: Readonly<Record<string, number>>;
}

/**
 * Tries cases in a thread and watches it from outside: a case that takes more than a second of processor time is a hang, and a new
 * thread goes on behind it. The heap is measured after garbage collection, within one thread.
 */
export async function fuzz(options: FuzzOptions): Promise<FuzzResult> {
  const endAtMs = performance.timeOrigin + performance.now() + options.seconds * 1000;
  const found: Finding[] = [];
  const reasons = new Map<string, number>();
  const tell = (finding: Finding): void => {
    found.push(finding);
    options.onFinding(finding);
  };
  let cases = 0;
  let growth = 0;
  for (let firstCase = 0; firstCase < options.cases && found.length < FINDINGS_MAX;) {
    const order = { seed: options.seed, plant: options.plant, endCase: options.cases, endAtMs, firstCase };
    const shift = await runWorker(order, options.targets, tell, () => found.length >= FINDINGS_MAX);
    cases += shift.cases;
    growth = Math.max(growth, growthOf(shift.heaps));
    for (const [reason, count] of shift.reasons) reasons.set(reason, (reasons.get(reason) ?? 0) + count);
    if (shift.nextCase === null) break;
    firstCase = shift.nextCase;
  }
  return {
    cases,
    crashes: found.filter(({ kind }) => kind === "crash").length,
    hangs: found.filter(({ kind }) => kind === "hang").length,
    heapGrowthMb: Math.round((10 * growth) / MEGABYTE) / 10,
    seed: options.seed,
    reasons: Object.fromEntries([...reasons].sort(([a], [b]) => (a < b ? -1 : 1))),
  };
}

interface Shift {
  cases: number;
  readonly reasons: Map<string, number>;
  readonly heaps: number[];
  /** Where the next worker goes on; null when this one came to its end. */
  nextCase: number | null;
}

async function runWorker(
  order: Omit<WorkerOrder, "board">,
  targets: readonly string[],
  tell: (finding: Finding) => void,
  isEnough: () => boolean,
): Promise<Shift> {
  const board = new CaseBoard();
  const shift: Shift = { cases: 0, reasons: new Map(), heaps: [], nextCase: null };
  const worker = new Worker(new URL("worker.ts", import.meta.url), { workerData: { ...order, board: board.buffer } });
  const over = new Promise<void>((resolve, reject) => {
    const watchdog = watch(board, () => {
      const { number, target, bytes } = board.read();
      tell({ kind: "hang", target: targets[target] ?? "", hex: Buffer.from(bytes).toString("hex"), stack: "" });
      shift.cases = number + 1 - order.firstCase;
      shift.nextCase = number + 1;
      resolve();
    });
    worker.on("message", (report: WorkerReport) => {
      if (report.kind === "crash") tell(report);
      else takeProgress(shift, report);
      if (isEnough() || (report.kind === "progress" && report.isOver)) resolve();
    });
    worker.once("error", reject);
    worker.once("exit", () => clearInterval(watchdog));
  });
  await over;
  await worker.terminate();
  return shift;
}

function takeProgress(shift: Shift, report: Extract<WorkerReport, { kind: "progress" }>): void {
  shift.cases += report.cases;
  shift.heaps.push(report.heapBytes);
  for (const [reason, count] of report.reasons) shift.reasons.set(reason, (shift.reasons.get(reason) ?? 0) + count);
}

/** Calls `onHang` when one case has taken too much processor time; the thread that watches takes next to none itself. */
function watch(board: CaseBoard, onHang: () => void): NodeJS.Timeout {
  let seen = 0;
  let since = process.cpuUsage();
  return setInterval(() => {
    const { begun } = board;
    if (begun !== seen || begun === 0) {
      seen = begun;
      since = process.cpuUsage();
      return;
    }
    const { user, system } = process.cpuUsage(since);
    if (user + system < CASE_CPU_US) return;
    since = process.cpuUsage();
    onHang();
  }, LOOK_MS);
}

/** The least of the second half above the least of the first: a peak of compiled code is no growth. */
function growthOf(heaps: readonly number[]): number {
  const warm = heaps.slice(WARM_UP_REPORTS, -1);
  if (warm.length < 2) return 0;
  const middle = warm.length >> 1;
  return Math.max(0, Math.min(...warm.slice(middle)) - Math.min(...warm.slice(0, middle)));
}
