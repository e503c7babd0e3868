import { Counters } from "../../../src/core/counters.ts";
import { Allocator } from "../../../src/sequence/allocator.ts";
import { type HolderState, initialHolder, stepHolder } from "../../../src/sequence/holder.ts";
import type { HolderEffect, HolderEvent } from "../../../src/sequence/holder-events.ts";
import { LedgerBook } from "../../../src/sequence/ledger-book.ts";
import { decodeLedgerRecord } from "../../../src/sequence/ledger-record.ts";
import type { Grant } from "../../../src/sequence/number-line.ts";
import { NumberSet } from "../../../src/sequence/number-set.ts";
import { reorderAllowanceNumbers } from "../../../src/sequence/size.ts";
import { FakeClock, FakeDisk, FakeStore, settled } from "./fakes.ts";

const SA = "0".repeat(32);
const DVIPA = "192.0.2.100";
export const SPI = 0x1000;
export const PEER = "192.0.2.10";
const WINDOW = 8;
/** The line ends here in these tests: it starts close to 2^32. */
const LINE_NUMBERS = 200n;
const FIRST = (1n << 32n) - LINE_NUMBERS;
const CEILING_STEP = 4n;
/** Longer than the window: who joins must wait. */
const SOLE_LEASE = { firstNumbers: 6, longestNumbers: 12 };

/** A kernel with one outbound state, as `notes` on XFRM measured it: credit counts down, a packet at 0 kills the state. */
class Kernel {
  oseq = FIRST - 1n;
  credit = 0n;
  isAlive = true;

  /** The number that leaves, or null when nothing does. */
  send(): bigint | null {
    if (!this.isAlive) return null;
    if (this.credit === 0n) {
      this.isAlive = false;
      return null;
    }
    this.oseq += 1n;
    this.credit -= 1n;
    return this.oseq;
  }
}

type Message =
  | { readonly kind: "reserve"; readonly id: number; readonly count: number; readonly nextUnsent: bigint }
  | { readonly kind: "release"; readonly nextUnsent: bigint }
  | { readonly kind: "report"; readonly nextUnsent: bigint };

/** What waits to be told to a node. */
interface Inbound {
  readonly event: HolderEvent;
  /** The request that it answers, as the bus numbers them; null for what is no answer of the service. */
  readonly answers: number | null;
  /** It is on the connection to the service, and lost with it. */
  readonly travels: boolean;
}

/** A node: agent (may crash), kernel (does not), and a connection whose messages keep their order. */
class Node {
  readonly name: string;
  readonly kernel = new Kernel();
  state: HolderState | null = initialHolder(WINDOW, true, SOLE_LEASE);
  isConnected = true;
  toService: Message[] = [];
  toNode: Inbound[] = [];
  /** The request whose answer the bus waits for. One that comes for another is dropped (`bus.lateAnswer`). */
  awaited: number | null = null;
  nextId = 1;
  fromKernel: HolderEvent[] = [];
  /** It may take its kernel for fuller than it is. */
  hasLostEvents = false;
  /** New with every process of the agent. */
  instance = 0;
  /** The connection's generation: answers to an older one are lost. */
  generation = 0;
  readonly owned: [bigint, bigint][] = [];
  /** Grants that this process of the agent was given, for `repeat`. */
  delivered: HolderEvent[] = [];

  constructor(name: string) {
    this.name = name;
  }
}

/** Faults that change what the tests may demand. */
interface Seen {
  serviceCrashed: boolean;
  longCut: boolean;
  answersMixedUp: boolean;
}

/** Three nodes, a coupling service and its disk, stepped by hand. Checks the invariants after every step. */
export class World {
  readonly clock = new FakeClock();
  readonly disk = new FakeDisk();
  readonly nodes = ["t1", "t2", "t3"].map((name) => new Node(name));
  readonly sent = new Set<bigint>();
  readonly granted: [bigint, bigint][] = [];
  readonly seen: Seen = { serviceCrashed: false, longCut: false, answersMixedUp: false };
  /** The highest number that the peer has received. */
  #peerHighest = 0n;
  replayDrops = 0;
  refusals = 0;
  store = new FakeStore(this.disk);
  /** Text of the ledger's records. */
  readonly ledger: string[] = [];
  readonly #burnt = new NumberSet();
  book = this.#newBook();
  allocator: Allocator;
  epoch = 1n;

  private constructor() {
    this.allocator = this.#newAllocator();
    this.#bookStarts();
  }

  static async create(): Promise<World> {
    const world = new World();
    world.store.auto = true;
    world.epoch = await world.allocator.own(DVIPA, "d1");
    world.book.owned(DVIPA, world.epoch, "d1");
    await world.allocator.register({
      sa: SA,
      dvipa: DVIPA,
      epoch: world.epoch,
      firstNumber: FIRST,
      windowPackets: WINDOW,
      esn: false,
      counterNonce: false,
      spi: SPI,
      peer: PEER,
    });
    world.store.auto = false;
    return world;
  }

  node(index: number): Node {
    const node = this.nodes[index % this.nodes.length];
    if (node === undefined) throw new Error("no node");
    return node;
  }

  /** One packet on `node`. */
  send(node: Node): void {
    const wasAlive = node.kernel.isAlive;
    const number = node.kernel.send();
    if (number === null) {
      if (wasAlive) node.fromKernel.push({ kind: "expired", nowMs: this.clock.nowMs() });
      return;
    }
    if (this.sent.has(number)) throw new Error(`A1 ${number} was sent twice, now by ${node.name}`);
    if (!node.owned.some(([first, end]) => number >= first && number < end)) {
      throw new Error(`H1 ${number} was sent by ${node.name} outside its grants`);
    }
    if (this.#burnt.has(number) && !this.seen.answersMixedUp)
      throw new Error(`${number} was recorded as burnt, and sent after`);
    this.sent.add(number);
    if (number + BigInt(WINDOW) <= this.#peerHighest) this.replayDrops++;
    if (number > this.#peerHighest) this.#peerHighest = number;
    node.fromKernel.push({ kind: "threshold", oseq: number, nowMs: this.clock.nowMs() });
  }

  feed(node: Node, event: HolderEvent): void {
    if (node.state === null) return;
    const { state, effects } = stepHolder(node.state, { ...event, nowMs: this.clock.nowMs() });
    node.state = state;
    for (const effect of effects) this.#perform(node, effect);
  }

  /** The oldest message of `node` reaches the service. */
  async deliverUp(node: Node): Promise<void> {
    const message = node.toService.shift();
    if (message === undefined) return;
    if (message.kind === "release") {
      this.book.released(SA, node.name, message.nextUnsent);
      this.allocator.release(SA, node.name, message.nextUnsent).catch(() => {
        // A failed write: the allocator has stopped.
      });
    } else if (message.kind === "report") {
      this.allocator.report({ sa: SA, node: node.name, epoch: this.epoch, nextUnsent: message.nextUnsent });
    } else this.#reserve(node, message);
    await settled();
  }

  deliverDown(node: Node): void {
    const next = node.toNode.shift();
    if (next === undefined) return;
    const { event, answers } = next;
    if (answers !== null) {
      if (answers !== node.awaited) return;
      node.awaited = null;
    }
    if (event.kind === "granted") node.delivered.push(event);
    this.feed(node, event);
  }

  /** No answer comes in time: the holder is told, and the answer finds nobody when it comes. */
  timeOut(node: Node): void {
    if (node.awaited === null) return;
    node.awaited = null;
    this.feed(node, { kind: "refused", code: "bus.timeout", nowMs: 0 });
  }

  /**
   * A grant that was delivered before comes once more. The bus makes no such thing: an answer is taken once, by the request
   * whose number it bears (test/unit/bus). This is a bus that is broken: no number may repeat even then (H2). But a repeated
   * grant that the holder takes for the answer it waits for makes it and the service differ about what it holds.
   */
  repeat(node: Node, index: number): void {
    if (node.state?.isAsking === true) this.seen.answersMixedUp = true;
    const event = node.delivered.at(-1 - (index % Math.max(1, node.delivered.length)));
    if (event !== undefined) this.feed(node, event);
  }

  /** A sequence event or a reading of the kernel is lost. */
  loseKernelEvent(node: Node): void {
    if (node.fromKernel[0]?.kind === "expired") return;
    node.fromKernel.shift();
    node.hasLostEvents = true;
  }

  kernelEvent(node: Node): void {
    const event = node.fromKernel.shift();
    if (event !== undefined) this.feed(node, event);
  }

  cut(node: Node): void {
    if (!node.isConnected) return;
    node.isConnected = false;
    this.allocator.disconnected(node.name);
    this.#loseConnection(node);
  }

  /** The node dials again before the service knows that the old connection is gone: the new hello closes it (`Membership`). */
  redial(node: Node): void {
    if (!node.isConnected || node.state === null) return;
    this.#loseConnection(node);
    this.book.greeted(node.name, String(node.instance));
    this.allocator.connected(node.name);
  }

  connect(node: Node): void {
    if (node.isConnected || node.state === null) return;
    node.isConnected = true;
    this.book.greeted(node.name, String(node.instance));
    this.allocator.connected(node.name);
  }

  /** The agent dies; the kernel goes on. */
  crashAgent(node: Node): void {
    this.cut(node);
    node.state = null;
    node.instance++;
    node.awaited = null;
    // Also that its requests have failed: the next process has not asked them.
    node.toNode = [];
    node.fromKernel = [];
    node.delivered = [];
  }

  startAgent(node: Node): void {
    if (node.state !== null) return;
    // Events go to who listens, and it listens from here on.
    node.fromKernel = [];
    const { oseq, credit, isAlive } = node.kernel;
    node.state = initialHolder(WINDOW, isAlive, SOLE_LEASE);
    if (isAlive) this.feed(node, { kind: "adopted", oseq, lastSendable: oseq + credit, nowMs: this.clock.nowMs() });
  }

  /** `survivors` of its writes under way reach the disk, and as many ledger records do not. */
  async crashService(survivors: number): Promise<void> {
    this.ledger.splice(this.ledger.length - survivors);
    this.seen.serviceCrashed = true;
    this.allocator.close();
    this.store.crash(survivors);
    await settled();
    for (const node of this.nodes) this.#loseConnection(node);
    this.store = new FakeStore(this.disk);
    this.book = this.#newBook();
    this.allocator = this.#newAllocator();
    this.#bookStarts();
    for (const node of this.nodes) {
      if (!node.isConnected) continue;
      this.book.greeted(node.name, String(node.instance));
      this.allocator.connected(node.name);
    }
  }

  async flush(): Promise<void> {
    this.store.flushOne();
    await settled();
  }

  advance(ms: number): void {
    this.clock.advance(ms);
    if (this.nodes.some(({ isConnected }) => !isConnected) && ms > 0) this.seen.longCut = true;
    for (const node of this.nodes) this.feed(node, { kind: "tick", oseq: null, nowMs: 0 });
  }

  /** What no step may break. */
  check(): void {
    const sorted = [...this.granted].sort(([a], [b]) => (a < b ? -1 : 1));
    for (const [i, [first, end]] of sorted.entries()) {
      const before = sorted[i - 1];
      if (before !== undefined && first < before[1]) throw new Error(`A1 [${first}, ${end}) was granted before`);
      if (end > 1n << 32n) throw new Error("A6 beyond the end of the line");
    }
    for (const { name, kernel, state } of this.nodes) {
      if (kernel.isAlive && state?.kind === "held" && kernel.oseq + kernel.credit >= state.end) {
        throw new Error(`H1 ${name} may send up to ${kernel.oseq + kernel.credit}, its lease ends at ${state.end}`);
      }
    }
    const { serviceCrashed, longCut, answersMixedUp } = this.seen;
    if (serviceCrashed || longCut || answersMixedUp) return;
    if (this.replayDrops > 0) throw new Error("A7 the peer has dropped a packet as too old");
    this.#checkSpread();
  }

  /** A7, on what the kernels could really send: no live lease ends a window above another one's next number. */
  #checkSpread(): void {
    const reach = BigInt(WINDOW - reorderAllowanceNumbers(WINDOW));
    const live = this.nodes.filter(({ kernel }) => kernel.isAlive && kernel.credit > 0n);
    for (const a of live) {
      for (const b of live) {
        if (a === b || a.kernel.oseq + a.kernel.credit < b.kernel.oseq + 1n + reach) continue;
        throw new Error(`A7 ${a.name} may reach ${a.kernel.oseq + a.kernel.credit}, ${b.name} is at ${b.kernel.oseq}`);
      }
    }
  }

  #reserve(node: Node, { id, count, nextUnsent }: Message & { kind: "reserve" }): void {
    const { generation } = node;
    this.allocator.reserve({ sa: SA, node: node.name, epoch: this.epoch, count, nextUnsent }, (outcome) => {
      if (node.generation !== generation) return;
      if ("refused" in outcome) {
        this.refusals++;
        const refused: HolderEvent = { kind: "refused", code: outcome.refused.code, nowMs: 0 };
        node.toNode.push({ event: refused, answers: id, travels: true });
        return;
      }
      const { first, end, holders } = outcome.grant;
      node.owned.push([first, end]);
      const granted: HolderEvent = { kind: "granted", first, end, holders, nowMs: 0 };
      node.toNode.push({ event: granted, answers: id, travels: true });
    });
  }

  #perform(node: Node, effect: HolderEffect): void {
    const { kernel } = node;
    switch (effect.kind) {
      case "reserve":
        node.awaited = node.nextId++;
        if (node.isConnected) node.toService.push({ ...effect, id: node.awaited });
        else this.#fail(node);
        return;
      case "release":
      case "report":
        if (node.isConnected) node.toService.push(effect);
        return;
      case "install":
      case "reinstall":
        // NEWAE on a dead state gives ESRCH; its EXPIRE event is on its way.
        if (effect.kind === "install" && !kernel.isAlive) return;
        kernel.isAlive = true;
        kernel.oseq = effect.first - 1n;
        kernel.credit = effect.end - effect.first;
        {
          this.#applied(node, effect.token);
          return;
        }
      case "extend":
        if (!kernel.isAlive) return;
        kernel.credit = effect.creditNumbers;
        {
          this.#applied(node, effect.token);
          return;
        }
      case "park":
        kernel.credit = 0n;
        return;
      case "askPark":
        node.toNode.push({ event: { kind: "parkAllowed", nowMs: 0 }, answers: null, travels: false });
        return;
      case "ready":
        if (kernel.isAlive && kernel.credit === 0n && node.fromKernel.length === 0 && !node.hasLostEvents) {
          throw new Error(`${node.name} says ready without credit`);
        }
        return;
      default:
        return;
    }
  }

  #applied(node: Node, token: number): void {
    const { oseq, credit } = node.kernel;
    node.fromKernel.push({ kind: "applied", token, oseq, lastSendable: oseq + credit, nowMs: 0 });
  }

  /** What the bus tells a node whose connection is gone: nobody knows what became of its request. */
  #fail(node: Node): void {
    if (node.awaited === null) return;
    node.awaited = null;
    const refused: HolderEvent = { kind: "refused", code: "bus.closed", nowMs: 0 };
    node.toNode.push({ event: refused, answers: null, travels: false });
  }

  #loseConnection(node: Node): void {
    node.generation++;
    node.toService = [];
    node.toNode = node.toNode.filter(({ travels }) => !travels);
    this.#fail(node);
  }

  #newBook(): LedgerBook {
    const append = (text: string): void => {
      this.ledger.push(text);
      const record = decodeLedgerRecord(text);
      if (record.kind === "burnt") this.#burnt.addRange(record.first, record.end);
    };
    const book = new LedgerBook(append, () => 0);
    for (const node of this.nodes) book.greeted(node.name, String(node.instance));
    return book;
  }

  #bookStarts(): void {
    this.book.started(this.allocator.owners(), this.allocator.lines());
  }

  #newAllocator(): Allocator {
    return new Allocator({
      store: this.store,
      clock: this.clock,
      counters: new Counters(),
      limits: { ceilingStepNumbers: CEILING_STEP, soleLease: SOLE_LEASE },
      events: {
        recall: (name, _sa, _highWater, holders) => {
          const node = this.nodes.find((other) => other.name === name);
          if (node?.isConnected !== true) return;
          node.toNode.push({ event: { kind: "recall", holders, nowMs: 0 }, answers: null, travels: true });
        },
        granted: (request, grant) => {
          this.#onGrant(grant);
          this.book.granted(request, grant);
        },
        changed: (change) => this.book.changed(change),
        rekeySoon: () => {},
        stopped: () => {},
      },
    });
  }

  #onGrant({ first, end }: Grant): void {
    if (end > this.disk.ceiling(SA)) throw new Error(`A2 ${end} was granted, ${this.disk.ceiling(SA)} is durable`);
    this.granted.push([first, end]);
  }
}
