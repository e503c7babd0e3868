/** Sends and receives a TCP stream inside a namespace. */
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { serve } from "./serve.ts";

let received = 0;

const handlers = {
  /** Counts the bytes of all connections to `port`. */
  listen: async ({ address, port }: { address: string; port: number }) => {
    const server = createServer((socket) => {
      socket.on("data", (bytes) => (received += bytes.length));
      socket.on("error", () => {}); // the sender's end is told by the count
    });
    server.listen(port, address);
    await once(server, "listening");
  },
  received: () => received,
  /** Starts a stream of `bytes` in large writes; it ends when the peer has them, or never. */
  start: async ({ address, port, bytes }: { address: string; port: number; bytes: number }) => {
    const socket = connect(port, address);
    await once(socket, "connect");
    socket.on("error", () => {}); // a state that was deleted under it
    socket.end(Buffer.alloc(bytes));
  },
};

export type TcpHandlers = typeof handlers;
serve(handlers);
