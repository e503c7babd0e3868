import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { openQueue, type PacketQueue, type QueuedPacket, type QueueOptions } from "../../net/nfqueue.ts";
import { packetBytes, parseIp } from "../../sa/ip-header.ts";
import { IP_PROTOCOL, parseTcp, TCP_PEEK_BYTES } from "../../sa/packet.ts";
import type { ConnectionKey } from "../../steer/connection-table.ts";

/** Number of the queue between the kernel and this; our choice. */
export const OPENINGS_QUEUE = 4551;
/** An IPv6 header with every extension header that we walk through, and the TCP header. */
const COPY_RANGE_BYTES = 512;
/** SYNs that wait for their distributor's answer, and in the kernel; our choice. Those that find no room come again. */
const MAX_WAITING = 1_024;

export interface OpeningsContext {
  /** Asks who distributes the DVIPA; false: not now, or never. */
  readonly ask: (connection: ConnectionKey) => Promise<boolean>;
  /** The packets of the kernel; tests have their own. */
  readonly open?: (options: QueueOptions) => Promise<Pick<PacketQueue, "verdict" | "close">>;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * TCP connections that this target opens from a DVIPA (seeds: NEWCONN). The first segment waits, still unprotected, until the
 * distributor knows whose answers these will be, and has seen to it that this node holds a lease: an answer that nobody expects
 * is for the distributor's own kernel, which refuses it. What is dropped comes again from the program's kernel (RFC 6298 §2.1).
 */
export class Openings {
  readonly #context: OpeningsContext;
  readonly #waiting = new Set<string>();
  #queue: Pick<PacketQueue, "verdict" | "close"> | null = null;
  #starting: Promise<void> | null = null;
  #isClosed = false;

  constructor(context: OpeningsContext) {
    this.#context = context;
  }

  /** Before the rule that sends SYNs here. A second call does nothing, but for a try again after a failure. */
  async start(): Promise<void> {
    this.#starting ??= this.#start().catch((error: unknown) => {
      this.#starting = null;
      throw error;
    });
    await this.#starting;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#queue?.close();
  }

  async #start(): Promise<void> {
    if (this.#isClosed) return;
    const { open = openQueue, counters, log } = this.#context;
    this.#queue = await open({
      number: OPENINGS_QUEUE,
      copyRangeBytes: COPY_RANGE_BYTES,
      maxLength: MAX_WAITING,
      onPacket: (packet) => this.#taken(packet),
      onOverrun: () => counters.add("opening.tooMany"),
      onFault: (error) => {
        counters.add("opening.fault");
        log.error("the first segment of a connection could not be handled", { reason: messageOf(error) });
      },
    });
  }

  #taken({ id, payload }: QueuedPacket): void {
    const connection = connectionOf(payload);
    if (connection === null) {
      this.#drop(id, "unreadable");
      return;
    }
    const { client, clientPort, dvipa, port } = connection;
    const name = `${client} ${clientPort} ${dvipa} ${port}`;
    if (this.#waiting.has(name)) this.#drop(id, "repeated");
    else if (this.#waiting.size >= MAX_WAITING) this.#drop(id, "tooMany");
    else void this.#ask(id, name, connection);
  }

  async #ask(id: number, name: string, connection: ConnectionKey): Promise<void> {
    this.#waiting.add(name);
    try {
      if (await this.#context.ask(connection)) {
        this.#context.counters.add("opening.passed");
        this.#queue?.verdict(id, "accept");
      } else {
        this.#drop(id, "refused");
      }
    } catch (error) {
      this.#context.log.debug("the distributor did not say whether a connection may be opened", {
        reason: messageOf(error),
      });
      this.#drop(id, "unanswered");
    } finally {
      this.#waiting.delete(name);
    }
  }

  #drop(id: number, reason: string): void {
    this.#context.counters.add(`opening.${reason}`);
    this.#queue?.verdict(id, "drop");
  }
}

/** The connection of an outgoing segment, seen from its other end; null when it is no whole TCP header of a packet of ours. */
function connectionOf(packet: Uint8Array): ConnectionKey | null {
  const header = parseIp(packetBytes(packet), { whole: false });
  if (typeof header === "string" || header.protocol !== IP_PROTOCOL.tcp || header.fragment === "later") return null;
  const tcp = parseTcp(packet.subarray(header.headerBytes, header.headerBytes + TCP_PEEK_BYTES));
  if (tcp === null) return null;
  const { source: dvipa, destination: client } = header;
  return { client, clientPort: tcp.destinationPort, dvipa, port: tcp.sourcePort };
}
