/**
 * `node syn-flood.ts SOURCE DESTINATION PORT PER_SECOND SECONDS`, run inside the client: sends SYNs from ever other ports by a raw
 * socket, so that the client's kernel protects them with its SA as it does everything. Prints how many.
 */
import { setTimeout as delay } from "node:timers/promises";
import koffi from "koffi";
import { ipv4Packet, tcpSegment } from "../unit/sa/esp-builder.ts";

const AF_INET = 2;
const SOCK_RAW = 3;
const IPPROTO_RAW = 255;
const TCP = 6;
const TCP_CHECKSUM_AT = 16;
const FIRST_PORT = 1024;
const PORTS = 64_000;
const TICK_MS = 10;

const libc = koffi.load("libc.so.6");
const openSocket = libc.func("int socket(int domain, int type, int protocol)") as (...args: number[]) => number;
const sendto = libc.func(
  "long sendto(int fd, const uint8_t *buffer, size_t length, int flags, const uint8_t *address, uint32_t addressBytes)",
) as (
  fd: number,
  bytes: Uint8Array,
  lengthBytes: number,
  flags: number,
  address: Uint8Array,
  addressBytes: number,
) => number;

const [source = "", destination = "", port = "80", perSecond = "1000", seconds = "1"] = process.argv.slice(2);
const fd = openSocket(AF_INET, SOCK_RAW, IPPROTO_RAW);
if (fd < 0) throw new Error(`raw socket: errno ${koffi.errno()}`);
const address = Uint8Array.from([
  AF_INET,
  0,
  0,
  0,
  ...destination.split(".").map(Number),
  ...new Array<number>(8).fill(0),
]);

let sent = 0;
const startMs = performance.now();
const endMs = startMs + Number(seconds) * 1000;
while (performance.now() < endMs) {
  const due = ((performance.now() - startMs) / 1000) * Number(perSecond);
  for (; sent < due; sent++) {
    const packet = syn(FIRST_PORT + (sent % PORTS));
    // A full socket buffer, or no SA at the moment: the flood goes on.
    sendto(fd, packet, packet.length, 0, address, address.length);
  }
  await delay(TICK_MS);
}
process.stdout.write(`${sent}\n`);

function syn(sourcePort: number): Uint8Array {
  const segment = tcpSegment(sourcePort, Number(port), { syn: true });
  const view = new DataView(segment.buffer, segment.byteOffset);
  const pseudo = [...source.split("."), ...destination.split(".")].map(Number);
  const words = [...pairs(Uint8Array.from(pseudo)), TCP, segment.length, ...pairs(segment)];
  let sum = words.reduce((total, word) => total + word, 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  view.setUint16(TCP_CHECKSUM_AT, ~sum & 0xffff);
  return ipv4Packet(source, destination, TCP, segment);
}

function pairs(bytes: Uint8Array): number[] {
  return Array.from({ length: bytes.length / 2 }, (_, at) => ((bytes[2 * at] ?? 0) << 8) | (bytes[2 * at + 1] ?? 0));
}
