/**
 * Replay protection of one inbound SA over all nodes (R15). Every node's kernel has a window of its own and sees only its share of
 * the numbers, so a recorded packet that goes to another node than its original would be fresh there. Invariants; tests cite them:
 *
 *  P1 A packet whose number a node has authenticated is dropped, whatever connection it seems to belong to, and before any table
 *     looks at it. What a node has authenticated is its kernel's word, given when it is asked.
 *  P2 A packet that was passed on, and of which its node has said nothing since, is not passed a second time. So no time lies between
 *     authentication and protection.
 *  P3 What was passed to a node that went away, or whose state was made anew, before it answered for it, is never passed again.
 *  P4 A packet moves no window and stops no other packet (RFC 4303 §3.4.3, C9). Two packets with one number are told apart by their
 *     ICV, and the later one's is checked here, at once: a forged number costs the real one that check. Only who sees the real packet
 *     on its way and overtakes it, with another that has its ICV, makes it pass for a double.
 *  P5 No node moves the window beyond what was passed to it: a wrong report must not make an SA deaf.
 *
 * RFC 4303 §3.3.3 lets no sender use a number twice, so that a packet comes twice is an attack, or a network that doubles packets.
 */
import type { ReceivedNumbers, StateReceived } from "../sa/received-numbers.ts";
import { AuthenticatedWindow, type ReplayVerdict } from "./authenticated-window.ts";
import { PassedNumbers } from "./passed-numbers.ts";

/** A node that answers nothing for so long has lost what it got. Above the limit of a request on the bus. Our choice. */
const ANSWER_LIMIT_MS = 6_000;
/** Numbers of one SA that are lost: what a node gets in the time in which its loss is noticed. Our choice. */
const MAX_LOST = 65_536;
const LOW_RANGE = 2 ** 32;

/**
 * `doubled`: a packet with this number was passed on, and nobody has said yet, or ever will, whether it was received. Whoever finds the
 * new one's ICV right asks {@link InboundReplay.isTwin}; else it is forged.
 */
export type Admission = ReplayVerdict | "doubled";

/** What became of a node's report. `ahead`: refused. `reborn`: its kernel state is another one than before. */
export type Taken = "taken" | "reborn" | "ahead";

interface Lost {
  /** The whole of its number. */
  readonly number: number;
  /** Two at most: a forged packet's, and the real one's. */
  readonly marks: readonly number[];
}

interface Reporter {
  /** The highest number that was passed to it. */
  passed: number;
  bornSeconds: bigint | null;
}

/** Pure: time comes in. See the invariants at the head of this file. */
export class InboundReplay {
  readonly #window: AuthenticatedWindow;
  readonly #passed = new PassedNumbers();
  readonly #reporters = new Map<string, Reporter>();
  /** By the low 32 bits, oldest first. */
  readonly #lost = new Map<number, Lost>();
  #forgotten = 0;

  constructor(windowPackets: number, esn: boolean) {
    this.#window = new AuthenticatedWindow(windowPackets, esn);
  }

  /** True while there is a node to ask. */
  get isBusy(): boolean {
    return this.#passed.isBusy;
  }

  /** Numbers, or spans of them, that are not protected any more because there were too many. */
  get forgotten(): number {
    return this.#forgotten;
  }

  /** All that the nodes have authenticated; null when that is nothing. */
  received(): ReceivedNumbers | null {
    return this.#window.highest === 0 ? null : this.#window.received();
  }

  /** May a packet with these low 32 bits of a number be passed on? Changes nothing. */
  admit(sequence: number): Admission {
    const verdict = this.#window.check(sequence);
    if (verdict !== "fresh") return verdict;
    return this.#passed.find(sequence).length > 0 || this.#lost.has(sequence) ? "doubled" : "fresh";
  }

  /** Of a doubled number: true when a packet with this mark (`icvMark`) was passed on. */
  isTwin(sequence: number, mark: number): boolean {
    return this.#passed.find(sequence).includes(mark) || this.#lost.get(sequence)?.marks.includes(mark) === true;
  }

  /** The high half of the number with these low 32 bits: 0 without ESN. */
  highHalfOf(sequence: number): number {
    return Math.floor(this.#window.numberOf(sequence) / LOW_RANGE);
  }

  /** The packet is being passed on to the node. */
  passed(sequence: number, node: string, mark: number, nowMs: number): void {
    const reporter = this.#reporterOf(node);
    reporter.passed = Math.max(reporter.passed, this.#window.numberOf(sequence));
    if (!this.#passed.add(sequence, node, mark, nowMs)) this.#forgotten += 1;
  }

  /** What was passed up to now is asked about from now on. */
  close(nowMs: number): void {
    this.#passed.close(nowMs);
  }

  /** Nodes that have to be asked. */
  toAsk(): Set<string> {
    return this.#passed.unanswered();
  }

  /** A node's answer to a question that was asked at `askedMs`. */
  answered(node: string, askedMs: number, { highest, bits, bornSeconds }: StateReceived): Taken {
    const reporter = this.#reporterOf(node);
    if (highest > BigInt(Math.max(reporter.passed, this.#window.highest))) return "ahead";
    const isReborn = reporter.bornSeconds !== null && reporter.bornSeconds !== bornSeconds;
    reporter.bornSeconds = bornSeconds;
    if (isReborn) this.abandon(node, askedMs);
    this.#window.add({ highest, bits });
    this.#passed.answered(node, askedMs);
    this.#sweep();
    return isReborn ? "reborn" : "taken";
  }

  /** The node is out of reach, or does not have the SA: what it has not answered for, it never will. */
  abandon(node: string, nowMs: number): void {
    for (const [sequence, mark] of this.#passed.abandon(node, nowMs)) {
      const before = this.#lost.get(sequence)?.marks ?? [];
      this.#lost.delete(sequence);
      this.#lost.set(sequence, { number: this.#window.numberOf(sequence), marks: [...new Set([...before, mark])] });
    }
    for (const sequence of this.#lost.keys()) {
      if (this.#lost.size <= MAX_LOST) break;
      this.#lost.delete(sequence);
      this.#forgotten += 1;
    }
  }

  /** Gives up on nodes that have not answered for too long. */
  giveUp(nowMs: number): void {
    for (const node of this.#passed.unansweredBefore(nowMs - ANSWER_LIMIT_MS)) this.abandon(node, nowMs);
  }

  #reporterOf(node: string): Reporter {
    const known = this.#reporters.get(node) ?? { passed: 0, bornSeconds: null };
    this.#reporters.set(node, known);
    return known;
  }

  /** The window says of numbers left of it what is to be said; with ESN, the same low bits come again. */
  #sweep(): void {
    for (const [sequence, { number }] of this.#lost) if (number < this.#window.bottom) this.#lost.delete(sequence);
  }
}
