/**
 * Run in the outer namespace of `steer-lab.ts`: sends ready-made ESP packets by a packet socket, many with each system call, and
 * looks at how many came back at the other end. So many are under way at a time, no more: the queue never overflows, and the
 * sender sleeps when it is ahead. A packet that is lost on the way is missing at the end of the run.
 */
import { readFileSync } from "node:fs";
import koffi from "koffi";
import { serve } from "../netns/support/serve.ts";
import { benchPacket, benchSa, CONNECTIONS_PER_SA, SAS, type Shape } from "./steer-traffic.ts";

const AF_PACKET = 17;
const SOCK_RAW = 3;
const SOL_PACKET = 263;
const PACKET_QDISC_BYPASS = 20;
const SOCKADDR_LL_BYTES = 20;
/** `struct mmsghdr` and `struct iovec` where pointers have 64 bits. */
const MMSGHDR_BYTES = 64;
const IOVEC_BYTES = 16;
const IOV_OFFSET = 16;
const IOV_COUNT_OFFSET = 24;
const ETHERTYPE_IPV4 = 0x0800;
const IPV4_HEADER_BYTES = 20;
const IPV4_CHECKSUM_OFFSET = 10;
/** Behind Ethernet and IPv4 header and the SPI. */
const SEQUENCE_OFFSET = 14 + IPV4_HEADER_BYTES + 4;

/** Packets under way at most: below what the queue holds. */
const WINDOW_PACKETS = 2048;
/** Packets with each system call. */
const BATCH_PACKETS = 64;
/** How long the sender sleeps when it is ahead. */
const PAUSE_US = 100;
/** No packet comes back for so long: some have been lost. Other programs may hold the processors for a while. */
const SILENCE_MS = 10_000;

export interface FloodOrder {
  readonly device: string;
  readonly sourceMac: string;
  readonly destinationMac: string;
  /** Where the packets come back. */
  readonly returnDevice: string;
  readonly shape: Shape;
  readonly packets: number;
}

export interface FloodResult {
  readonly sent: number;
  readonly returned: number;
  /** Packets a second that came back. */
  readonly pps: number;
  /** Part of the time in which the sender had nothing to send: near 0, it was what is slow. */
  readonly idle: number;
}

const libc = koffi.load("libc.so.6");
const openSocket = libc.func("int socket(int domain, int type, int protocol)") as (...args: number[]) => number;
const bind = libc.func("int bind(int fd, const void *address, uint32_t length)") as BytesCall;
const setsockopt = libc.func(
  "int setsockopt(int fd, int level, int option, const void *value, uint32_t length)",
) as OptionCall;
const sendmmsg = libc.func("int sendmmsg(int fd, void *messages, uint32_t count, int flags)") as SendCall;
const close = libc.func("int close(int fd)") as (fd: number) => number;
const usleep = libc.func("int usleep(uint32_t us)") as (us: number) => number;

type BytesCall = (fd: number, bytes: Uint8Array, lengthBytes: number) => number;
type OptionCall = (fd: number, level: number, option: number, value: Uint8Array, lengthBytes: number) => number;
type SendCall = (fd: number, messages: Uint8Array, count: number, flags: number) => number;

const handlers = {
  flood: (order: FloodOrder): FloodResult => {
    const frames = framesOf(order);
    const fd = openOn(order.device);
    try {
      return flood(fd, messagesOf(frames), frames.length, order);
    } finally {
      close(fd);
    }
  },
};

export type FloodHandlers = typeof handlers;
serve(handlers);

function flood(fd: number, messages: Uint8Array, count: number, order: FloodOrder): FloodResult {
  const returnedAt = packetCounter(order.returnDevice);
  const base = returnedAt();
  const startMs = performance.now();
  let [sent, next, idleMs, returned, heardMs] = [0, 0, 0, 0, startMs];
  while (returned < order.packets) {
    const nowMs = performance.now();
    const before = returned;
    returned = returnedAt() - base;
    if (returned !== before) heardMs = nowMs;
    if (nowMs - heardMs > SILENCE_MS) break;
    const batch = Math.min(BATCH_PACKETS, count - next, order.packets - sent);
    if (batch === 0 || sent - returned + batch > WINDOW_PACKETS) {
      usleep(PAUSE_US);
      idleMs += performance.now() - nowMs;
      continue;
    }
    numberFrames(messages, count, next, batch, sent + 1);
    const done = sendmmsg(fd, messages.subarray(next * MMSGHDR_BYTES), batch, 0);
    if (done < 0) throw new Error(`sendmmsg: errno ${koffi.errno()}`);
    sent += done;
    next = (next + done) % count;
  }
  const tookMs = performance.now() - startMs;
  return { sent, returned, pps: Math.round((returned / tookMs) * 1000), idle: idleMs / tookMs };
}

/** One packet of every connection, with an Ethernet header. */
function framesOf({ shape, sourceMac, destinationMac }: FloodOrder): readonly Buffer[] {
  const type = Buffer.from([ETHERTYPE_IPV4 >> 8, ETHERTYPE_IPV4 & 0xff]);
  const header = Buffer.concat([macBytes(destinationMac), macBytes(sourceMac), type]);
  const sas = Array.from({ length: SAS }, (_, index) => benchSa(shape, index));
  return Array.from({ length: CONNECTIONS_PER_SA }, (_, connection) =>
    sas.map((sa) =>
      Buffer.concat([header, withChecksum(benchPacket(sa, connection, { ack: true }, shape.plainBytes))]),
    ),
  ).flat();
}

/** `struct mmsghdr` of each frame; both the frames and what is returned must stay as long as it is used. */
function messagesOf(frames: readonly Buffer[]): Uint8Array {
  // All that the kernel follows a pointer to lies in this one array, which never moves.
  const bytes = Buffer.concat(frames);
  const vectorsAt = frames.length * MMSGHDR_BYTES;
  const framesAt = vectorsAt + frames.length * IOVEC_BYTES;
  const all = new Uint8Array(framesAt + bytes.length);
  all.set(bytes, framesAt);
  const address = koffi.address(all);
  const view = new DataView(all.buffer);
  let frameAt = framesAt;
  frames.forEach((frame, index) => {
    const vectorAt = vectorsAt + index * IOVEC_BYTES;
    view.setBigUint64(index * MMSGHDR_BYTES + IOV_OFFSET, address + BigInt(vectorAt), true);
    view.setBigUint64(index * MMSGHDR_BYTES + IOV_COUNT_OFFSET, 1n, true);
    view.setBigUint64(vectorAt, address + BigInt(frameAt), true);
    view.setBigUint64(vectorAt + 8, BigInt(frame.length), true);
    frameAt += frame.length;
  });
  return all;
}

/**
 * Gives `batch` frames from number `at` on the sequence numbers from `first` on: what comes twice is held by the replay protection.
 * Their ICV fits no more, which nobody here checks.
 */
function numberFrames(messages: Uint8Array, count: number, at: number, batch: number, first: number): void {
  const framesAt = count * (MMSGHDR_BYTES + IOVEC_BYTES);
  const frameBytes = (messages.length - framesAt) / count;
  const view = new DataView(messages.buffer);
  for (let i = 0; i < batch; i++) view.setUint32(framesAt + (at + i) * frameBytes + SEQUENCE_OFFSET, first + i);
}

function openOn(device: string): number {
  const fd = openSocket(AF_PACKET, SOCK_RAW, 0);
  if (fd < 0) throw new Error(`packet socket: errno ${koffi.errno()}`);
  const address = new Uint8Array(SOCKADDR_LL_BYTES);
  const view = new DataView(address.buffer);
  view.setUint16(0, AF_PACKET, true);
  view.setInt32(4, Number(readFileSync(`/sys/class/net/${device}/ifindex`, "utf8")), true);
  const one = new Uint8Array(Int32Array.of(1).buffer);
  setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, one, one.length);
  if (bind(fd, address, address.length) < 0) throw new Error(`bind to ${device}: errno ${koffi.errno()}`);
  return fd;
}

function packetCounter(device: string): () => number {
  const path = `/sys/class/net/${device}/statistics/rx_packets`;
  return () => Number(readFileSync(path, "latin1"));
}

/** RFC 791 §3.1: of the header; the packet has none yet. */
function withChecksum(packet: Uint8Array): Uint8Array {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length);
  let sum = 0;
  for (let at = 0; at < IPV4_HEADER_BYTES; at += 2) sum += view.getUint16(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  view.setUint16(IPV4_CHECKSUM_OFFSET, ~sum & 0xffff);
  return packet;
}

function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(":", ""), "hex");
}
