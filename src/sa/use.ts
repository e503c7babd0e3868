/**
 * What an SA has carried, summed over the nodes that use it. Invariants; tests cite the numbers:
 *
 *  U1 The sum never goes down, whatever a node says, and never above 2^64 - 1.
 *  U2 A report that comes twice, or late, adds nothing: reports are cumulative, and numbered.
 *  U3 A report that is lost is made up for by the next one.
 *  U4 A restart of a node's daemon loses nothing that its kernel still knows, and counts nothing twice: each report has the
 *     kernel's own marks, those of the process's first reading (`start`) and those of its last one (`now`). What lies between the
 *     last `now` of one process and the `start` of the next was used in between. A mark that went down is another kernel
 *     state's, all of it new. (A state that is made anew after a process's last report takes along what nobody was told: as much
 *     as is carried between two reports.)
 *  U5 What a node that is out of reach has not reported counts as used: as much as it ever used between two reports (C19).
 *
 * The mark of outbound packets is the last sequence number. Numbers are shared by all nodes, so what a restart adds there may
 * be too much where several nodes send, never too little.
 */
import { max, min } from "../core/bigint.ts";
import type { Lifesize } from "./spec.ts";

const U64_MAX = 2n ** 64n - 1n;
/** Processes of one node that are remembered, so that a late report of one is known as such; our choice. */
const RETIRED_MAX = 8;
const REST_PARTS = 20n;

/** Both directions of an SA: bytes as the kernel counts them (what ESP carries, without its own headers), packets. */
export interface UseCounts {
  readonly inBytes: bigint;
  readonly inPackets: bigint;
  readonly outBytes: bigint;
  readonly outPackets: bigint;
}

export const NO_USE: UseCounts = { inBytes: 0n, inPackets: 0n, outBytes: 0n, outPackets: 0n };

/** What one process of a node says of an SA. */
export interface UseReport {
  /** New with every start of the node's daemon. */
  readonly process: string;
  /** Greater with each report of the process. */
  readonly round: number;
  /** What it has counted since its first reading. */
  readonly total: UseCounts;
  /** The kernel's marks at its first reading. */
  readonly start: UseCounts;
  /** The same at its last one. */
  readonly now: UseCounts;
}

interface Reporter {
  process: string;
  round: number;
  readonly retired: string[];
  /** What earlier processes counted, and what lay between them. */
  past: UseCounts;
  total: UseCounts;
  marks: UseCounts;
  /** The most between two reports. */
  peak: UseCounts;
  isAway: boolean;
}

/** The use of one SA. Pure: see the invariants at the head of this file. */
export class SaUse {
  readonly #reporters = new Map<string, Reporter>();
  #sum = NO_USE;

  /** Nodes that have reported. */
  get nodes(): number {
    return this.#reporters.size;
  }

  /** The direction that has more. */
  get carried(): { readonly bytes: bigint; readonly packets: bigint } {
    const { inBytes, outBytes, inPackets, outPackets } = this.#sum;
    return { bytes: max(inBytes, outBytes), packets: max(inPackets, outPackets) };
  }

  get sum(): UseCounts {
    return this.#sum;
  }

  /** False for one that came already, or late: it says nothing new (U2, U4). */
  take(node: string, report: UseReport): boolean {
    const reporter = this.#reporters.get(node) ?? newReporter(report.process);
    if (reporter.retired.includes(report.process)) return false;
    const isFirst = !this.#reporters.has(node);
    this.#reporters.set(node, reporter);
    reporter.isAway = false;
    if (isFirst || reporter.process !== report.process) follow(reporter, report);
    else if (report.round > reporter.round) advance(reporter, report);
    else return false;
    this.#addUp();
    return true;
  }

  /** The node is out of reach, until its next report (U5). */
  left(node: string): void {
    const reporter = this.#reporters.get(node);
    if (reporter === undefined) return;
    reporter.isAway = true;
    this.#addUp();
  }

  #addUp(): void {
    let sum = NO_USE;
    for (const { past, total, peak, isAway } of this.#reporters.values()) {
      sum = plus(plus(sum, past), total);
      if (isAway) sum = plus(sum, peak);
    }
    this.#sum = each((key) => max(this.#sum[key], min(sum[key], U64_MAX)));
  }
}

/**
 * What each of so many nodes may carry before it reports again: all of them together no more than a twentieth of the rest, so that
 * reports become more frequent towards the limit (R19: 5 %, R20).
 */
export function shareOf(
  limits: Lifesize,
  carried: { readonly bytes: bigint; readonly packets: bigint },
  nodes: number,
): Lifesize {
  const part = (limit: bigint | null, used: bigint): bigint | null =>
    limit === null ? null : max(1n, (limit - min(limit, used)) / (REST_PARTS * BigInt(Math.max(1, nodes))));
  return { bytes: part(limits.bytes, carried.bytes), packets: part(limits.packets, carried.packets) };
}

function newReporter(process: string): Reporter {
  const counts = { past: NO_USE, total: NO_USE, marks: NO_USE, peak: NO_USE };
  return { process, round: 0, retired: [], ...counts, isAway: false };
}

/** The first report of a process. */
function follow(reporter: Reporter, { process, round, total, start, now }: UseReport): void {
  if (reporter.process !== process) {
    reporter.retired.push(reporter.process);
    if (reporter.retired.length > RETIRED_MAX) reporter.retired.shift();
  }
  const between = each((key) => (start[key] < reporter.marks[key] ? start[key] : start[key] - reporter.marks[key]));
  const past = plus(plus(reporter.past, reporter.total), between);
  Object.assign(reporter, { process, round, past, total, marks: now });
}

function advance(reporter: Reporter, { round, total, now }: UseReport): void {
  reporter.round = round;
  reporter.marks = now;
  reporter.peak = each((key) => max(reporter.peak[key], total[key] - reporter.total[key]));
  reporter.total = each((key) => max(reporter.total[key], total[key]));
}

function plus(a: UseCounts, b: UseCounts): UseCounts {
  return each((key) => a[key] + b[key]);
}

function each(of: (key: keyof UseCounts) => bigint): UseCounts {
  return { inBytes: of("inBytes"), inPackets: of("inPackets"), outBytes: of("outBytes"), outPackets: of("outPackets") };
}
