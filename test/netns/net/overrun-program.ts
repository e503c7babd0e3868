import { execFileSync } from "node:child_process";
import { NetlinkSocket, NETLINK_XFRM } from "../../../src/net/netlink-socket.ts";

/** XFRMNLGRP_POLICY, include/uapi/linux/xfrm.h */
const GROUP_POLICY = 4;
const SMALLEST_BUFFER_BYTES = 2048;
const POLICIES = 300;

// Events come while this process has no time to read them: the buffer overflows. It must live, and know.
let overruns = 0;
let events = 0;
const socket = NetlinkSocket.open(NETLINK_XFRM, {
  groups: [GROUP_POLICY],
  receiveBufferBytes: SMALLEST_BUFFER_BYTES,
  onMessage: () => (events += 1),
  onOverrun: () => (overruns += 1),
});
const lines = (verb: string): string =>
  Array.from(
    { length: POLICIES },
    (_, i) => `xfrm policy ${verb} src 192.0.2.${i % 250} dst 198.51.100.${i >> 7} dir out`,
  ).join("\n");
const policies = (verb: string): void => {
  execFileSync("ip", ["-force", "-batch", "-"], { input: lines(verb), stdio: ["pipe", "ignore", "ignore"] });
};
policies("add");
policies("delete");
setTimeout(() => {
  const before = events;
  policies("add");
  setTimeout(() => {
    process.stdout.write(JSON.stringify({ overruns, eventsAfter: events - before }) + "\n");
    socket.close();
  }, 200);
}, 2500);
