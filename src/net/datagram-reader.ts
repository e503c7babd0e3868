import { constants, endianness } from "node:os";
import koffi from "koffi";
import { kernelRefusal } from "./kernel-error.ts";

const LITTLE = endianness() === "LE";

/** Datagrams that one system call takes at most: their buffers hold memory. Our choice. */
const DATAGRAMS = 32;

// `struct mmsghdr`, `struct iovec` (both where pointers have 64 bits) and `struct sockaddr_nl`: sizes and offsets in bytes.
const MMSGHDR_BYTES = 64;
const NAME_OFFSET = 0;
const NAME_LENGTH_OFFSET = 8;
const IOV_OFFSET = 16;
const IOV_COUNT_OFFSET = 24;
const FLAGS_OFFSET = 48;
const LENGTH_OFFSET = 56;
const IOVEC_BYTES = 16;
const SOCKADDR_NL_BYTES = 12;
const SENDER_PORT_OFFSET = 4;

const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;

const { EAGAIN, EINTR } = constants.errno;

type ReceiveMany = (fd: number, messages: bigint, count: number, flags: number, timeout: null) => number;
type Send = (fd: number, bytes: Uint8Array, lengthBytes: number, flags: number) => number;

const libc = koffi.load("libc.so.6");
const recvmmsg = libc.func(
  "int recvmmsg(int fd, void *messages, uint32_t count, int flags, void *timeout)",
) as ReceiveMany;
const send = libc.func("long send(int fd, const void *bytes, size_t length, int flags)") as Send;

/** One datagram; `bytes` are overwritten by the next call of `take`. */
export interface Datagram {
  readonly bytes: Uint8Array;
  /** 0 is the kernel. */
  readonly senderPort: number;
  /** It was longer than the buffer. */
  readonly isTruncated: boolean;
}

/**
 * Takes what waits in a netlink socket, many datagrams with each system call (recvmmsg(2)) and into the same memory each time. The
 * netlink package allocates, clears and hands over a buffer of the largest size for every datagram (measured: as much time as
 * all the rest of a queued packet).
 */
export class DatagramReader {
  readonly #fd: number;
  /** All that the kernel follows a pointer to lies here, and never moves: headers, vectors, senders, then the datagrams. */
  readonly #memory: Uint8Array;
  readonly #view: DataView;
  readonly #address: bigint;
  readonly #sendersAt = DATAGRAMS * (MMSGHDR_BYTES + IOVEC_BYTES);
  readonly #datagramsAt = this.#sendersAt + DATAGRAMS * SOCKADDR_NL_BYTES;
  readonly #datagramBytes: number;

  /** `fd` stays its owner's, who takes nothing more from it once it is closed. */
  constructor(fd: number, datagramBytes: number) {
    this.#fd = fd;
    this.#datagramBytes = datagramBytes;
    this.#memory = new Uint8Array(this.#datagramsAt + DATAGRAMS * datagramBytes);
    this.#view = new DataView(this.#memory.buffer);
    this.#address = koffi.address(this.#memory);
    for (let i = 0; i < DATAGRAMS; i++) this.#prepare(i);
  }

  /** What waits now, `DATAGRAMS` at most; never blocks. Throws `kernel.refused` on any error of the socket. */
  take(): Datagram[] {
    const count = recvmmsg(this.#fd, this.#address, DATAGRAMS, MSG_DONTWAIT, null);
    if (count < 0) {
      const errno = koffi.errno();
      if (errno === EAGAIN || errno === EINTR) return [];
      throw kernelRefusal("recvmmsg", errno);
    }
    const datagrams: Datagram[] = [];
    for (let i = 0; i < count; i++) datagrams.push(this.#datagram(i));
    return datagrams;
  }

  #datagram(i: number): Datagram {
    const view = this.#view;
    const header = i * MMSGHDR_BYTES;
    const start = this.#datagramsAt + i * this.#datagramBytes;
    const lengthBytes = Math.min(view.getUint32(header + LENGTH_OFFSET, LITTLE), this.#datagramBytes);
    return {
      bytes: this.#memory.subarray(start, start + lengthBytes),
      senderPort: view.getUint32(this.#sendersAt + i * SOCKADDR_NL_BYTES + SENDER_PORT_OFFSET, LITTLE),
      isTruncated: (view.getInt32(header + FLAGS_OFFSET, LITTLE) & MSG_TRUNC) !== 0,
    };
  }

  #prepare(i: number): void {
    const header = i * MMSGHDR_BYTES;
    const vector = DATAGRAMS * MMSGHDR_BYTES + i * IOVEC_BYTES;
    this.#pointer(header + NAME_OFFSET, this.#sendersAt + i * SOCKADDR_NL_BYTES);
    this.#view.setUint32(header + NAME_LENGTH_OFFSET, SOCKADDR_NL_BYTES, LITTLE);
    this.#pointer(header + IOV_OFFSET, vector);
    this.#view.setBigUint64(header + IOV_COUNT_OFFSET, 1n, LITTLE);
    this.#pointer(vector, this.#datagramsAt + i * this.#datagramBytes);
    this.#view.setBigUint64(vector + 8, BigInt(this.#datagramBytes), LITTLE);
  }

  #pointer(at: number, to: number): void {
    this.#view.setBigUint64(at, this.#address + BigInt(to), LITTLE);
  }
}

/** Sends at once, without waiting; false when the socket does not take it now. */
export function sendNow(fd: number, bytes: Uint8Array): boolean {
  return send(fd, bytes, bytes.length, MSG_DONTWAIT) === bytes.length;
}
