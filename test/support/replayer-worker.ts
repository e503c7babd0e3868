/**
 * Run in the lab's namespace `net` by `replayer.ts`: records the ESP packets that leave a port of the client network's bridge
 * towards the cluster, whole, and sends them again to whichever port it is told.
 */
import { readFileSync } from "node:fs";
import koffi from "koffi";
import { forge } from "./forged-frames.ts";
import type { Forging, Order, Recorded, Reply } from "./replayer.ts";

const AF_PACKET = 17;
const SOCK_RAW = 3;
const ETH_P_ALL = 0x0003;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const MSG_DONTWAIT = 0x40;
const SOCKADDR_LL_BYTES = 20;
const RECEIVE_BUFFER_BYTES = 32 * 1024 * 1024;
/** More than a frame of the lab has. */
const MAX_FRAME_BYTES = 4096;
const POLL_MS = 1;
/** Frames that are kept; the run fails rather than forgets. */
const MAX_FRAMES = 500_000;
const MAX_FORGED_AT_ONCE = 64;

const ETHERTYPE_IPV4 = 0x0800;
const ESP = 50;
/** Ethernet header, IPv4 header without options. */
const IP_AT = 14;
const ESP_AT = 34;

const libc = koffi.load("libc.so.6");
const openSocket = libc.func("int socket(int domain, int type, int protocol)") as (...args: number[]) => number;
const bind = libc.func("int bind(int fd, const void *address, uint32_t length)") as BytesCall;
const setsockopt = libc.func(
  "int setsockopt(int fd, int level, int option, const void *value, uint32_t length)",
) as OptionCall;
const recv = libc.func("long recv(int fd, _Out_ uint8_t *buffer, size_t length, int flags)") as IoCall;
const send = libc.func("long send(int fd, const uint8_t *buffer, size_t length, int flags)") as IoCall;

type BytesCall = (fd: number, bytes: Uint8Array, lengthBytes: number) => number;
type OptionCall = (fd: number, level: number, option: number, value: Uint8Array, lengthBytes: number) => number;
type IoCall = (fd: number, bytes: Uint8Array, lengthBytes: number, flags: number) => number;

interface Frame extends Recorded {
  readonly bytes: Buffer;
}

const frames: Frame[] = [];
const ports = new Map<string, number>();
let tap = -1;
let destination = "";
/** What is recorded from now on is sent again to this port, so much later each time. */
let follow: { readonly port: string; readonly delaysMs: readonly number[] } | null = null;
let followed = 0;
/** What is forged now, and since when. */
let forging: (Forging & { readonly port: string; readonly sinceMs: number }) | null = null;
/** Packets of it so far; of all so far. */
let forgedNow = 0;
let forged = 0;

process.on("message", (order: Order) => {
  try {
    answer({ id: order.id, ...obey(order) });
  } catch (error) {
    answer({ id: order.id, error: String(error) });
  }
});
process.on("disconnect", () => process.exit(0));

function answer(reply: Reply): void {
  process.send?.(reply);
}

function obey(order: Order): Omit<Reply, "id"> {
  switch (order.do) {
    case "record":
      destination = order.destination;
      tap = openPort(order.port);
      setsockopt(tap, SOL_SOCKET, SO_RCVBUFFORCE, new Uint8Array(Int32Array.of(RECEIVE_BUFFER_BYTES).buffer), 4);
      setInterval(() => {
        record();
        forgeDue();
      }, POLL_MS);
      return {};
    case "list":
      record();
      return { recorded: frames.map(({ spi, sequence }) => ({ spi, sequence })) };
    case "replay": {
      const chosen = frames.slice(order.first, order.end).filter(({ spi }) => order.spi === null || spi === order.spi);
      for (const { bytes } of chosen) transmit(order.port, bytes, order.mac);
      return { sent: chosen.length };
    }
    case "forge": {
      forging = order.forging && { ...order.forging, port: order.port, sinceMs: performance.now() };
      forgedNow = 0;
      return { sent: forged };
    }
    case "follow":
      follow = order.delaysMs === null ? null : { port: order.port, delaysMs: order.delaysMs };
      return { sent: followed };
  }
}

function record(): void {
  const buffer = new Uint8Array(MAX_FRAME_BYTES);
  for (;;) {
    const lengthBytes = recv(tap, buffer, buffer.length, MSG_DONTWAIT);
    if (lengthBytes <= 0) return;
    const bytes = Buffer.from(buffer.subarray(0, lengthBytes));
    if (!isEspToDvipa(bytes)) continue;
    if (frames.length >= MAX_FRAMES) throw new Error("more frames than fit");
    frames.push({ bytes, spi: bytes.readUInt32BE(ESP_AT), sequence: bytes.readUInt32BE(ESP_AT + 4) });
    if (follow !== null) repeat(bytes, follow);
    if (forging !== null && "perPacket" in forging.pace) forgeUpTo(forgedNow + forging.pace.perPacket);
  }
}

function repeat(
  bytes: Buffer,
  { port, delaysMs }: { readonly port: string; readonly delaysMs: readonly number[] },
): void {
  for (const delayMs of delaysMs) {
    followed += 1;
    if (delayMs === 0) transmit(port, bytes, null);
    else setTimeout(() => transmit(port, bytes, null), delayMs);
  }
}

function forgeDue(): void {
  if (forging === null || !("perSecond" in forging.pace)) return;
  // What it could not send in time, it does not make up for: the machine is busy.
  const due = ((performance.now() - forging.sinceMs) / 1000) * forging.pace.perSecond;
  forgeUpTo(Math.min(due, forgedNow + MAX_FORGED_AT_ONCE));
}

function forgeUpTo(count: number): void {
  const newest = frames.at(-1);
  if (forging === null || newest === undefined) return;
  for (; forgedNow < count; forgedNow += 1) {
    for (const frame of forge(forging.kind, newest.bytes)) transmit(forging.port, frame, null);
    forged += 1;
  }
}

function isEspToDvipa(bytes: Buffer): boolean {
  return (
    bytes.length > ESP_AT + 8 &&
    bytes.readUInt16BE(12) === ETHERTYPE_IPV4 &&
    bytes[IP_AT] === 0x45 &&
    bytes[IP_AT + 9] === ESP &&
    [...bytes.subarray(IP_AT + 16, IP_AT + 20)].join(".") === destination
  );
}

function transmit(port: string, bytes: Buffer, mac: string | null): void {
  const frame = Buffer.from(bytes);
  if (mac !== null) frame.set(Buffer.from(mac.replaceAll(":", ""), "hex"));
  const fd = ports.get(port) ?? openPort(port);
  ports.set(port, fd);
  if (send(fd, frame, frame.length, 0) !== frame.length) throw new Error(`send on ${port}: errno ${koffi.errno()}`);
}

function openPort(port: string): number {
  const protocol = ((ETH_P_ALL & 0xff) << 8) | (ETH_P_ALL >> 8);
  const fd = openSocket(AF_PACKET, SOCK_RAW, protocol);
  if (fd < 0) throw new Error(`packet socket: errno ${koffi.errno()}`);
  const address = new Uint8Array(SOCKADDR_LL_BYTES);
  const view = new DataView(address.buffer);
  view.setUint16(0, AF_PACKET, true);
  view.setUint16(2, ETH_P_ALL);
  view.setInt32(4, Number(readFileSync(`/sys/class/net/${port}/ifindex`, "utf8")), true);
  if (bind(fd, address, address.length) < 0) throw new Error(`bind to ${port}: errno ${koffi.errno()}`);
  return fd;
}
