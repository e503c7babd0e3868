/** What an error or end-of-dump message says, and how a batch is cut: the pure part of `netlink-socket.ts`. */
import { EsplexError } from "../core/errors.ts";
import { s32 } from "../core/struct.ts";
import { kernelRefusal } from "./kernel-error.ts";
import {
  Attributes,
  NLM_F_ACK_TLVS,
  NLM_F_CAPPED,
  NLMSG_DONE,
  nlmsghdr,
  type NetlinkMessage,
  type NetlinkRequest,
} from "./netlink-message.ts";

/** Messages and bytes per datagram of a batch: their errors, all at once, still fit Debian's default receive buffer. */
const BATCH_MESSAGES = 64;
const BATCH_BYTES = 48 * 1024;
/** `NLMSGERR_ATTR_MSG` */
const EXTACK_MESSAGE = 1;

/** Cuts a batch into datagrams, lazily: a request is taken from the iterable when its datagram is sent. */
export function* inDatagrams(requests: Iterable<NetlinkRequest>): Generator<NetlinkRequest[]> {
  let datagram: NetlinkRequest[] = [];
  let bytes = 0;
  for (const request of requests) {
    if (datagram.length === BATCH_MESSAGES || (datagram.length > 0 && bytes + request.frame.length > BATCH_BYTES)) {
      yield datagram;
      datagram = [];
      bytes = 0;
    }
    datagram.push(request);
    bytes += request.frame.length;
  }
  if (datagram.length > 0) yield datagram;
}

/** Null when the error number is 0: an acknowledgement. */
export function errorOf(message: NetlinkMessage, operation: string): EsplexError | null {
  const { body } = message;
  if (body.length < 4) return null; // NLMSG_DONE of old kernels
  const errno = -s32.read(new DataView(body.buffer, body.byteOffset, body.length), 0);
  if (errno <= 0) return null;
  return kernelRefusal(operation, errno, extackOf(message) ?? undefined);
}

function extackOf({ flags, body, type }: NetlinkMessage): string | null {
  if ((flags & NLM_F_ACK_TLVS) === 0) return null;
  if (type === NLMSG_DONE) return new Attributes(body, 4).text(EXTACK_MESSAGE);
  if (body.length < 4 + nlmsghdr.size) return null;
  const original = (flags & NLM_F_CAPPED) !== 0 ? nlmsghdr.size : nlmsghdr.decode(body, 4).length;
  return new Attributes(body, 4 + original).text(EXTACK_MESSAGE);
}

/** An answer that will not come. */
export function lost(operation: string, why: string): EsplexError {
  return new EsplexError("kernel.overrun", `${operation}: answer lost (${why})`, { operation });
}

/** A failed system call as our error. */
export function asRefusal(operation: string, error: Error): EsplexError {
  return kernelRefusal(operation, "errno" in error ? Math.abs(Number(error.errno)) : 0);
}
