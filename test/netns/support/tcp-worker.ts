/** Sends and receives a TCP stream inside a namespace. */
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { serve } from "./serve.ts";

let received = 0;
const sockets: Socket[] = [];

const handlers = {
  /** Counts the bytes of all connections to `port`. */
  listen: async ({ address, port }: { address: string; port: number }) => {
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on("data", (bytes) => (received += bytes.length));
      socket.on("error", () => {}); // the sender's end is told by the count
    });
    server.listen(port, address);
    await once(server, "listening");
  },
  received: () => received,
  /** Starts a stream of `bytes` in large writes; the connection stays open. */
  start: async ({ address, port, bytes }: { address: string; port: number; bytes: number }) => {
    const socket = connect(port, address);
    sockets.push(socket);
    await once(socket, "connect");
    socket.on("error", () => {}); // a state that was deleted under it
    socket.write(Buffer.alloc(bytes));
  },
  /** Resets all connections. One that is closed while it cannot send lives on without its process, with its route and SA, for minutes. */
  reset: () => {
    for (const socket of sockets) socket.resetAndDestroy();
  },
};

export type TcpHandlers = typeof handlers;
serve(handlers);
