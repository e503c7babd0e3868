import { NETLINK_ROUTE, NetlinkSocket } from "./netlink-socket.ts";
import { isOurRouteGone, isRouteMessage } from "./routes.ts";

/** `enum rtnetlink_groups`, include/uapi/linux/rtnetlink.h: interfaces, and of each IP version addresses, routes and rules. */
const RTNLGRP_LINK = 1;
const RTNLGRP_IPV4_IFADDR = 5;
const RTNLGRP_IPV4_ROUTE = 7;
const RTNLGRP_IPV4_RULE = 8;
const RTNLGRP_IPV6_IFADDR = 9;
const RTNLGRP_IPV6_ROUTE = 11;
const RTNLGRP_IPV6_RULE = 19;

/**
 * Calls `onChange` when an interface, an address or an ip rule of the current namespace has changed, when a route of ours has gone,
 * by whomever, or when events were lost. With an interface go its IPv4 routes, of which the kernel says nothing (fib_table_flush).
 */
export function watchNetwork(onChange: () => void, onFault: (error: unknown) => void): NetlinkSocket {
  return NetlinkSocket.open(NETLINK_ROUTE, {
    groups: [
      ...[RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE],
      ...[RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE],
    ],
    onMessage: (message) => {
      if (!isRouteMessage(message) || isOurRouteGone(message)) onChange();
    },
    onOverrun: onChange,
    onFault,
  });
}
