import type { Clock } from "../core/clock.ts";
import { EsplexError, messageOf } from "../core/errors.ts";
import { errorOf, asRefusal, lost } from "./netlink-answers.ts";
import type { Expectation, Submission, Waiting } from "./netlink-exchange.ts";
import { finishFrame, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR, type NetlinkMessage } from "./netlink-message.ts";

/** Requests that wait for their turn, over all callers. Our choice. */
const BACKLOG_MAX = 8192;

export interface NetlinkFlightOptions {
  /** Our address on the protocol: answers carry it. */
  readonly port: number;
  /** Requests whose answers have room in the receive buffer at a time. */
  readonly maxInFlight: number;
  /** A submission of which nothing is heard for so long has failed. */
  readonly timeoutMs: number;
  readonly clock: Clock;
  /** Sends finished frames as one datagram; `onError` when it could not be sent. */
  readonly send: (frames: readonly Buffer[], onError: (error: Error) => void) => void;
}

/**
 * The requests of one socket that are under way, and those that wait until their answers have room; answers find them by sequence
 * number.
 */
export class NetlinkFlight {
  readonly #options: NetlinkFlightOptions;
  readonly #waiting = new Map<number, Waiting>();
  #backlog: Submission[] = [];
  #seq = 0;
  #isClosed = false;

  constructor(options: NetlinkFlightOptions) {
    this.#options = options;
  }

  /** Sends as soon as the answers have room; at the latest when nothing else is in flight. Returns the sequence numbers, once it was sent. */
  submit(expectations: readonly Expectation[]): readonly number[] {
    if (this.#isClosed) throw new EsplexError("kernel.refused", "netlink socket closed", { operation: "submit" });
    if (this.#backlog.length >= BACKLOG_MAX) {
      throw new EsplexError("kernel.overrun", `more than ${BACKLOG_MAX} netlink requests wait`);
    }
    const submission: Submission = { expectations, seqs: [], timer: null, waiting: 0, heardMs: 0 };
    this.#backlog.push(submission);
    this.#sendBacklog();
    return submission.seqs;
  }

  /** False when it answers no request of ours. */
  take(message: NetlinkMessage): boolean {
    const waiting = message.port === this.#options.port ? this.#waiting.get(message.seq) : undefined;
    if (waiting === undefined) return false;
    if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) {
      this.#settle(message.seq, errorOf(message, waiting.operation), message.flags);
    } else {
      this.#answered(waiting, message);
    }
    return true;
  }

  /** Nobody waits for its answer any more. */
  forget(seq: number): void {
    const submission = this.#waiting.get(seq)?.submission;
    if (submission === undefined) return;
    this.#waiting.delete(seq);
    submission.waiting -= 1;
    if (submission.waiting === 0) submission.timer?.cancel();
    if (this.#backlog.length > 0) this.#sendBacklog();
  }

  /** Fails everything that was sent. */
  fail(error: EsplexError): void {
    for (const seq of [...this.#waiting.keys()]) this.#settle(seq, error, 0);
  }

  /** Fails everything, and what comes later. */
  close(error: EsplexError): void {
    this.#isClosed = true;
    for (const { expectations } of this.#backlog.splice(0)) for (const { settle } of expectations) settle(error, 0);
    this.fail(error);
  }

  #sendBacklog(): void {
    for (let next = this.#backlog[0]; next !== undefined; next = this.#backlog[0]) {
      const inFlight = this.#waiting.size;
      if (inFlight > 0 && inFlight + next.expectations.length > this.#options.maxInFlight) return;
      this.#backlog.shift();
      this.#sendNow(next);
    }
  }

  #sendNow(submission: Submission): void {
    const { port, clock, timeoutMs, send } = this.#options;
    const { expectations, seqs } = submission;
    const frames = expectations.map(({ request, flags, operation, onAnswer, settle }) => {
      const seq = this.#nextSeq();
      this.#waiting.set(seq, { operation, onAnswer, settle, submission });
      seqs.push(seq);
      const { buffer, byteOffset, length } = finishFrame(request, flags, seq, port);
      return Buffer.from(buffer, byteOffset, length);
    });
    submission.waiting = seqs.length;
    submission.heardMs = clock.nowMs();
    this.#limit(submission, timeoutMs);
    send(frames, (error) => {
      for (const seq of seqs) this.#settle(seq, asRefusal("sendmsg", error), 0);
    });
  }

  /** Gives up when nothing is heard for the time limit: a large dump may take longer. */
  #limit(submission: Submission, delayMs: number): void {
    const { clock, timeoutMs } = this.#options;
    submission.timer = clock.after(delayMs, () => {
      const leftMs = submission.heardMs + timeoutMs - clock.nowMs();
      if (leftMs > 0) {
        this.#limit(submission, leftMs);
        return;
      }
      const { seqs, expectations } = submission;
      seqs.forEach((seq, at) => {
        this.#settle(seq, lost(expectations[at]?.operation ?? "request", "no answer in time"), 0);
      });
    });
  }

  #answered(waiting: Waiting, message: NetlinkMessage): void {
    waiting.submission.heardMs = this.#options.clock.nowMs();
    try {
      waiting.onAnswer(message);
    } catch (error) {
      const what = `${waiting.operation}: answer not understood: ${messageOf(error)}`;
      this.#settle(message.seq, error instanceof EsplexError ? error : new EsplexError("wire.malformed", what), 0);
      return;
    }
    // A single answer ends its request; the parts of a dump end with NLMSG_DONE.
    if ((message.flags & NLM_F_MULTI) === 0) this.#settle(message.seq, null, message.flags);
  }

  #settle(seq: number, error: EsplexError | null, lastFlags: number): void {
    const waiting = this.#waiting.get(seq);
    if (waiting === undefined) return;
    this.forget(seq);
    waiting.settle(error, lastFlags);
  }

  #nextSeq(): number {
    do {
      this.#seq = (this.#seq + 1) >>> 0;
    } while (this.#seq === 0 || this.#waiting.has(this.#seq));
    return this.#seq;
  }
}
