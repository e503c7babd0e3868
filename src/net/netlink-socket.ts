import netlink from "netlink";
import type { RawNetlinkSocket } from "netlink";
import { systemClock, type Clock, type Timer } from "../core/clock.ts";
import { EsplexError, invariant } from "../core/errors.ts";
import { DatagramReader, sendNow } from "./datagram-reader.ts";
import { droppedMessages, prepareNetlinkSocket } from "./socket-options.ts";
import { kernelRefusal } from "./kernel-error.ts";
import { asRefusal, inDatagrams, lost } from "./netlink-answers.ts";
import { expectation, required, type Expectation } from "./netlink-exchange.ts";
import { NetlinkFlight } from "./netlink-flight.ts";
import {
  NLM_F_ACK,
  NLM_F_DUMP,
  NLM_F_DUMP_INTR,
  parseMessages,
  type NetlinkMessage,
  type NetlinkRequest,
} from "./netlink-message.ts";

export const NETLINK_ROUTE = 0;
export const NETLINK_XFRM = 6;
export const NETLINK_NETFILTER = 12;

/** Answers, and the parts of a dump, come in microseconds; this long without any means one was lost. Our choice. */
const ANSWER_TIMEOUT_MS = 10_000;
/**
 * What one answer may take of the receive buffer, bookkeeping included: an error repeats the request. Requests are held
 * back so that answers fit one half of the buffer (dumps stop at the other half), and none is lost.
 */
const ANSWER_BYTES = 4096;
/** `NLM_F_DUMP_INTR`: the table changed under the dump. */
const DUMP_ATTEMPTS = 8;
/** A dump with more entries than this is refused. Our choice; 10,000 SAs are the goal. */
const DUMP_ENTRIES_MAX = 1_000_000;
/** How often the kernel's count of lost messages is read. Our choice. */
const DROPS_MS = 1000;
/** A turn of the event loop that receives for so long takes no more than it must: timers and other sockets wait. Our choice. */
const TURN_MS = 20;
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;
const SEND_BUFFER_BYTES = 1024 * 1024;

export interface NetlinkSocketOptions {
  /** Multicast groups to join. A socket with groups carries notifications only: their seq may look like an answer's. */
  readonly groups?: readonly number[];
  /** Every message that answers no request. What it throws goes to `onFault`. */
  readonly onMessage?: (message: NetlinkMessage) => void;
  /** The kernel had more to say than the buffer held: messages are lost, re-read the truth. */
  readonly onOverrun?: () => void;
  /** An exception out of a handler, or a datagram that cannot be read. Default: thrown, outside the native callback. */
  readonly onFault?: (error: unknown) => void;
  /**
   * Fixed receive size in bytes, for high packet rates: many datagrams with each system call. The default asks for each
   * datagram's size first.
   */
  readonly datagramBytes?: number;
  readonly receiveBufferBytes?: number;
  /** Overwrite what was sent and received: for protocols that carry keys. */
  readonly wipe?: boolean;
  readonly clock?: Clock;
  readonly timeoutMs?: number;
}

/**
 * A netlink socket in the current network namespace: requests matched to answers by sequence number, dumps, batches,
 * notifications. Only the transport is npm `netlink`'s; its higher layers lose errno. Every refusal is
 * `kernel.refused` (see `kernelRefusal`); lost answers are `kernel.overrun`. Keep a socket for the life of the daemon.
 */
export class NetlinkSocket {
  readonly #socket: RawNetlinkSocket;
  readonly #protocol: number;
  readonly #port: number;
  readonly #options: NetlinkSocketOptions;
  readonly #clock: Clock;
  readonly #flight: NetlinkFlight;
  readonly #fd: number;
  readonly #reader: DatagramReader | null;
  #dumps: Promise<unknown> = Promise.resolve();
  #closed = false;
  #drops = 0;
  #dropsTimer: Timer | null = null;
  /** When the first datagram of this turn of the event loop came; null before it. */
  #turnSinceMs: number | null = null;

  private constructor(protocol: number, options: NetlinkSocketOptions) {
    const { datagramBytes, receiveBufferBytes = RECEIVE_BUFFER_BYTES, clock = systemClock } = options;
    this.#options = options;
    this.#clock = clock;
    const buffers = { recvBufferSize: receiveBufferBytes, sendBufferSize: SEND_BUFFER_BYTES };
    this.#socket = new netlink.RawNetlinkSocket(
      protocol,
      datagramBytes === undefined ? buffers : { ...buffers, messagePeeking: false, msgBufferSize: datagramBytes },
    );
    this.#port = this.#socket.address().port >>> 0;
    this.#protocol = protocol;
    this.#fd = prepareNetlinkSocket(protocol, this.#port, receiveBufferBytes);
    this.#reader = datagramBytes === undefined ? null : new DatagramReader(this.#fd, datagramBytes);
    if (options.onOverrun !== undefined) this.#watchDrops();
    this.#flight = new NetlinkFlight({
      port: this.#port,
      maxInFlight: Math.floor(this.#socket.getRecvBufferSize() / 2 / ANSWER_BYTES),
      timeoutMs: options.timeoutMs ?? ANSWER_TIMEOUT_MS,
      clock,
      send: (frames, onError) => this.#send(frames, onError),
    });
    this.#socket.on("message", (datagram, { port }) => this.#woken(datagram, port));
    this.#socket.on("truncatedMessage", () => this.#guard(() => this.#overrun("a datagram was cut")));
    this.#socket.on("error", (error) => this.#guard(() => this.#failed(error)));
    for (const group of options.groups ?? []) this.#socket.addMembership(group);
  }

  /** Needs CAP_NET_ADMIN for most requests; throws `kernel.refused` when the protocol or a group is missing. */
  static open(protocol: number, options: NetlinkSocketOptions = {}): NetlinkSocket {
    try {
      return new NetlinkSocket(protocol, options);
    } catch (error) {
      const errno = error instanceof Error && "errno" in error ? Number(error.errno) : 0;
      throw kernelRefusal(`open netlink protocol ${protocol}`, errno);
    }
  }

  /** Our address on this netlink protocol: notifications of our own requests carry it. */
  get port(): number {
    return this.#port;
  }

  /** What the kernel granted, its bookkeeping included. */
  get receiveBufferBytes(): number {
    return this.#socket.getRecvBufferSize();
  }

  /** Sends one request and waits for its acknowledgement. */
  async request(request: NetlinkRequest): Promise<void> {
    await this.#exchange(request, NLM_F_ACK, () => null);
  }

  /** Sends one request and decodes its one answer, which is the acknowledgement. */
  async get<T>(request: NetlinkRequest, decode: (message: NetlinkMessage) => T): Promise<T> {
    return required(await this.#exchange(request, 0, decode), request);
  }

  /** A write and a read in one datagram: the kernel serves nobody else's request in between. */
  async requestThenGet<T>(
    write: NetlinkRequest,
    read: NetlinkRequest,
    decode: (message: NetlinkMessage) => T,
  ): Promise<T> {
    const written = Promise.withResolvers<null>();
    const answered = Promise.withResolvers<T | null>();
    this.#submit([expectation(write, NLM_F_ACK, () => null, written), expectation(read, 0, decode, answered)]);
    const [write_, read_] = await Promise.allSettled([written.promise, answered.promise]);
    if (write_.status === "rejected") throw write_.reason;
    if (read_.status === "rejected") throw read_.reason;
    return required(read_.value, read);
  }

  /**
   * Sends many requests in order, several per datagram, and returns one result for each: null or its refusal. Only the
   * last of a datagram asks for an acknowledgement: the kernel works in order. `requests` is consumed as it is sent, so
   * a generator keeps key material short-lived. Throws only when answers were lost.
   */
  async batch(requests: Iterable<NetlinkRequest>): Promise<(EsplexError | null)[]> {
    const results: (EsplexError | null)[] = [];
    for (const datagram of inDatagrams(requests)) {
      results.push(...(await this.#sendDatagram(datagram, NLM_F_ACK, () => {})));
    }
    return results;
  }

  /**
   * The same for questions that have one answer each: what `decode` makes of it, or the refusal. A refusal of one says
   * nothing of the others.
   */
  async getEach<T>(
    requests: Iterable<NetlinkRequest>,
    decode: (message: NetlinkMessage) => T,
  ): Promise<(T | EsplexError | null)[]> {
    const results: (T | EsplexError | null)[] = [];
    for (const datagram of inDatagrams(requests)) {
      const first = results.length;
      const refusals = await this.#sendDatagram(datagram, 0, (message, index) => {
        results[first + index] = decode(message);
      });
      refusals.forEach((refusal, index) => {
        results[first + index] = refusal ?? results[first + index] ?? null;
      });
    }
    return results;
  }

  /** All entries of a table; `decode` returns null to leave one out. Repeats when the table changed meanwhile. */
  async dump<T>(build: () => NetlinkRequest, decode: (message: NetlinkMessage) => T | null): Promise<T[]> {
    const run = this.#dumps.then(() => this.#dump(build, decode));
    this.#dumps = run.catch(() => {});
    return run;
  }

  /**
   * Sends finished frames without waiting for anything: for verdicts. Refusals arrive at `onMessage`. The caller may write to `frames`
   * again at once.
   */
  post(frames: Uint8Array): void {
    if (this.#closed || sendNow(this.#fd, frames)) return;
    // The package keeps what has no room yet.
    this.#send([Buffer.from(frames)], (error) => this.#failed(error));
  }

  /** Fails everything in flight. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#dropsTimer?.cancel();
    this.#flight.close(new EsplexError("kernel.refused", "netlink socket closed", { operation: "close" }));
    // Not inside a native callback: the library would go on with a closed handle.
    setImmediate(() => this.#socket.close());
  }

  async #exchange<T>(
    request: NetlinkRequest,
    flags: number,
    decode: (message: NetlinkMessage) => T,
  ): Promise<T | null> {
    const answer = Promise.withResolvers<T | null>();
    this.#submit([expectation(request, flags, decode, answer)]);
    return answer.promise;
  }

  async #dump<T>(build: () => NetlinkRequest, decode: (message: NetlinkMessage) => T | null): Promise<T[]> {
    for (let attempt = 1; attempt <= DUMP_ATTEMPTS; attempt++) {
      const entries: T[] = [];
      let interrupted = false;
      const done = Promise.withResolvers<null>();
      const request = build();
      const onAnswer = (message: NetlinkMessage): void => {
        interrupted ||= (message.flags & NLM_F_DUMP_INTR) !== 0;
        const entry = decode(message);
        if (entry !== null && entries.push(entry) > DUMP_ENTRIES_MAX) {
          throw new EsplexError("kernel.overrun", `${request.operation}: more than ${DUMP_ENTRIES_MAX} entries`);
        }
      };
      const settle = (error: EsplexError | null, lastFlags: number): void => {
        interrupted ||= (lastFlags & NLM_F_DUMP_INTR) !== 0;
        if (error === null) done.resolve(null);
        else done.reject(error);
      };
      this.#submit([{ request, flags: NLM_F_DUMP, operation: request.operation, onAnswer, settle }]);
      await done.promise;
      if (!interrupted) return entries;
    }
    throw new EsplexError(
      "kernel.overrun",
      `${build().operation}: the table changed during each of ${DUMP_ATTEMPTS} dumps`,
    );
  }

  #submit(expectations: readonly Expectation[]): readonly number[] {
    invariant((this.#options.groups ?? []).length === 0, "a socket with groups carries no requests");
    return this.#flight.submit(expectations);
  }

  /** `lastFlags`: how the last of them is made to answer. */
  async #sendDatagram(
    requests: readonly NetlinkRequest[],
    lastFlags: number,
    onAnswer: (message: NetlinkMessage, index: number) => void,
  ): Promise<(EsplexError | null)[]> {
    const results: (EsplexError | null)[] = requests.map(() => null);
    const done = Promise.withResolvers<null>();
    const last = requests.length - 1;
    const seqs = this.#submit(
      requests.map((request, index) => ({
        request,
        flags: index === last ? lastFlags : 0,
        operation: request.operation,
        onAnswer: (message) => onAnswer(message, index),
        settle: (error) => {
          results[index] = error;
          if (error?.code === "kernel.overrun") done.reject(error);
          else if (index === last) done.resolve(null);
        },
      })),
    );
    try {
      await done.promise;
    } finally {
      for (const seq of seqs) this.#flight.forget(seq);
    }
    return results;
  }

  #send(frames: readonly Buffer[], onError: (error: Error) => void): void {
    const sent = (error?: Error): void => {
      if (this.#options.wipe === true) for (const frame of frames) frame.fill(0);
      if (error !== undefined) onError(error);
    };
    this.#socket.send([...frames], undefined, (error) => this.#guard(() => sent(error)));
  }

  /**
   * The package brings one datagram, up to 32 times in a turn of the event loop; those behind it, some dozens at most, are taken all at
   * once, as long as the turn is short: to receive one may be much work (a verdict's packet is forwarded before `send` returns).
   */
  #woken(datagram: Buffer, senderPort: number): void {
    this.#guard(() => this.#receive(datagram, senderPort));
    if (this.#reader === null || this.#closed || this.#isTurnLong()) return;
    this.#guard(() => {
      for (const { bytes, senderPort: port, isTruncated } of this.#reader?.take() ?? []) {
        if (isTruncated) this.#guard(() => this.#overrun("a datagram was cut"));
        else this.#guard(() => this.#receive(bytes, port));
      }
    });
  }

  #isTurnLong(): boolean {
    const nowMs = this.#clock.nowMs();
    if (this.#turnSinceMs === null) {
      this.#turnSinceMs = nowMs;
      setImmediate(() => (this.#turnSinceMs = null));
    }
    return nowMs - this.#turnSinceMs >= TURN_MS;
  }

  #receive(datagram: Uint8Array, senderPort: number): void {
    try {
      if (senderPort !== 0) return; // only the kernel is believed
      for (const message of parseMessages(datagram)) {
        if (!this.#flight.take(message)) this.#options.onMessage?.(message);
      }
    } finally {
      if (this.#options.wipe === true) datagram.fill(0);
    }
  }

  #failed(error: Error): void {
    if ("code" in error && error.code === "ENOBUFS") {
      this.#overrun("ENOBUFS");
    } else {
      this.#flight.fail(asRefusal("recvmsg", error));
      this.#fault(error);
    }
  }

  /** The kernel counts what did not fit into the buffer; nobody is told but by looking. */
  #watchDrops(): void {
    this.#dropsTimer = this.#clock.after(DROPS_MS, () => {
      this.#guard(() => {
        const drops = droppedMessages(this.#protocol, this.#port);
        if (drops > this.#drops) this.#overrun(`${drops - this.#drops} messages did not fit into the buffer`);
        this.#drops = drops;
      });
      if (!this.#closed) this.#watchDrops();
    });
  }

  #overrun(why: string): void {
    this.#flight.fail(lost("netlink", why));
    this.#options.onOverrun?.();
  }

  /** An exception inside a native callback would abort the process. */
  #guard(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#fault(error);
    }
  }

  #fault(error: unknown): void {
    const { onFault } = this.#options;
    setImmediate(() => {
      if (onFault === undefined) throw error;
      onFault(error);
    });
  }
}
