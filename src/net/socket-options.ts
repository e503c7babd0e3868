import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import koffi from "koffi";
import { EsplexError } from "../core/errors.ts";
import { isErrno, kernelRefusal } from "./kernel-error.ts";

// include/uapi/asm-generic/socket.h and include/uapi/linux/netlink.h
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const SOL_NETLINK = 270;
const NETLINK_NO_ENOBUFS = 5;

const INT_BYTES = 4;
const PROC_NETLINK = "/proc/self/net/netlink";
const PROC_FDS = "/proc/self/fd";

type SetSocketOption = (fd: number, level: number, option: number, value: Uint8Array, lengthBytes: number) => number;

/** `setsockopt(2)`: neither Node nor the netlink package offers it. */
const setsockopt = koffi
  .load("libc.so.6")
  .func("int setsockopt(int fd, int level, int option, const void *value, uint32_t length)") as SetSocketOption;

/** A row of `/proc/net/netlink`: one netlink socket of the namespace. */
interface NetlinkRow {
  readonly drops: number;
  readonly inode: string;
}

/**
 * Makes a netlink socket safe against bursts: a receive buffer beyond `net.core.rmem_max` (needs CAP_NET_ADMIN), and no
 * ENOBUFS. The netlink package aborts the process on ENOBUFS (libuv reports it as an error of the descriptor); without
 * it, lost messages are counted by the kernel: see `droppedMessages`. Returns the descriptor.
 */
export function prepareNetlinkSocket(protocol: number, port: number, receiveBufferBytes: number): number {
  const fd = descriptorOf(protocol, port);
  setInteger(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1, "NETLINK_NO_ENOBUFS");
  try {
    setInteger(fd, SOL_SOCKET, SO_RCVBUFFORCE, receiveBufferBytes, "SO_RCVBUFFORCE");
  } catch (error) {
    if (!isErrno(error, "EPERM")) throw error; // without the privilege: what rmem_max allows
  }
  return fd;
}

/** Messages that the kernel could not deliver to the socket because its buffer was full; 0 when it is closed. */
export function droppedMessages(protocol: number, port: number): number {
  return rowOf(protocol, port)?.drops ?? 0;
}

function descriptorOf(protocol: number, port: number): number {
  const wanted = `socket:[${rowOf(protocol, port)?.inode ?? "gone"}]`;
  const found = readdirSync(PROC_FDS).find((name) => linkTarget(`${PROC_FDS}/${name}`) === wanted);
  if (found === undefined) {
    throw new EsplexError(
      "kernel.missing",
      `netlink socket ${protocol}/${port} is not in ${PROC_FDS}: is /proc mounted?`,
    );
  }
  return Number(found);
}

/** Columns: sk, Eth (protocol), Pid (port), Groups, Rmem, Wmem, Dump, Locks, Drops, Inode. */
function rowOf(protocol: number, port: number): NetlinkRow | null {
  const lines = readFileSync(PROC_NETLINK, "utf8").split("\n");
  const columns = lines
    .map((line) => line.trim().split(/\s+/))
    .find(([, eth, pid]) => Number(eth) === protocol && Number(pid) === port);
  const [, , , , , , , , drops, inode] = columns ?? [];
  return drops === undefined || inode === undefined ? null : { drops: Number(drops), inode };
}

function linkTarget(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // the descriptor of the directory itself is gone by now
  }
}

function setInteger(fd: number, level: number, option: number, value: number, name: string): void {
  const bytes = new Uint8Array(new Int32Array([value]).buffer);
  if (setsockopt(fd, level, option, bytes, INT_BYTES) !== 0) throw kernelRefusal(`set ${name}`, koffi.errno());
}
