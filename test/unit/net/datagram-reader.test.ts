import koffi from "koffi";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DatagramReader, sendNow } from "../../../src/net/datagram-reader.ts";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
/** More than one call takes. */
const MANY = 40;
const DATAGRAM_BYTES = 100;

const libc = koffi.load("libc.so.6");
const socketpair = libc.func("int socketpair(int domain, int type, int protocol, void *fds)") as (
  domain: number,
  type: number,
  protocol: number,
  fds: Int32Array,
) => number;
const close = libc.func("int close(int fd)") as (fd: number) => number;

let ours: number;
let theirs: number;
let reader: DatagramReader;

beforeEach(() => {
  const fds = new Int32Array(2);
  expect(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds)).toBe(0);
  [ours = -1, theirs = -1] = fds;
  reader = new DatagramReader(ours, DATAGRAM_BYTES);
});

afterEach(() => {
  close(ours);
  close(theirs);
});

const datagram = (i: number): Uint8Array => new Uint8Array(1 + i).fill(i);

describe("DatagramReader", () => {
  it("takes what waits, in order, over and over, and nothing when nothing waits", () => {
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < MANY; i++) expect(sendNow(theirs, datagram(i))).toBe(true);
      const taken: Uint8Array[] = [];
      for (let some = reader.take(); some.length > 0; some = reader.take()) {
        expect(some.every(({ isTruncated }) => !isTruncated)).toBe(true);
        taken.push(...some.map(({ bytes }) => bytes.slice()));
      }
      expect(taken).toEqual(Array.from({ length: MANY }, (_, i) => datagram(i)));
    }
    expect(reader.take()).toEqual([]);
  });

  it("says which datagram was cut, and reads no byte of the next one's room", () => {
    sendNow(theirs, datagram(DATAGRAM_BYTES - 1));
    sendNow(theirs, datagram(DATAGRAM_BYTES + 20));
    sendNow(theirs, datagram(3));
    const taken = reader.take();
    expect(taken.map(({ isTruncated }) => isTruncated)).toEqual([false, true, false]);
    expect(taken.map(({ bytes }) => bytes.length)).toEqual([DATAGRAM_BYTES, DATAGRAM_BYTES, 4]);
  });

  it("refuses a descriptor that is none", () => {
    expect(() => new DatagramReader(-1, DATAGRAM_BYTES).take()).toThrow(
      expect.objectContaining({
        code: "kernel.refused",
        details: expect.objectContaining({ code: "EBADF" }) as unknown,
      }),
    );
    expect(sendNow(-1, datagram(1))).toBe(false);
  });
});
