import { be16, struct, u8 } from "../core/struct.ts";

/** `struct nfgenmsg`, include/uapi/linux/netfilter/nfnetlink.h: stands before the attributes of every netfilter message. */
export const nfgenmsg = struct("nfgenmsg", 4, { family: u8, version: u8, resourceId: be16 });
