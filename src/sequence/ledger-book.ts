import type { LineChange } from "./allocator-options.ts";
import { type BurntReason, type LedgerRecord, encodeLedgerRecord } from "./ledger-record.ts";
import type { Grant, Registration } from "./number-line.ts";
import type { ReserveRequest } from "./reservation.ts";

/** Numbers that a node was granted and that are neither known to be sent nor given up. */
interface Outstanding {
  readonly first: bigint;
  end: bigint;
  /** An earlier process of the node got it: the new one replaces it, and never adds to it. */
  isOld: boolean;
}

interface BookedLine {
  readonly line: number;
  readonly nodes: Map<string, Outstanding[]>;
}

/**
 * Turns what happens at the allocator into ledger records: keeps what each node holds, and says when numbers of it are given
 * up. A node's kernel sends in order and never from an older lease after a newer one, and a node asks for one block at a time.
 * So a request that names the next unsent number says that everything granted to the node before that number is
 * behind it, and that blocks above the one it lies in never arrived. When no known block has it (a service that was restarted does
 * not know what it granted before), those above it stay open until a request lies in one of them or behind it.
 */
export class LedgerBook {
  readonly #append: (record: string) => void;
  readonly #wallMs: () => number;
  readonly #lines = new Map<string, BookedLine>();
  readonly #instances = new Map<string, string>();
  #nextLine = 1;

  /** `append` takes each record's text in order; `wallMs` is the wall clock. */
  constructor(append: (record: string) => void, wallMs: () => number) {
    this.#append = append;
    this.#wallMs = wallMs;
  }

  /** First: what the process found in its store. */
  started(
    owners: readonly { readonly address: string; readonly owner: string; readonly epoch: bigint }[],
    lines: readonly { readonly registration: Registration; readonly ceiling: bigint }[],
  ): void {
    this.#write({ kind: "start", atMs: this.#wallMs() });
    for (const { address, epoch, owner } of owners) this.owned(address, epoch, owner);
    for (const { registration, ceiling } of lines) this.#line("restored", registration, ceiling, ceiling);
  }

  /** Last: nothing is granted after it. */
  stopped(): void {
    this.#write({ kind: "stop", atMs: this.#wallMs() });
  }

  owned(dvipa: string, epoch: bigint, owner: string): void {
    this.#write({ kind: "own", dvipa, epoch, owner });
  }

  /** A process of `node` is there; another `instance` than before says that it is a new one. */
  greeted(node: string, instance: string): void {
    const before = this.#instances.get(node);
    this.#instances.set(node, instance);
    if (before === undefined || before === instance) return;
    for (const { nodes } of this.#lines.values()) for (const held of nodes.get(node) ?? []) held.isOld = true;
  }

  changed(change: LineChange): void {
    if (change.kind === "opened") {
      const { registration, ceiling } = change;
      this.#line("opened", registration, registration.firstNumber, ceiling);
      return;
    }
    const sa = change.kind === "carried" ? change.registration.sa : change.sa;
    const booked = this.#lines.get(sa);
    if (booked === undefined) return;
    const { line } = booked;
    if (change.kind === "carried") this.#write({ kind: "epoch", line, epoch: change.registration.epoch });
    else if (change.kind === "raised") this.#write({ kind: "ceiling", line, ceiling: change.ceiling });
    else this.#retired(sa, booked);
  }

  /** The hot path. `request` is the one that `grant` answers: the last that the node said. */
  granted({ sa, node, epoch, nextUnsent }: ReserveRequest, { first, end }: Grant): void {
    const booked = this.#lines.get(sa);
    if (booked === undefined || first === end) return;
    const { line, nodes } = booked;
    let held = nodes.get(node);
    if (held === undefined) nodes.set(node, (held = []));
    this.#settle(line, node, held, nextUnsent);
    const last = held.at(-1);
    if (last?.end === first && !last.isOld) last.end = end;
    else held.push({ first, end, isOld: false });
    this.#write({ kind: "grant", line, node, epoch, first, end, atMs: this.#wallMs() });
  }

  /**
   * The node's kernel can send nothing any more. A `nextUnsent` other than 0 says that it may have used numbers below that without a
   * lease (A8); a node says so at any time, so numbers above it may be on their way to it, and are used when they arrive.
   */
  released(sa: string, node: string, nextUnsent: bigint): void {
    const booked = this.#lines.get(sa);
    if (booked === undefined) return;
    const { line, nodes } = booked;
    const held = nodes.get(node) ?? [];
    const isBelow = ({ end }: Outstanding): boolean => nextUnsent === 0n || end <= nextUnsent;
    this.#burn(line, node, held.filter(isBelow), "released");
    const left = held.filter((range) => !isBelow(range));
    if (left.length > 0) nodes.set(node, left);
    else nodes.delete(node);
  }

  /** Closes the account of what lies behind `nextUnsent`, and of what never arrived. 0: the kernel can send nothing. */
  #settle(line: number, node: string, held: Outstanding[], nextUnsent: bigint): void {
    if (held.length === 0) return;
    if (nextUnsent === 0n) {
      this.#burn(line, node, held.splice(0), "unreported");
      return;
    }
    const inside = held.findIndex(({ first, end }) => first <= nextUnsent && nextUnsent < end);
    const at = inside >= 0 ? inside : held.findIndex(({ end }) => end === nextUnsent);
    const current = held[at];
    for (const range of held.splice(0)) {
      if (range === current) held.push({ ...range, first: nextUnsent });
      // The node is in a lease from before this process: what follows on it may have been added to it.
      else if (range.end > nextUnsent && current === undefined) held.push(range);
      else if (range.end > nextUnsent) this.#burn(line, node, [range], "lostGrant");
      else this.#burn(line, node, [range], range.isOld ? "nodeRestart" : "replaced");
    }
  }

  #burn(line: number, node: string, ranges: readonly Outstanding[], reason: BurntReason): void {
    for (const { first, end } of ranges) {
      if (first < end) this.#write({ kind: "burnt", line, node, first, end, reason });
    }
  }

  #retired(sa: string, { line, nodes }: BookedLine): void {
    for (const [node, held] of nodes) this.#burn(line, node, held, "retired");
    this.#lines.delete(sa);
    this.#write({ kind: "retired", line });
  }

  #line(origin: "opened" | "restored", registration: Registration, first: bigint, ceiling: bigint): void {
    const line = this.#nextLine++;
    const { sa, dvipa, epoch, windowPackets, esn, counterNonce, spi = null, peer = null } = registration;
    const { protocol = "esp" } = registration;
    this.#lines.set(sa, { line, nodes: new Map() });
    const names = { line, atMs: this.#wallMs(), origin, sa, dvipa, epoch, spi, protocol, peer };
    this.#write({ kind: "line", ...names, windowPackets, esn, counterNonce, first, ceiling });
  }

  #write(record: LedgerRecord): void {
    this.#append(encodeLedgerRecord(record));
  }
}
