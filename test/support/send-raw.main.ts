/** Run inside a namespace: sends the IPv4 packets that stdin lists as JSON (`sendRaw`), header and all, and ends. */
import { text } from "node:stream/consumers";
import koffi from "koffi";
import { ipToBytes } from "../../src/core/ip.ts";

const AF_INET = 2;
const SOCK_RAW = 3;
/** raw(7): the packet has its header. */
const IPPROTO_RAW = 255;
const SOCKADDR_IN_BYTES = 16;

const libc = koffi.load("libc.so.6");
const openSocket = libc.func("int socket(int domain, int type, int protocol)") as (...args: number[]) => number;
const sendto = libc.func(
  "long sendto(int fd, const uint8_t *bytes, size_t length, int flags, const uint8_t *address, uint32_t addressLength)",
) as (
  fd: number,
  bytes: Uint8Array,
  length: number,
  flags: number,
  address: Uint8Array,
  addressLength: number,
) => number;

const socket = openSocket(AF_INET, SOCK_RAW, IPPROTO_RAW);
if (socket < 0) throw new Error("no raw socket: not root?");
for (const { destination, hex } of JSON.parse(await text(process.stdin)) as { destination: string; hex: string }[]) {
  const packet = Buffer.from(hex, "hex");
  const address = Buffer.alloc(SOCKADDR_IN_BYTES);
  address.writeUInt16LE(AF_INET, 0);
  address.set(ipToBytes(destination), 4);
  const sent = sendto(socket, packet, packet.length, 0, address, address.length);
  if (sent !== packet.length) throw new Error(`sent ${sent} of ${packet.length} bytes`);
}
