import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError, invariant, messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { mapInParts } from "../../core/parts.ts";
import { isErrno } from "../../net/kernel-error.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import type { StateReceived } from "../../sa/received-numbers.ts";
import type { DvipaFilter } from "../../sa/filter.ts";
import { wipeSaKeys, type SharedSa } from "../../sa/spec.ts";
import type { SoleLease } from "../../sequence/size.ts";
import { readCarried } from "../../xfrm/carried.ts";
import { readReceived } from "../../xfrm/received.ts";
import { openEvents, type XfrmEvent } from "../../xfrm/events.ts";
import { Leases } from "../../xfrm/leases.ts";
import { refuseEspOffload } from "../../xfrm/probe.ts";
import { openXfrm } from "../../xfrm/reconciler.ts";
import {
  dvipaGuard,
  inboundId,
  outboundId,
  returnPathOf,
  shadowOf,
  trapPolicies,
  type NodeRole,
  type Trap,
} from "../../xfrm/shadow.ts";
import type { Prefix } from "../../xfrm/selectors.ts";
import { addState, deleteState, stateKey, type SequenceRange, type StateSpec } from "../../xfrm/states.ts";
import { Convergence } from "./convergence.ts";
import type { CouplingLink } from "./coupling-link.ts";
import { HandOver } from "./hand-over.ts";
import { LeaseRunner } from "./lease-runner.ts";
import { SaFilter } from "./sa-filter.ts";
import { statusOf, totalsOf } from "./sa-status.ts";
import { endsAtDistributor, OWN_IKE, SaTable, type Entry, type KeptSa, type SaSource } from "./sa-table.ts";
import type { FilterStatus, SaStatus, SaTotals } from "./status.ts";
import { Traps, type TrapsContext } from "./traps.ts";
import { UseMeter, type UseMeterContext } from "./use-meter.ts";

/** SAs whose kernel states are read beside each other, of thousands. Our choice. */
const READ_AT_ONCE = 64;
/** Room for a burst of kernel events, in bytes; the kernel clamps it to net.core.rmem_max. */
const EVENT_BUFFER_BYTES = 4 * 1024 * 1024;

export interface SaKeeperContext {
  readonly coupling: () => Pick<CouplingLink, "request">;
  /** May this node give its lease on the SA back? */
  readonly mayPark: (source: SaSource, sa: SharedSa) => Promise<boolean>;
  /** Tells who an SA comes from what this node has carried on it. */
  readonly reportUse: UseMeterContext<Entry>["report"];
  readonly onAcquire: TrapsContext["onAcquire"];
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
  /** How long leases are while this node is alone on an SA; absent: `SOLE_LEASE`. */
  readonly soleLease?: SoleLease;
}

/**
 * The SAs of this node: its own IKE's and those that distributors mirrored to it, kept apart by source (R3). Makes the
 * kernel have them and nothing else of ours, and runs a lease for each outbound half.
 */
export class SaKeeper {
  readonly #context: SaKeeperContext;
  readonly #xfrm: NetlinkSocket;
  readonly #convergence: Convergence;
  readonly #leases: Leases;
  readonly #events: NetlinkSocket;
  readonly #traps: Traps;
  readonly #meter: UseMeter<Entry>;
  readonly #handOver: HandOver;
  readonly #table = new SaTable(({ source, sa }) => source === OWN_IKE && this.#filter.rules.handsOver(sa.dvipa));
  readonly #filter: SaFilter;

  constructor(context: SaKeeperContext) {
    this.#context = context;
    const { counters, log } = context;
    this.#filter = new SaFilter({
      ...context,
      sas: () => this.#sas(),
      onTableGone: () => this.#convergence.resync(),
    });
    this.#xfrm = openXfrm();
    this.#convergence = new Convergence({
      ...context,
      xfrm: this.#xfrm,
      wanted: this.#table.wanted,
      neverAdd: { has: (key) => this.#table.isRunByRunner(key) },
      prepare: (options) => this.#filter.cover(options),
    });
    this.#leases = new Leases(this.#xfrm);
    this.#handOver = new HandOver({
      ...context,
      ...{ table: this.#table, leases: this.#leases },
      apply: () => this.#convergence.apply(),
      newRunner: (entry) => this.#runner(entry, false),
      startRunner: (entry) => this.#startRunner(entry),
    });
    this.#events = openEvents({
      groups: ["AEVENTS", "EXPIRE", "SA"],
      onEvent: (event) => this.#onEvent(event),
      onOverrun: () => {
        counters.add("xfrm.eventsLost");
        for (const { runner } of this.#table.values()) runner?.resync();
        this.#convergence.resync();
      },
      onFault: (error) => log.error("a kernel event could not be handled", { reason: messageOf(error) }),
      receiveBufferBytes: EVENT_BUFFER_BYTES,
    });
    this.#traps = new Traps(context);
    this.#meter = new UseMeter({
      sas: () => this.#ended(),
      readInbound: (entries) =>
        readCarried(
          this.#xfrm,
          entries.map(({ sa }) => inboundId(sa)),
        ),
      readOutbound: async ({ sa, runner }) => {
        await runner?.reading();
        return this.#leases.sent(outboundId(sa));
      },
      report: context.reportUse,
      ...{ clock: context.clock, counters, log },
    });
  }

  /** From now on what the kernel has of ours and nobody told us of is removed: every source has been heard. */
  async settle(): Promise<void> {
    await this.#convergence.settle();
  }

  /** The DVIPAs that a source speaks for, and what this node is to them: their guards stand when it resolves. */
  async setDvipas(source: SaSource, addresses: readonly string[], role: NodeRole): Promise<void> {
    const policies = addresses.flatMap((address) => dvipaGuard(address, role));
    this.#table.wanted.set(`guards of ${source}`, { states: [], policies });
    await this.#convergence.apply();
  }

  /** Traffic of a source's DVIPAs that is to bring an SA up, all of it. */
  async setTraps(source: SaSource, traps: readonly Trap[]): Promise<void> {
    this.#traps.set(source, traps);
    this.#table.wanted.set(`traps of ${source}`, { states: [], policies: traps.flatMap(trapPolicies) });
    await this.#convergence.apply();
  }

  /**
   * The filters of the DVIPAs that a source speaks for; they stand before the next SA of theirs is in the kernel. An SA names its
   * rules by numbers, so its own come at the same time: `refilter`.
   */
  wantFilters(source: SaSource, filters: ReadonlyMap<string, DvipaFilter>): void {
    this.#filter.rules.want(source, filters);
  }

  /** Puts the rules of these SAs, by their ids, in place of what they had; resolves once the kernel filters so. */
  async refilter(rules: ReadonlyMap<string, readonly number[] | undefined>): Promise<void> {
    for (const [saId, filterRules] of rules) {
      const entry = this.#table.get(saId);
      if (entry !== undefined) entry.sa = { ...entry.sa, filterRules };
    }
    await this.#convergence.apply();
  }

  filterStatus(): Promise<FilterStatus[]> {
    return this.#filter.rules.status();
  }

  /** Resolves once the kernel has the SA. Throws when something stands in its way; then nothing of it is left. */
  async install(source: SaSource, kept: KeptSa): Promise<void> {
    if (this.#table.has(kept.sa.id)) return;
    this.#table.checkIds(kept.sa);
    const entry = this.#table.enter(source, kept);
    try {
      await this.#convergence.apply();
      await this.#startRunner(entry);
    } catch (error) {
      this.#table.leave(entry);
      this.#convergence.reapply();
      throw error;
    }
  }

  /** Makes the SAs of a source exactly these. */
  async replaceAll(source: SaSource, kept: readonly KeptSa[]): Promise<void> {
    const wanted = new Set(kept.map(({ sa }) => sa.id));
    const gone = [...this.#table.values()].filter((entry) => entry.source === source && !wanted.has(entry.sa.id));
    for (const entry of gone) this.#drop(entry);
    const fresh: Entry[] = [];
    const heirs: string[] = [];
    const sendingTunnels = new Set(
      [...this.#table.values()].flatMap(({ sa, outbound }) => (outbound === "now" ? [sa.reqid] : [])),
    );
    for (const item of kept) {
      const known = this.#table.get(item.sa.id);
      if (known === undefined) {
        this.#table.checkIds(item.sa);
        // This node missed the switch to it.
        const isHeir = item.outbound === "now" && sendingTunnels.has(item.sa.reqid);
        if (isHeir) heirs.push(item.sa.id);
        fresh.push(this.#table.enter(source, isHeir ? { ...item, outbound: "hold" } : item));
        continue;
      }
      if (known.sa !== item.sa) wipeSaKeys(item.sa);
      known.sa = { ...known.sa, filterRules: item.sa.filterRules };
      this.#table.movePeer(known, item.sa.peerUdpPort);
      if (known.outbound === "hold" && item.outbound === "now") await this.useOutbound(item.sa.id);
    }
    await this.#convergence.apply();
    for (const { sa } of gone) wipeSaKeys(sa);
    await mapInParts(fresh, READ_AT_ONCE, (entry) => this.#startRunner(entry));
    for (const id of heirs) await this.useOutbound(id);
  }

  /** New packets use the SA from now on; resolves once they can, or after a while (`HandOver`). */
  async useOutbound(saId: string): Promise<void> {
    const entry = this.#table.get(saId);
    if (entry === undefined || entry.outbound === "now" || endsAtDistributor(entry)) return;
    await this.#handOver.to(entry);
  }

  /** Sends an SA in UDP to another port of its peer; resolves once the kernel does. */
  async movePeer(saId: string, peerUdpPort: number): Promise<void> {
    const entry = this.#table.get(saId);
    if (entry === undefined) return;
    this.#table.movePeer(entry, peerUdpPort);
    await this.#convergence.apply();
  }

  /** Resolves once the kernel has nothing of the SA; its keys are wiped. */
  async remove(source: SaSource, saId: string): Promise<void> {
    const entry = this.#table.get(saId);
    if (entry?.source !== source) return;
    this.#drop(entry);
    await this.#convergence.apply();
    wipeSaKeys(entry.sa);
  }

  /** The SA that a tunnel's packets leave on, see `SaTable.sender`; null when there is none. */
  currentOutbound(tunnel: number): string | null {
    return this.#table.sender(tunnel)?.sa.id ?? null;
  }

  /** Resolves once this node's kernel can send on the tunnel. */
  async wantLease(tunnel: number): Promise<void> {
    const entered = this.#handOver.untilEntered(tunnel);
    // Nothing is awaited where none comes: the next one must see that its predecessor is needed.
    if (entered !== null) await entered;
    const runner = this.#table.sender(tunnel)?.runner ?? null;
    if (runner === null) throw new EsplexError("cluster.unknownSa", "the tunnel has no outbound SA on this node");
    await runner.want();
  }

  tunnelOf(saId: string): number | null {
    return this.#table.get(saId)?.sa.reqid ?? null;
  }

  recalled(saId: string, holders: number): void {
    this.#table.get(saId)?.runner?.recalled(holders);
  }

  /** SAs of one source, for digests. */
  keptFrom(source: SaSource): KeptSa[] {
    return [...this.#table.values()].filter((entry) => entry.source === source);
  }

  /** True for an SA that a distributor keeps for itself. */
  isReturnPath(saId: string): boolean {
    const entry = this.#table.get(saId);
    return entry !== undefined && endsAtDistributor(entry);
  }

  /**
   * Lets what these SAs lead to out in clear, to the source, a distributor: not before this host has the routes for that
   * (`returnPathsTo`), and what keeps it off all others. Resolves once the kernel does.
   */
  async openReturnPaths(source: SaSource): Promise<void> {
    for (const entry of this.#table.values()) {
      if (entry.source === source && endsAtDistributor(entry)) this.#table.openReturnPath(entry);
    }
    await this.#convergence.apply();
  }

  /** Where the SAs of a source, a distributor, lead that end at that: what goes there goes back to it. */
  *returnPathsTo(source: SaSource): Generator<{ readonly dvipa: string; readonly destination: Prefix }> {
    for (const entry of this.#table.values()) {
      if (entry.source !== source || !endsAtDistributor(entry)) continue;
      const { dvipa } = entry.sa;
      for (const { selector } of returnPathOf(entry.sa).policies) yield { dvipa, destination: selector.destination };
    }
  }

  /** Each SA, with what the kernel says of it. */
  status(): Promise<SaStatus[]> {
    return mapInParts([...this.#table.values()], READ_AT_ONCE, (entry) =>
      statusOf(entry, this.#meter.useOf(entry.sa.id)),
    );
  }

  totals(): SaTotals {
    return totalsOf(this.#table.values());
  }

  /** What this node's kernel has received on the inbound states of the source's SAs; null for one that is not there. */
  async received(source: SaSource, saIds: readonly string[]): Promise<(StateReceived | null)[]> {
    const entries = saIds.map((saId) => this.#table.get(saId));
    const own = entries.filter((entry) => entry?.source === source) as Entry[];
    const readings = await readReceived(
      this.#xfrm,
      own.map(({ sa }) => inboundId(sa)),
    );
    const bySa = new Map(own.map(({ sa }, at) => [sa.id, readings[at] ?? null]));
    for (const { sa, windowStart } of own) windowStart.numbers = bySa.get(sa.id) ?? windowStart.numbers;
    return saIds.map((saId) => bySa.get(saId) ?? null);
  }

  /** Removes every state and policy of ours from the kernel, and gives the leases back. */
  async stop(): Promise<void> {
    this.#meter.stop();
    this.#traps.close();
    const held = [...this.#table.values()].filter(({ runner }) => runner?.holdsLease === true);
    const gone = [...this.#table.values()];
    for (const entry of gone) this.#drop(entry);
    this.#table.wanted.clear();
    await this.#convergence.clear();
    await this.#convergence.serial(() => this.#filter.clear());
    for (const { sa } of gone) wipeSaKeys(sa);
    await this.#handOver.giveBack(held);
    this.#events.close();
    this.#xfrm.close();
  }

  #drop(entry: Entry): void {
    entry.runner?.stop();
    this.#leases.drop(outboundId(entry.sa));
    this.#table.leave(entry);
    // A trap takes its place: what waits in the kernel since it asked last goes, so that the next packet makes it ask again.
    if (this.#traps.takeAsked()) this.#convergence.doubt();
  }

  /** After the state is in the kernel: whether it is new or was found there, its runner starts from what it says. */
  async #startRunner(entry: Entry): Promise<void> {
    if (entry.outbound === "hold" || entry.runner !== null || this.#table.get(entry.sa.id) !== entry) return;
    const reading = await this.#leases.read(outboundId(entry.sa));
    if (entry.outboundAlive !== (reading !== null)) this.#table.setAlive(entry, reading !== null);
    // One that ever had a lease was counted before it got it, by an earlier process; else it is new, or as good as new.
    if (reading !== null && reading.lastSendable === 0n) entry.instances += 1;
    entry.runner = this.#runner(entry, reading !== null);
    if (reading !== null) entry.runner.adopt(reading);
  }

  #runner(entry: Entry, isAlive: boolean): LeaseRunner {
    const { coupling, mayPark, clock, counters, log, soleLease } = this.#context;
    return new LeaseRunner(entry.sa, entry.epoch, isAlive, {
      leases: this.#leases,
      reserve: (body) => coupling().request("reserve", body),
      countInstances: (body) => coupling().request("countInstances", body),
      instances: () => entry.instances,
      release: (body) => coupling().request("release", body),
      report: (body) => coupling().request("reportLease", body),
      reinstall: (range, threshold) => this.#reinstall(entry, range, threshold),
      onGone: () => {
        if (this.#table.get(entry.sa.id) === entry) this.#table.setAlive(entry, false);
      },
      askPark: () => mayPark(entry.source, entry.sa),
      clock,
      counters,
      log,
      ...(soleLease && { soleLease }),
    });
  }

  async #reinstall(entry: Entry, range: SequenceRange, eventThresholdPackets: number): Promise<void> {
    await this.#convergence.serial(async () => {
      if (this.#table.get(entry.sa.id) !== entry) throw new EsplexError("cluster.unknownSa", "the SA is gone");
      refuseEspOffload();
      const state = outboundState(entry.sa, range, eventThresholdPackets);
      try {
        await this.#leases.add(state.id, range, () => addState(this.#xfrm, state));
        entry.instances += 1;
      } catch (error) {
        // Somebody was faster (a flush, then the reconciler): the state is there, without numbers.
        if (!isErrno(error, "EEXIST")) throw error;
        await this.#leases.install({ id: state.id, esn: entry.sa.esn }, range, eventThresholdPackets);
      }
      this.#table.setAlive(entry, true);
    });
  }

  /** Those that this node's kernel has. */
  *#ended(): Generator<Entry> {
    for (const entry of this.#table.values()) if (!endsAtDistributor(entry)) yield entry;
  }

  *#sas(): Generator<SharedSa> {
    for (const { sa } of this.#ended()) yield sa;
  }

  #onEvent(event: XfrmEvent): void {
    if (event.kind === "flushed") {
      this.#foreignChange("all states were flushed");
      return;
    }
    if (event.kind === "acquire" || event.kind === "added") return;
    const entry = this.#table.ofState(event.id);
    if (entry === undefined) return;
    const isOutbound = stateKey(event.id) === stateKey(outboundId(entry.sa));
    if (event.kind === "sequence") {
      if (!isOutbound) return;
      if (event.cause !== "update") entry.runner?.sent(event.oseq, event.leftNumbers);
      else if (event.writerPort !== this.#xfrm.port) entry.runner?.resync();
    } else if (event.kind === "expired") {
      if (event.hard && isOutbound) this.#expired(entry, event.bytes);
    } else if (event.writerPort !== this.#xfrm.port) {
      if (event.kind === "updated") this.#voidLease(entry);
      this.#foreignChange(`a state was ${event.kind}`);
    }
  }

  /** An update by somebody else may have moved the packet limit, and with it the lease: fail closed. */
  #voidLease({ sa, runner }: Entry): void {
    // The tripwire first, for what was used meanwhile.
    const looked = runner?.reading() ?? Promise.resolve(null);
    looked
      .then(() => deleteState(this.#xfrm, outboundId(sa)))
      .catch((error: unknown) => {
        if (!isErrno(error, "ESRCH"))
          this.#context.log.error("a changed state could not be deleted", { reason: messageOf(error) });
      });
  }

  #expired(entry: Entry, bytes: bigint): void {
    this.#leases.died(outboundId(entry.sa), bytes);
    this.#context.counters.add("lease.ranOut");
    entry.runner?.expired();
  }

  /** Somebody else touches our states: what is left is read again, and what is missing is put back. */
  #foreignChange(what: string): void {
    this.#context.counters.add("xfrm.foreignChange");
    this.#context.log.warn("another program changed our SAs: keep away from them", { what });
    for (const { runner } of this.#table.values()) runner?.resync();
    this.#convergence.resync();
  }
}

/** The outbound state of an SA, born with a lease. */
function outboundState(sa: SharedSa, range: SequenceRange, eventThresholdPackets: number): StateSpec {
  const outbound = { allowance: { kind: "lease", range }, eventThresholdPackets } as const;
  const [, state] = shadowOf(sa, { outbound }).states;
  invariant(state !== undefined, "an SA with an outbound half has two states");
  return state;
}
