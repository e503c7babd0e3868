import { be32, u8 } from "../core/struct.ts";
import { AttributeCursor, MessageBuilder, numberBytes, type NetlinkMessage } from "./netlink-message.ts";
import { NETLINK_NETFILTER, NetlinkSocket } from "./netlink-socket.ts";
import { nfgenmsg } from "./nfnetlink.ts";

// include/uapi/linux/netfilter/nfnetlink_log.h
const NFNL_SUBSYS_ULOG = 4 << 8;
const NFULNL_MSG_PACKET = NFNL_SUBSYS_ULOG | 0;
const NFULNL_MSG_CONFIG = NFNL_SUBSYS_ULOG | 1;
const NFULA_PAYLOAD = 9;
const NFULA_PREFIX = 10;
const NFULA_CFG_CMD = 1;
const NFULA_CFG_MODE = 2;
const NFULNL_CFG_CMD_BIND = 1;
const NFULNL_COPY_PACKET = 2;
/** Room for what waits while the program is busy elsewhere: some thousand headers. Our choice. */
const RECEIVE_BUFFER_BYTES = 1024 * 1024;

/** What a `log group` statement tells of a packet. `payload` is valid only inside the handler. */
export interface LoggedPacket {
  readonly prefix: string;
  /** From the IP header on, at most `copyRangeBytes`. */
  readonly payload: Uint8Array;
}

export interface PacketLogOptions {
  readonly group: number;
  readonly copyRangeBytes: number;
  readonly onPacket: (packet: LoggedPacket) => void;
  /** The kernel had more to tell than the buffer held. */
  readonly onOverrun: () => void;
  readonly onFault: (error: unknown) => void;
}

/** Listens to a group of the current namespace; EBUSY when another program does. Closing the socket ends it. */
export async function openPacketLog(options: PacketLogOptions): Promise<NetlinkSocket> {
  const { group, copyRangeBytes, onPacket, onOverrun, onFault } = options;
  const socket = NetlinkSocket.open(NETLINK_NETFILTER, {
    receiveBufferBytes: RECEIVE_BUFFER_BYTES,
    onMessage: (message) => {
      const packet = message.type === NFULNL_MSG_PACKET ? decodePacket(message) : null;
      if (packet !== null) onPacket(packet);
    },
    onOverrun,
    onFault,
  });
  const head = nfgenmsg.encode({ resourceId: group });
  const mode = [numberBytes(be32, copyRangeBytes), numberBytes(u8, NFULNL_COPY_PACKET), numberBytes(u8, 0)];
  try {
    const bind = new MessageBuilder().head(head).attribute(NFULA_CFG_CMD, numberBytes(u8, NFULNL_CFG_CMD_BIND));
    await socket.request(bind.request(NFULNL_MSG_CONFIG, 0, `bind packet log ${group}`));
    const setUp = new MessageBuilder().head(head).attribute(NFULA_CFG_MODE, ...mode);
    await socket.request(setUp.request(NFULNL_MSG_CONFIG, 0, `set up packet log ${group}`));
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

function decodePacket({ body }: NetlinkMessage): LoggedPacket | null {
  let prefix = "";
  let payload: Uint8Array | null = null;
  for (const cursor = new AttributeCursor(body, nfgenmsg.size); cursor.next();) {
    const bytes = body.subarray(cursor.start(0), cursor.end);
    if (cursor.type === NFULA_PAYLOAD) payload = bytes;
    else if (cursor.type === NFULA_PREFIX) prefix = Buffer.from(bytes).toString("latin1").replace(/\0.*$/s, "");
  }
  return payload === null ? null : { prefix, payload };
}
