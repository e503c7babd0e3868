/** A thread that tries cases. What it is at stands in shared memory, for the watchdog of the thread that started it. */
import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parentPort, workerData } from "node:worker_threads";
import { SeededRandom } from "../fault/random.ts";
import { fuzzTargets, type Plant } from "./ike-targets.ts";
import { CaseBoard } from "./case-board.ts";
import { tryCase } from "./try-case.ts";

/** What the worker is started with. */
export interface WorkerOrder {
  readonly board: SharedArrayBuffer;
  readonly seed: number;
  readonly plant: Plant;
  /** Number of the first case: a worker that takes over goes on behind the case that hung. */
  readonly firstCase: number;
  readonly endCase: number;
  /** By `performance.now()` of the whole process; no case begins later. */
  readonly endAtMs: number;
}

/** What the worker says. */
export type WorkerReport =
  | { readonly kind: "crash"; readonly target: string; readonly hex: string; readonly stack: string }
  | {
      readonly kind: "progress";
      /** Tried by this worker since its last report. */
      readonly cases: number;
      readonly reasons: ReadonlyMap<string, number>;
      /** After garbage collection. */
      readonly heapBytes: number;
      readonly isOver: boolean;
    };

/** Cases between two reports, each with a garbage collection. Our choice. */
const REPORT_CASES = 5_000;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;
const order = workerData as WorkerOrder;
const board = new CaseBoard(order.board);
const targets = fuzzTargets(order.plant);

let reasons = new Map<string, number>();
let cases = 0;
let at = order.firstCase;
for (; at < order.endCase && now() < order.endAtMs; at++) {
  const index = at % targets.length;
  const target = targets[index];
  if (target === undefined) break;
  const bytes = target.make(new SeededRandom(order.seed + at));
  board.begin(at, index, bytes);
  const verdict = tryCase(target, bytes);
  cases += 1;
  if (verdict.kind === "crash") {
    report({ kind: "crash", target: target.name, hex: Buffer.from(bytes).toString("hex"), stack: verdict.stack });
  } else for (const reason of verdict.reasons) count(`${target.name}/${reason}`);
  if (cases >= REPORT_CASES) reportProgress(false);
}
board.end();
reportProgress(true);

/** The clock that all threads of the process share. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

function count(reason: string): void {
  reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
}

function reportProgress(isOver: boolean): void {
  collectGarbage();
  const { used_heap_size: used, external_memory: external } = getHeapStatistics();
  report({ kind: "progress", cases, reasons, heapBytes: used + external, isOver });
  cases = 0;
  reasons = new Map();
}

function report(message: WorkerReport): void {
  parentPort?.postMessage(message);
}
