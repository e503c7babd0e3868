import { randomBytes } from "node:crypto";
import { MAX_USE_REPORTS, type RequestBody, type ResponseBody } from "../../bus/messages.ts";
import { max } from "../../core/bigint.ts";
import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import type { Lifesize, SharedSa } from "../../sa/spec.ts";
import type { UseCounts } from "../../sa/use.ts";
import type { Carried } from "../../xfrm/carried.ts";
import type { Sent } from "../../xfrm/outbound-use.ts";
import type { SaSource } from "./sa-table.ts";

/**
 * How often a busy SA's counters are read and reported at most, and an idle one's at least. All nodes together carry no more
 * between two of their reports than a twentieth of what was left of the limit (the shares that the distributor hands out), or
 * what they carry in `SHORTEST_MS` when that is more; at first, and after a long pause, what they carry in `LONGEST_MS`. Our choice.
 */
const SHORTEST_MS = 100;
const LONGEST_MS = 1_000;
/** In which half of the rate that an SA had is forgotten: what stood still for a moment goes on in a burst. Our choice. */
const RATE_HALF_LIFE_MS = 2_000;
/** Before the distributor has said anything: a fortieth of the limit. */
const FIRST_SHARE_PARTS = 40n;

type ReportBody = RequestBody<"saUse">;

/** An SA that this node has, from whom. */
export interface MeteredSa {
  readonly source: SaSource;
  readonly sa: Pick<SharedSa, "id" | "lifesize">;
}

export interface UseMeterContext<S extends MeteredSa> {
  /** SAs of this node; those without a lifesize are left alone. */
  readonly sas: () => Iterable<S>;
  /** The inbound states' counters, null for one that is not there. */
  readonly readInbound: (sas: readonly S[]) => Promise<readonly (Carried | null)[]>;
  readonly readOutbound: (sa: S) => Promise<Sent>;
  /** Reports to who the SAs come from; null while that one is out of reach. */
  readonly report: (source: SaSource, body: ReportBody) => Promise<ResponseBody<"saUse"> | null>;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/** Of an SA at its busiest lately, in either direction, per ms. */
interface Rate {
  readonly bytes: number;
  readonly packets: number;
}

/** What is known of one SA. */
interface Meter {
  readonly inbound: InboundUse;
  total: UseCounts | null;
  /** What the distributor has taken. */
  reported: UseCounts | null;
  share: Lifesize;
  rate: Rate;
  readAtMs: number;
  dueAtMs: number;
}

/**
 * Reads what this node's kernel carries on each SA that has a lifesize, and reports it to the SA's distributor (R19): the busier
 * an SA is and the nearer its limit, the more often.
 */
export class UseMeter<S extends MeteredSa> {
  readonly #context: UseMeterContext<S>;
  readonly #process = randomBytes(16).toString("hex");
  readonly #meters = new Map<string, Meter>();
  #reports = 0;
  #timer: Timer | null = null;
  #isStopped = false;

  constructor(context: UseMeterContext<S>) {
    this.#context = context;
    this.#schedule();
  }

  stop(): void {
    this.#isStopped = true;
    this.#timer?.cancel();
  }

  /** What this node has carried on the SA since the daemon's start; null for one that is not metered. */
  useOf(saId: string): UseCounts | null {
    return this.#meters.get(saId)?.total ?? null;
  }

  #schedule(): void {
    const { clock, counters, log } = this.#context;
    this.#timer = clock.after(SHORTEST_MS, () => {
      this.#round()
        .catch((error: unknown) => {
          counters.add("use.readFailed");
          log.warn("what the SAs have carried could not be read or reported", { reason: messageOf(error) });
        })
        .finally(() => {
          if (!this.#isStopped) this.#schedule();
        });
    });
  }

  async #round(): Promise<void> {
    const nowMs = this.#context.clock.nowMs();
    const metered = [...this.#context.sas()].filter(({ sa }) => sa.lifesize !== undefined);
    const ids = new Set(metered.map(({ sa }) => sa.id));
    for (const id of this.#meters.keys()) if (!ids.has(id)) this.#meters.delete(id);
    const due = metered.filter(({ sa }) => (this.#meters.get(sa.id)?.dueAtMs ?? 0) <= nowMs);
    if (due.length === 0) return;
    const inbound = await this.#context.readInbound(due);
    const reports = new Map<SaSource, ReportBody["sas"]>();
    for (const [at, one] of due.entries()) {
      const report = await this.#read(one, inbound[at] ?? null);
      if (report === null) continue;
      const ofSource = reports.get(one.source) ?? [];
      ofSource.push(report);
      reports.set(one.source, ofSource);
    }
    for (const [source, sas] of reports) await this.#report(source, sas);
  }

  /** Null when there is nothing new. */
  async #read(one: S, raw: Carried | null): Promise<ReportBody["sas"][number] | null> {
    const { id, lifesize } = one.sa;
    const meter = this.#meters.get(id) ?? newMeter(lifesize);
    this.#meters.set(id, meter);
    meter.inbound.looked(raw);
    const sent = await this.#context.readOutbound(one);
    const { total, start, now } = counts(meter.inbound, sent);
    const nowMs = this.#context.clock.nowMs();
    meter.rate = busiest(meter, total, nowMs);
    meter.dueAtMs = nowMs + (meter.total === null ? SHORTEST_MS : pauseMs(meter));
    meter.total = total;
    meter.readAtMs = nowMs;
    const isNew = meter.reported === null || KEYS.some((key) => meter.reported?.[key] !== total[key]);
    return isNew ? { sa: id, total, start, now } : null;
  }

  async #report(source: SaSource, sas: ReportBody["sas"]): Promise<void> {
    for (let at = 0; at < sas.length; at += MAX_USE_REPORTS) {
      const part = sas.slice(at, at + MAX_USE_REPORTS);
      const answer = await this.#context.report(source, { process: this.#process, round: ++this.#reports, sas: part });
      if (answer === null) return;
      const totals = new Map(part.map(({ sa, total }) => [sa, total]));
      for (const { sa, bytes, packets } of answer.shares) {
        const meter = this.#meters.get(sa);
        if (meter === undefined) continue;
        meter.share = { bytes, packets };
        meter.reported = totals.get(sa) ?? null;
      }
    }
  }
}

const KEYS = ["inBytes", "inPackets", "outBytes", "outPackets"] as const;

function newMeter(lifesize: Lifesize | undefined): Meter {
  const part = (limit: bigint | null | undefined): bigint | null => (limit ? limit / FIRST_SHARE_PARTS : null);
  const share = { bytes: part(lifesize?.bytes), packets: part(lifesize?.packets) };
  return { inbound: new InboundUse(), total: null, reported: null, share, rate: STILL, readAtMs: 0, dueAtMs: 0 };
}

const STILL: Rate = { bytes: 0, packets: 0 };

/** The rate since the last reading, or what is left of the rate from before. */
function busiest({ total: before, readAtMs, rate }: Meter, total: UseCounts, nowMs: number): Rate {
  const elapsedMs = nowMs - readAtMs;
  if (before === null || elapsedMs <= 0) return rate;
  const kept = 0.5 ** (elapsedMs / RATE_HALF_LIFE_MS);
  const bytes = max(total.inBytes - before.inBytes, total.outBytes - before.outBytes);
  const packets = max(total.inPackets - before.inPackets, total.outPackets - before.outPackets);
  return {
    bytes: Math.max(Number(bytes) / elapsedMs, rate.bytes * kept),
    packets: Math.max(Number(packets) / elapsedMs, rate.packets * kept),
  };
}

/** The time in which the share is used up at that rate. */
function pauseMs({ share, rate }: Meter): number {
  const lasting = (part: bigint | null, perMs: number): number =>
    part === null || perMs === 0 ? LONGEST_MS : Number(part) / perMs;
  const wantedMs = Math.min(lasting(share.bytes, rate.bytes), lasting(share.packets, rate.packets));
  return Math.min(LONGEST_MS, Math.max(SHORTEST_MS, wantedMs));
}

function counts(
  { total, start, now }: InboundUse,
  sent: Sent,
): { readonly total: UseCounts; readonly start: UseCounts; readonly now: UseCounts } {
  const mark = (inbound: Carried, outbound: Sent["now"]): UseCounts => ({
    inBytes: inbound.bytes,
    inPackets: inbound.packets,
    outBytes: outbound.bytes,
    outPackets: outbound.number,
  });
  return {
    total: { inBytes: total.bytes, inPackets: total.packets, outBytes: sent.bytes, outPackets: sent.packets },
    start: mark(start, sent.start),
    now: mark(now, sent.now),
  };
}

const NOTHING_CARRIED: Carried = { bytes: 0n, packets: 0n };

/** What one inbound state has carried since it was first read, also when it was made anew meanwhile. */
class InboundUse {
  total = NOTHING_CARRIED;
  start = NOTHING_CARRIED;
  now = NOTHING_CARRIED;
  #isKnown = false;

  looked(raw: Carried | null): void {
    if (raw === null) {
      // What is there next counts from nothing.
      if (this.#isKnown) this.now = NOTHING_CARRIED;
      return;
    }
    if (!this.#isKnown) this.start = raw;
    else {
      const isNew = raw.bytes < this.now.bytes || raw.packets < this.now.packets;
      const from = isNew ? NOTHING_CARRIED : this.now;
      const bytes = this.total.bytes + raw.bytes - from.bytes;
      this.total = { bytes, packets: this.total.packets + raw.packets - from.packets };
    }
    this.#isKnown = true;
    this.now = raw;
  }
}
