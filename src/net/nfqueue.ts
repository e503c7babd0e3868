import { readFileSync } from "node:fs";
import { be16, be32, struct, u8 } from "../core/struct.ts";
import {
  AttributeCursor,
  finishFrame,
  MessageBuilder,
  NLMSG_ERROR,
  numberBytes,
  type NetlinkMessage,
} from "./netlink-message.ts";
import { NETLINK_NETFILTER, NetlinkSocket } from "./netlink-socket.ts";
import { nfgenmsg } from "./nfnetlink.ts";

/** `struct nfqnl_msg_config_cmd`, include/uapi/linux/netfilter/nfnetlink_queue.h. */
const configCommand = struct("nfqnl_msg_config_cmd", 4, { command: u8, pad: u8, protocolFamily: be16 });
/** `struct nfqnl_msg_verdict_hdr` */
const verdictHeader = struct("nfqnl_msg_verdict_hdr", 8, { verdict: be32, id: be32 });

const NFNL_SUBSYS_QUEUE = 3 << 8;
const NFQNL_MSG_PACKET = NFNL_SUBSYS_QUEUE | 0;
const NFQNL_MSG_VERDICT = NFNL_SUBSYS_QUEUE | 1;
const NFQNL_MSG_CONFIG = NFNL_SUBSYS_QUEUE | 2;

const NFQA_PACKET_HDR = 1;
const NFQA_VERDICT_HDR = 2;
const NFQA_MARK = 3;
const NFQA_IFINDEX_INDEV = 5;
const NFQA_PAYLOAD = 10;
const NFQA_CAP_LEN = 13;

const NFQA_CFG_CMD = 1;
const NFQA_CFG_PARAMS = 2;
const NFQA_CFG_QUEUE_MAXLEN = 3;
const NFQA_CFG_MASK = 4;
const NFQA_CFG_FLAGS = 5;
const NFQNL_CFG_CMD_BIND = 1;
const NFQNL_CFG_CMD_UNBIND = 2;
const NFQNL_COPY_PACKET = 2;
/** FAIL_OPEN, CONNTRACK, GSO, UID_GID, SECCTX: every flag there is. */
const NFQA_CFG_ALL_FLAGS = 0x1f;

const VERDICTS = { drop: 0, accept: 1 } as const;
/** Verdicts per datagram to the kernel (measured: 32 gives 95,000 packets/s). */
const VERDICT_BATCH = 32;
/** Where `verdictFrame` keeps the verdict (then the id) and the mark: after nlmsghdr, nfgenmsg and attribute headers. */
const VERDICT_OFFSET = 16 + 4 + 4;
const MARK_OFFSET = VERDICT_OFFSET + 8 + 4;
/** Headers and attributes around the copied bytes: packet header, mark, interfaces, hardware address, timestamps. */
const ENVELOPE_BYTES = 512;
/** A message's share of the receive buffer beyond the copied bytes: envelope, kernel bookkeeping, rounding up. */
const MESSAGE_OVERHEAD_BYTES = 2048;
/** What packets have at most, jumbo frames and whole fragments apart: the length of the queue counts on it. */
const USUAL_PACKET_BYTES = 2048;
/** Room for what waits while the program is busy elsewhere: some 8,000 packets. Our choice. */
const RECEIVE_BUFFER_BYTES = 32 * 1024 * 1024;
/** Headers and the other attributes around a replaced packet. */
const FRAME_OVERHEAD_BYTES = 64;
const PROC_QUEUES = "/proc/net/netfilter/nfnetlink_queue";

/** A queued packet, waiting for its verdict. `payload` is valid only inside `onPacket`. */
export interface QueuedPacket {
  readonly id: number;
  /** From the IP header on, at most `copyRangeBytes`. */
  readonly payload: Uint8Array;
  /** Length of the whole packet, from the IP header on. */
  readonly lengthBytes: number;
  readonly mark: number;
  /** Index of the interface that it came in by; 0 when it was made here. */
  readonly indev: number;
}

export interface QueueOptions {
  /** `queue num …` of the nftables rule. */
  readonly number: number;
  readonly copyRangeBytes: number;
  /** Packets that may wait in the kernel; more are dropped there. Lowered to what fits the receive buffer. */
  readonly maxLength: number;
  readonly onPacket: (packet: QueuedPacket) => void;
  /** The socket's buffer was full: the kernel dropped packets of this queue. */
  readonly onOverrun: () => void;
  /** An exception out of `onPacket`, or a refused verdict. */
  readonly onFault?: (error: unknown) => void;
}

/** What a verdict changes of its packet. */
export interface VerdictChanges {
  /** Replaces the packet's mark. */
  readonly mark?: number;
  /** Replaces the whole packet, from the IP header on (`nfqnl_mangle`); its IP header must be as long as before. */
  readonly payload?: Uint8Array | null;
}

/** What the kernel counts for a queue (`/proc/net/netfilter/nfnetlink_queue`). */
export interface QueueCounters {
  readonly waiting: number;
  /** Dropped because `maxLength` packets waited. */
  readonly droppedFull: number;
  /** Dropped because the socket's buffer was full. */
  readonly droppedOverrun: number;
}

/** Binds to a queue of the current namespace; EBUSY when another program has it. */
export async function openQueue(options: QueueOptions): Promise<PacketQueue> {
  const queue = new PacketQueue(options);
  try {
    await queue.bind();
  } catch (error) {
    queue.abandon();
    throw error;
  }
  return queue;
}

/**
 * A netfilter queue. Verdicts may come later and in any order; they are sent in batches, at the latest at the end of
 * the turn of the event loop.
 *
 * Never fail-open: with nobody listening, or the queue full, packets are dropped. No `NFQA_CFG_F_GSO`: the kernel cuts
 * an aggregate into its packets first, because UDP 4500 aggregates can hold ESP packets of different connections, and
 * each needs its own verdict.
 */
export class PacketQueue {
  readonly #options: QueueOptions;
  readonly #socket: NetlinkSocket;
  readonly #plain: Uint8Array;
  readonly #marked: Uint8Array;
  readonly #verdicts: Uint8Array;
  readonly #verdictView: DataView;
  #verdictBytes = 0;
  #verdictCount = 0;
  #flushing = false;
  #closed = false;

  constructor(options: QueueOptions) {
    this.#options = options;
    this.#plain = verdictFrame(options.number, false);
    this.#marked = verdictFrame(options.number, true);
    this.#verdicts = new Uint8Array(VERDICT_BATCH * this.#marked.length);
    this.#verdictView = new DataView(this.#verdicts.buffer);
    const { onFault } = options;
    this.#socket = NetlinkSocket.open(NETLINK_NETFILTER, {
      datagramBytes: options.copyRangeBytes + ENVELOPE_BYTES,
      receiveBufferBytes: RECEIVE_BUFFER_BYTES,
      onMessage: (message) => this.#received(message),
      onOverrun: options.onOverrun,
      ...(onFault === undefined ? {} : { onFault }),
    });
  }

  /**
   * Once, by `openQueue`. No more packets wait than packets of the usual length have room for in the receive buffer; many
   * long ones overrun it. Either way the kernel drops what is too much, and counts it.
   */
  async bind(): Promise<void> {
    const { copyRangeBytes } = this.#options;
    const messageBytes = Math.min(copyRangeBytes, USUAL_PACKET_BYTES) + MESSAGE_OVERHEAD_BYTES;
    const room = Math.floor(this.#socket.receiveBufferBytes / messageBytes);
    const maxLength = Math.max(1, Math.min(this.#options.maxLength, room));
    await this.#configure("bind", (builder) => builder.attribute(NFQA_CFG_CMD, command(NFQNL_CFG_CMD_BIND)));
    await this.#configure("set up", (builder) =>
      builder
        .attribute(NFQA_CFG_PARAMS, numberBytes(be32, copyRangeBytes), numberBytes(u8, NFQNL_COPY_PACKET))
        .attribute(NFQA_CFG_QUEUE_MAXLEN, numberBytes(be32, maxLength))
        .attribute(NFQA_CFG_FLAGS, numberBytes(be32, 0))
        .attribute(NFQA_CFG_MASK, numberBytes(be32, NFQA_CFG_ALL_FLAGS)),
    );
  }

  /** Decides about a packet, once. Filled-in templates: every packet comes here. */
  verdict(id: number, verdict: "accept" | "drop", { mark, payload = null }: VerdictChanges = {}): void {
    if (this.#closed) return;
    if (payload !== null) {
      this.#socket.post(replacingFrame(this.#options.number, id, verdict, mark, payload));
      return;
    }
    const start = this.#verdictBytes;
    const template = mark === undefined ? this.#plain : this.#marked;
    const view = this.#verdictView;
    this.#verdicts.set(template, start);
    be32.write(view, start + VERDICT_OFFSET, VERDICTS[verdict]);
    be32.write(view, start + VERDICT_OFFSET + 4, id);
    if (mark !== undefined) be32.write(view, start + MARK_OFFSET, mark);
    this.#verdictBytes += template.length;
    this.#verdictCount++;
    if (this.#verdictCount === VERDICT_BATCH) this.#flush();
    else this.#flushSoon();
  }

  counters(): QueueCounters {
    return readQueueCounters(this.#options.number);
  }

  /** Unbinds: the kernel drops the packets that still wait, and new ones. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#flush();
    this.#closed = true;
    try {
      await this.#configure("unbind", (builder) => builder.attribute(NFQA_CFG_CMD, command(NFQNL_CFG_CMD_UNBIND)));
    } finally {
      this.#socket.close();
    }
  }

  /** Closes a socket that never got bound. */
  abandon(): void {
    this.#closed = true;
    this.#socket.close();
  }

  #received(message: NetlinkMessage): void {
    if (message.type === NFQNL_MSG_PACKET) {
      const packet = decodePacket(message.body);
      if (packet !== null) this.#options.onPacket(packet);
    } else if (message.type === NLMSG_ERROR) {
      // A verdict for a packet that the kernel has dropped meanwhile (ENOENT): its counters tell.
    }
  }

  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#verdictCount === 0 || this.#closed) return;
    this.#socket.post(this.#verdicts.subarray(0, this.#verdictBytes));
    this.#verdictBytes = 0;
    this.#verdictCount = 0;
  }

  async #configure(verb: string, attributes: (builder: MessageBuilder) => MessageBuilder): Promise<void> {
    const { number } = this.#options;
    const builder = attributes(new MessageBuilder().head(nfgenmsg.encode({ resourceId: number })));
    await this.#socket.request(builder.request(NFQNL_MSG_CONFIG, 0, `${verb} packet queue ${number}`));
  }
}

/** The kernel's counters of a queue of the current namespace; zeros when it is not bound. */
export function readQueueCounters(number: number, path = PROC_QUEUES): QueueCounters {
  const columns = readFileSync(path, "utf8")
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number))
    .find(([first]) => first === number);
  const [, , waiting = 0, , , droppedFull = 0, droppedOverrun = 0] = columns ?? [];
  return { waiting, droppedFull, droppedOverrun };
}

/** A verdict message whose verdict, packet id and mark are still zero. */
function verdictFrame(queueNumber: number, isMarked: boolean): Uint8Array {
  const builder = new MessageBuilder(64)
    .head(nfgenmsg.encode({ resourceId: queueNumber }))
    .attribute(NFQA_VERDICT_HDR, verdictHeader.encode({}));
  if (isMarked) builder.attribute(NFQA_MARK, numberBytes(be32, 0));
  return finishFrame(builder.request(NFQNL_MSG_VERDICT, 0, "packet verdict"), 0, 0, 0).slice();
}

/** A verdict that replaces the packet: one message, sent at once. */
function replacingFrame(
  queueNumber: number,
  id: number,
  verdict: "accept" | "drop",
  mark: number | undefined,
  payload: Uint8Array,
): Uint8Array {
  const builder = new MessageBuilder(payload.length + FRAME_OVERHEAD_BYTES)
    .head(nfgenmsg.encode({ resourceId: queueNumber }))
    .attribute(NFQA_VERDICT_HDR, verdictHeader.encode({ verdict: VERDICTS[verdict], id }));
  if (mark !== undefined) builder.attribute(NFQA_MARK, numberBytes(be32, mark));
  builder.attribute(NFQA_PAYLOAD, payload);
  return finishFrame(builder.request(NFQNL_MSG_VERDICT, 0, "packet verdict"), 0, 0, 0).slice();
}

function command(value: number): Uint8Array {
  return configCommand.encode({ command: value });
}

/** Null when it is no packet. One pass with one view and no table of attributes: every packet comes here. */
function decodePacket(body: Uint8Array): QueuedPacket | null {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  let id: number | null = null;
  let payload: Uint8Array | null = null;
  let lengthBytes: number | null = null;
  let mark = 0;
  let indev = 0;
  for (const cursor = new AttributeCursor(body, nfgenmsg.size); cursor.next();) {
    switch (cursor.type) {
      case NFQA_PACKET_HDR:
        id = be32.read(view, cursor.start(be32.size));
        break;
      case NFQA_PAYLOAD:
        payload = body.subarray(cursor.start(0), cursor.end);
        break;
      case NFQA_CAP_LEN:
        lengthBytes = be32.read(view, cursor.start(be32.size));
        break;
      case NFQA_MARK:
        mark = be32.read(view, cursor.start(be32.size));
        break;
      case NFQA_IFINDEX_INDEV:
        indev = be32.read(view, cursor.start(be32.size));
        break;
    }
  }
  return id === null || payload === null
    ? null
    : { id, payload, lengthBytes: lengthBytes ?? payload.length, mark, indev };
}
