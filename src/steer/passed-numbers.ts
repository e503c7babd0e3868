/** Numbers that are passed within so long are asked about together. Our choice. */
export const SPAN_MS = 100;
/**
 * A packet has reached the kernel of its node, and its number that kernel's window, when a question is asked so long after it was
 * passed on. The trusted link takes less than a millisecond; our choice.
 */
export const TRANSIT_MS = 50;
/** Numbers of one SA that nobody has answered for yet: what one second of full load brings. Our choice. */
const MAX_NUMBERS = 131_072;

/** Of nearly every packet: nothing is allocated for it. */
const NONE: number[] = [];

interface Span {
  readonly fromMs: number;
  /** Null while numbers are added. */
  untilMs: number | null;
  /** The low 32 bits of a number, and which node its packet was passed to. */
  readonly numbers: Map<number, string>;
  /** And the mark of that packet (`icvMark`). A map of its own: every packet comes here, and small integers take no memory. */
  readonly marks: Map<number, number>;
  /** Nodes that have not answered since. */
  readonly unanswered: Set<string>;
}

/**
 * Which node the packets of one inbound SA were passed to, for as long as that node has not said what of it its kernel has
 * received. Packets are not authenticated here: that a number was passed says nothing about whether it was received. Pure.
 */
export class PassedNumbers {
  /** Oldest first. */
  #spans: Span[] = [];
  #size = 0;

  /** True while there is something to ask about. */
  get isBusy(): boolean {
    return this.#spans.length > 0;
  }

  /** False when older numbers, of which no node has said anything, had to be forgotten for it. */
  add(sequence: number, node: string, mark: number, nowMs: number): boolean {
    const span = this.#open(nowMs);
    span.numbers.set(sequence, node);
    span.marks.set(sequence, mark);
    span.unanswered.add(node);
    this.#size += 1;
    if (this.#size <= MAX_NUMBERS) return true;
    const [oldest] = this.#spans;
    if (oldest === undefined || oldest === span) this.close(nowMs);
    else this.#drop([oldest]);
    return false;
  }

  /** The marks of packets with the number whose nodes have not said yet what became of them. */
  find(sequence: number): readonly number[] {
    let found: number[] = NONE;
    for (const { numbers, marks, unanswered } of this.#spans) {
      const node = numbers.get(sequence);
      if (node !== undefined && unanswered.has(node)) found = [...found, marks.get(sequence) ?? 0];
    }
    return found;
  }

  /** What comes from now on is asked about separately. */
  close(nowMs: number): void {
    const span = this.#spans.at(-1);
    if (span?.untilMs === null) span.untilMs = nowMs;
  }

  /** Nodes that have to be asked. */
  unanswered(): Set<string> {
    return new Set(this.#spans.flatMap(({ unanswered }) => [...unanswered]));
  }

  /** Nodes that have not answered for numbers from before `beforeMs`. */
  unansweredBefore(beforeMs: number): Set<string> {
    return new Set(this.#spans.filter(({ fromMs }) => fromMs < beforeMs).flatMap(({ unanswered }) => [...unanswered]));
  }

  /** The node has answered a question that was asked at `askedMs`. */
  answered(node: string, askedMs: number): void {
    for (const { untilMs, unanswered } of this.#spans) {
      if (untilMs !== null && untilMs + TRANSIT_MS <= askedMs) unanswered.delete(node);
    }
    this.#drop(this.#spans.filter(({ untilMs, unanswered }) => untilMs !== null && unanswered.size === 0));
  }

  /** The node will not answer any more: what it has not answered for with the marks, in the order of its passing. */
  abandon(node: string, nowMs: number): (readonly [sequence: number, mark: number])[] {
    this.close(nowMs);
    const abandoned: (readonly [number, number])[] = [];
    for (const { numbers, marks, unanswered } of this.#spans) {
      if (!unanswered.delete(node)) continue;
      for (const [sequence, to] of numbers) if (to === node) abandoned.push([sequence, marks.get(sequence) ?? 0]);
    }
    this.#drop(this.#spans.filter(({ unanswered }) => unanswered.size === 0));
    return abandoned;
  }

  #open(nowMs: number): Span {
    const last = this.#spans.at(-1);
    if (last?.untilMs === null && nowMs - last.fromMs < SPAN_MS) return last;
    this.close(nowMs);
    const span: Span = { fromMs: nowMs, untilMs: null, numbers: new Map(), marks: new Map(), unanswered: new Set() };
    this.#spans.push(span);
    return span;
  }

  #drop(gone: readonly Span[]): void {
    if (gone.length === 0) return;
    for (const { numbers } of gone) this.#size -= numbers.size;
    this.#spans = this.#spans.filter((span) => !gone.includes(span));
  }
}
