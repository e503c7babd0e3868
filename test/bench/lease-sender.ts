/**
 * Run inside the sending namespace: UDP datagrams at a steady pace over system calls of our own, so that Node's own machinery is not
 * what is measured. Between two packets it sleeps; when it wakes late it catches up by a few packets and forgives itself the rest.
 */
import koffi from "koffi";
import { addressUnion, AF_INET } from "../../src/net/inet-address.ts";
import { serve } from "../netns/support/serve.ts";

const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;
const SOCKET_ADDRESS_BYTES = 16;
/** `prctl(PR_SET_TIMERSLACK)`, in nanoseconds: the default of 50 µs is long beside a packet. */
const PR_SET_TIMERSLACK = 29;
const TIMER_SLACK_NS = 1;
/** EAGAIN and ENOBUFS: no room in a queue on the way; the packet has used no number. */
const FULL: readonly number[] = [11, 105];
const PAYLOAD_BYTES = 100;
const US_PER_SECOND = 1_000_000;
/** Unpaced, the clock is looked at once in so many packets. */
const PACKETS_PER_LOOK = 32;

export interface SendOrder {
  readonly source: string;
  readonly destination: string;
  readonly port: number;
  /** Packets a second; null: as fast as it goes. */
  readonly pps: number | null;
  readonly seconds: number;
  /** The most that leave at once after a late awakening. */
  readonly burstPackets: number;
}

export interface SendResult {
  readonly sent: number;
  /** The errno that ended it: a stopped state refuses the packet that met its limit. 0: none. */
  readonly errno: number;
  readonly pps: number;
  /** Packets that it was too late for, or found no room for. */
  readonly forgiven: number;
}

const libc = koffi.load("libc.so.6");
const openSocket = libc.func("int socket(int domain, int type, int protocol)") as (...args: number[]) => number;
const bind = libc.func("int bind(int fd, const void *address, uint32_t length)") as AddressCall;
const connect = libc.func("int connect(int fd, const void *address, uint32_t length)") as AddressCall;
const send = libc.func("long send(int fd, const void *bytes, size_t length, int flags)") as SendCall;
const close = libc.func("int close(int fd)") as (fd: number) => number;
const usleep = libc.func("int usleep(uint32_t us)") as (us: number) => number;
const prctl = libc.func("int prctl(int option, ulong a, ulong b, ulong c, ulong d)") as (...args: number[]) => number;

type AddressCall = (fd: number, address: Uint8Array, lengthBytes: number) => number;
type SendCall = (fd: number, bytes: Uint8Array, lengthBytes: number, flags: number) => number;

prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);

const handlers = {
  send: ({ source, destination, port, pps, seconds, burstPackets }: SendOrder): SendResult => {
    const fd = openSocket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0) throw new Error(`socket: errno ${koffi.errno()}`);
    try {
      call(bind(fd, socketAddress(source, 0), SOCKET_ADDRESS_BYTES), `bind to ${source}`);
      call(connect(fd, socketAddress(destination, port), SOCKET_ADDRESS_BYTES), `connect to ${destination}`);
      return pps === null ? flood(fd, seconds) : paced(fd, pps, seconds, burstPackets);
    } finally {
      close(fd);
    }
  },
};

export type SenderHandlers = typeof handlers;
serve(handlers);

function paced(fd: number, pps: number, seconds: number, burstPackets: number): SendResult {
  const payload = new Uint8Array(PAYLOAD_BYTES);
  const intervalUs = US_PER_SECOND / pps;
  const startUs = nowUs();
  const endUs = startUs + seconds * US_PER_SECOND;
  let dueUs = startUs;
  let sent = 0;
  let forgiven = 0;
  for (let now = startUs; now < endUs; now = nowUs()) {
    if (now < dueUs) {
      usleep(Math.ceil(dueUs - now));
      continue;
    }
    const late = Math.floor((now - dueUs) / intervalUs);
    if (late >= burstPackets) {
      forgiven += late - burstPackets + 1;
      dueUs += (late - burstPackets + 1) * intervalUs;
    }
    dueUs += intervalUs;
    if (send(fd, payload, PAYLOAD_BYTES, MSG_DONTWAIT) >= 0) sent += 1;
    else if (!FULL.includes(koffi.errno())) return result(koffi.errno());
    else forgiven += 1;
  }
  return result(0);

  function result(errno: number): SendResult {
    return { sent, errno, pps: rate(sent, startUs), forgiven };
  }
}

function flood(fd: number, seconds: number): SendResult {
  const payload = new Uint8Array(PAYLOAD_BYTES);
  const startUs = nowUs();
  const endUs = startUs + seconds * US_PER_SECOND;
  let sent = 0;
  let forgiven = 0;
  for (let tried = 0; tried % PACKETS_PER_LOOK !== 0 || nowUs() < endUs; tried++) {
    if (send(fd, payload, PAYLOAD_BYTES, MSG_DONTWAIT) >= 0) sent += 1;
    else if (!FULL.includes(koffi.errno())) return { sent, errno: koffi.errno(), pps: rate(sent, startUs), forgiven };
    else forgiven += 1;
  }
  return { sent, errno: 0, pps: rate(sent, startUs), forgiven };
}

function rate(sent: number, startUs: number): number {
  return Math.round((sent * US_PER_SECOND) / (nowUs() - startUs));
}

function nowUs(): number {
  return performance.now() * 1000;
}

function call(result: number, what: string): void {
  if (result < 0) throw new Error(`${what}: errno ${koffi.errno()}`);
}

/** `struct sockaddr_in` */
function socketAddress(address: string, port: number): Uint8Array {
  const bytes = new Uint8Array(SOCKET_ADDRESS_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, port, false);
  bytes.set(addressUnion(address).subarray(0, 4), 4);
  return bytes;
}
