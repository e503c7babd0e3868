/** Sends and receives UDP datagrams inside a namespace. */
import { createSocket, type Socket } from "node:dgram";
import { serve } from "./serve.ts";

const BURST = 16;

let stopped = false;
let received = 0;
let last = "";
let running: Promise<{ sent: number; failed: number }> = Promise.resolve({ sent: 0, failed: 0 });

interface Destination {
  readonly address: string;
  readonly port: number;
  readonly from?: string;
}

const handlers = {
  /** Counts datagrams to `port`. */
  listen: async ({ address, port }: Destination) => {
    const socket = await bound(address, port);
    socket.on("message", (payload) => {
      received++;
      last = payload.toString("hex");
    });
  },
  received: () => received,
  /** The last datagram, in hexadecimal digits. */
  lastReceived: () => last,
  /** Sends each of these, in hexadecimal digits, in their order. */
  sendEach: async ({ payloads, ...to }: Destination & { payloads: readonly string[] }) => {
    const socket = await bound(to.from ?? (to.address.includes(":") ? "::" : "0.0.0.0"), 0);
    for (const payload of payloads) await sendOne(socket, to, Buffer.from(payload, "hex"));
    socket.close();
  },
  /** Sends `count` datagrams one after the other. */
  send: async ({ count, ...to }: Destination & { count: number }) => {
    const socket = await bound(to.from ?? (to.address.includes(":") ? "::" : "0.0.0.0"), 0);
    const results: boolean[] = [];
    for (let i = 0; i < count; i++) results.push(await sendOne(socket, to));
    socket.close();
    return { sent: results.filter(Boolean).length, failed: results.filter((ok) => !ok).length };
  },
  /** Sends 16 datagrams at a time, with a pause of `pauseMs` between, until `stop`. */
  start: ({ pauseMs, ...to }: Destination & { pauseMs: number }) => {
    stopped = false;
    running = flood(to, pauseMs);
  },
  stop: async () => {
    stopped = true;
    return running;
  },
};

export type UdpHandlers = typeof handlers;
serve(handlers);

async function flood(to: Destination, pauseMs: number): Promise<{ sent: number; failed: number }> {
  const socket = await bound("0.0.0.0", 0);
  let sent = 0;
  let failed = 0;
  while (!stopped) {
    const results = await Promise.all(Array.from({ length: BURST }, () => sendOne(socket, to)));
    sent += results.filter(Boolean).length;
    failed += results.filter((ok) => !ok).length;
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  socket.close();
  return { sent, failed };
}

async function bound(address: string, port: number): Promise<Socket> {
  const socket = createSocket(address.includes(":") ? { type: "udp6", ipv6Only: true } : { type: "udp4" });
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.bind(port, address, resolve);
  });
  socket.on("error", () => {}); // a datagram that could not be sent: its callback tells
  return socket;
}

function sendOne(
  socket: Socket,
  { address, port }: Destination,
  payload: string | Buffer = "esplex test",
): Promise<boolean> {
  return new Promise((resolve) => socket.send(payload, port, address, (error) => resolve(error === null)));
}
