import { randomUUID } from "node:crypto";
import type { BusConnection, BusHandlers } from "../../bus/connection.ts";
import type { RequestBody, ResponseBody } from "../../bus/messages.ts";
import type { ClusterConfig } from "../../config/cluster-schema.ts";
import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError } from "../../core/errors.ts";
import { ipFromBytes, ipToBytes } from "../../core/ip.ts";
import type { Log } from "../../core/log.ts";
import { Allocator } from "../../sequence/allocator.ts";
import type { AllocatorEvents, AllocatorLimits } from "../../sequence/allocator-options.ts";
import type { CeilingStore } from "../../sequence/ceiling-store.ts";
import { LedgerBook } from "../../sequence/ledger-book.ts";
import type { ReserveOutcome } from "../../sequence/reservation.ts";
import { windowRule } from "../../sequence/size.ts";
import type { LedgerSink } from "./ledger-file.ts";
import { Membership } from "./membership.ts";
import { Rights } from "./rights.ts";
import type { CouplingStatus } from "./status.ts";

/** A connection that has not said a valid hello by then is closed; until then it can do nothing else. */
const HELLO_MS = 5000;

export interface CouplingServiceOptions {
  readonly config: ClusterConfig;
  readonly store: CeilingStore;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
  readonly limits?: Partial<AllocatorLimits>;
  /** Where grants and burnt ranges are recorded; null for nowhere. */
  readonly ledger?: LedgerSink | null;
}

/** Answers the nodes: who is there, who owns what, who may send which numbers. Identities come from certificates alone. */
export class CouplingService {
  readonly #cluster: string;
  readonly #clock: Clock;
  readonly #counters: Counters;
  readonly #log: Log;
  readonly #rights: Rights;
  readonly #membership = new Membership();
  readonly #allocator: Allocator;
  readonly #instance = randomUUID();
  readonly #ledger: LedgerSink | null;
  readonly #book: LedgerBook | null;

  constructor({ config, store, clock, counters, log, limits, ledger = null }: CouplingServiceOptions) {
    this.#cluster = config.cluster;
    this.#clock = clock;
    this.#counters = counters;
    this.#log = log;
    this.#rights = new Rights(config);
    this.#ledger = ledger;
    this.#book = ledger === null ? null : new LedgerBook((record) => ledger.append(record), Date.now);
    this.#allocator = new Allocator({ store, clock, counters, events: this.#events(), ...(limits && { limits }) });
    this.#book?.started(this.#allocator.owners(), this.#allocator.lines());
  }

  /** Handlers for a new connection; null for a peer that has no business here. */
  accept(connection: BusConnection): BusHandlers | null {
    const { peer } = connection;
    if (peer.kind !== "node" || !this.#rights.isMember(peer.name)) return null;
    const node = peer.name;
    let isWelcome = false;
    let incarnation = "";
    const greeting = this.#clock.after(HELLO_MS, () => {
      if (isWelcome) return;
      this.#counters.add("coupling.noHello");
      connection.close("no hello in time");
    });
    void connection.closed.then(() => {
      greeting.cancel();
      if (this.#membership.leave(node, connection)) this.#left(node);
    });
    const after = <B, R>(handle: (body: B) => R): ((body: B) => R) => {
      return (body) => {
        if (!isWelcome) throw new EsplexError("bus.protocol", "hello comes first");
        return handle(body);
      };
    };
    return {
      requests: {
        hello: (body) => {
          const response = this.#hello(node, connection, body);
          isWelcome = true;
          incarnation = body.instance;
          return response;
        },
        own: after((body) => this.#own(node, body)),
        registerSa: after((body) => this.#registerSa(node, body)),
        countInstances: after((body) => this.#countInstances(node, incarnation, body)),
        retireSa: after((body) => this.#retireSa(node, body)),
        reserve: after((body) => this.#reserve(node, body)),
        release: after((body) => this.#release(node, body)),
        reportLease: after((body) => this.#reportLease(node, body)),
        holderOf: after((body) => this.#holderOf(node, body)),
      },
    };
  }

  status(): CouplingStatus {
    return {
      daemon: "coupling",
      cluster: this.#cluster,
      ready: this.#allocator.failure === null,
      failure: this.#allocator.failure?.message ?? null,
      ledger: this.#ledger === null ? "off" : (this.#ledger.failure ?? "written"),
      members: this.#membership.list(),
      dvipas: this.#allocator.owners(),
      sas: this.#allocator.lines().map((line) => ({
        ...line.registration,
        next: line.next,
        ceiling: line.ceiling,
        nonce: {
          kernelInstances: line.instances.total,
          budgetEnd: line.budgetEnd,
          usedShare: line.budgetEnd === null ? null : Number(line.next) / Number(line.budgetEnd),
        },
        windowRule: windowRule(line.registration.windowPackets, this.#allocator.holderCount(line)),
        rekeySoon: line.rekeySoon,
        holders: line.holdings().map(({ node, low, end }) => ({ node, first: low, end })),
      })),
      counters: this.#counters.snapshot(),
    };
  }

  close(): void {
    this.#allocator.close();
    this.#book?.stopped();
  }

  #hello(node: string, connection: BusConnection, body: RequestBody<"hello">): ResponseBody<"hello"> {
    if (body.node !== node) {
      this.#counters.add("coupling.impersonation");
      this.#log.warn("a node calls itself by another name", { certificate: node, claimed: body.node });
      throw new EsplexError("bus.unauthorised", `the certificate is ${node}'s`);
    }
    const distributes = body.distributes.map(canonical);
    for (const dvipa of distributes) this.#rights.checkDistributor(node, dvipa);
    this.#membership.join({ name: node, listen: body.listen, distributes }, connection);
    const members = this.#membership.list();
    this.#book?.greeted(node, body.instance);
    this.#log.info("node connected", { peer: node, instance: body.instance });
    // After the answer has gone out.
    process.nextTick(() => {
      if (!connection.isOpen) return;
      this.#allocator.connected(node);
      this.#tellRekeys(node);
      this.#membership.notifyAll("members", { members: this.#membership.list() });
    });
    return { instance: this.#instance, members };
  }

  /** An owner that was away when an SA came to its end hears of it now. */
  #tellRekeys(node: string): void {
    for (const { rekeySoon, registration } of this.#allocator.lines()) {
      if (!rekeySoon || this.#allocator.ownerOf(registration.dvipa)?.owner !== node) continue;
      this.#membership.notify(node, "rekeySoon", { sa: registration.sa });
    }
  }

  #left(node: string): void {
    this.#log.info("node disconnected", { peer: node });
    this.#allocator.disconnected(node);
    this.#membership.notifyAll("members", { members: this.#membership.list() });
  }

  async #own(node: string, { dvipa }: RequestBody<"own">): Promise<ResponseBody<"own">> {
    const address = canonical(dvipa);
    this.#rights.checkDistributor(node, address);
    const epoch = await this.#allocator.own(address, node);
    this.#book?.owned(address, epoch, node);
    this.#log.info("DVIPA owned", { dvipa: address, owner: node, epoch });
    this.#membership.notifyAll("fenced", { dvipa: address, epoch }, node);
    return { epoch };
  }

  async #registerSa(node: string, body: RequestBody<"registerSa">): Promise<Record<string, never>> {
    const dvipa = canonical(body.dvipa);
    this.#checkOwner(node, dvipa);
    await this.#allocator.register({ ...body, dvipa });
    return {};
  }

  async #countInstances(
    node: string,
    incarnation: string,
    body: RequestBody<"countInstances">,
  ): Promise<Record<string, never>> {
    this.#checkSender(node, body.sa);
    await this.#allocator.countInstances({ ...body, node, incarnation });
    return {};
  }

  async #retireSa(node: string, { sa, dvipa, epoch }: RequestBody<"retireSa">): Promise<Record<string, never>> {
    const registration = this.#allocator.registration(sa);
    if (registration === null) return {};
    this.#checkOwner(node, registration.dvipa);
    if (registration.dvipa !== canonical(dvipa) || epoch !== this.#allocator.ownerOf(registration.dvipa)?.epoch) {
      throw new EsplexError("cluster.staleEpoch", "the SA belongs to another epoch or DVIPA");
    }
    await this.#allocator.retire(sa);
    return {};
  }

  /** The hot path: answered without a promise when memory suffices. */
  #reserve(node: string, body: RequestBody<"reserve">): ResponseBody<"reserve"> | Promise<ResponseBody<"reserve">> {
    this.#checkSender(node, body.sa);
    let outcome: ReserveOutcome | null = null;
    let late: ((outcome: ReserveOutcome) => void) | null = null;
    this.#allocator.reserve({ ...body, node }, (result) => {
      outcome = result;
      late?.(result);
    });
    if (outcome !== null) return grantOf(outcome);
    return new Promise<ReserveOutcome>((resolve) => (late = resolve)).then(grantOf);
  }

  async #release(node: string, { sa, nextUnsent }: RequestBody<"release">): Promise<Record<string, never>> {
    if (this.#allocator.registration(sa) === null) return {};
    this.#checkSender(node, sa);
    this.#book?.released(sa, node, nextUnsent);
    await this.#allocator.release(sa, node, nextUnsent);
    return {};
  }

  #reportLease(node: string, body: RequestBody<"reportLease">): Record<string, never> {
    this.#checkSender(node, body.sa);
    this.#allocator.report({ ...body, node });
    return {};
  }

  #holderOf(node: string, { sa, dvipa, sequence }: RequestBody<"holderOf">): ResponseBody<"holderOf"> {
    const address = canonical(dvipa);
    this.#checkOwner(node, address);
    const isItsOwn = this.#allocator.registration(sa)?.dvipa === address;
    return { node: isItsOwn ? this.#allocator.holderOf(sa, sequence) : null };
  }

  #checkOwner(node: string, dvipa: string): void {
    this.#rights.checkDistributor(node, dvipa);
    if (this.#allocator.ownerOf(dvipa)?.owner !== node) {
      throw new EsplexError("cluster.notOwner", `${node} does not own ${dvipa}`);
    }
  }

  #checkSender(node: string, sa: string): void {
    const registration = this.#allocator.registration(sa);
    if (registration === null) throw new EsplexError("cluster.unknownSa", "no such SA is registered", { sa });
    if (!this.#rights.maySend(node, registration.dvipa)) {
      this.#counters.add("coupling.notATarget");
      throw new EsplexError("cluster.notOwner", `${node} takes no part in ${registration.dvipa}`);
    }
  }

  #events(): AllocatorEvents {
    return {
      recall: (node, sa, highWater, holders) => this.#membership.notify(node, "recall", { sa, highWater, holders }),
      granted: (request, grant) => {
        this.#counters.add("coupling.grants");
        this.#counters.add("coupling.grantedNumbers", Number(grant.end - grant.first));
        this.#book?.granted(request, grant);
      },
      changed: (change) => this.#book?.changed(change),
      rekeySoon: (sa, dvipa) => {
        const owner = this.#allocator.ownerOf(dvipa)?.owner;
        this.#log.warn("an SA must be rekeyed", { sa, dvipa });
        if (owner !== undefined) this.#membership.notify(owner, "rekeySoon", { sa });
      },
      stopped: (reason) =>
        this.#log.error("no more numbers are granted", { code: reason.code, reason: reason.message }),
    };
  }
}

function grantOf(outcome: ReserveOutcome): ResponseBody<"reserve"> {
  if ("refused" in outcome) throw outcome.refused;
  return outcome.grant;
}

function canonical(address: string): string {
  return ipFromBytes(ipToBytes(address));
}
