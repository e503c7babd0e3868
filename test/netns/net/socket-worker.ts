/** Runs src/net/socket-diagnostics.ts inside a namespace for its tests, beside the sockets that it shall see. */
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import {
  findConnections,
  listConnections,
  listListeners,
  openSocketDiagnostics,
  watchDestroyed,
  type TcpEnds,
} from "../../../src/net/socket-diagnostics.ts";
import { serve } from "../support/serve.ts";

const diagnostics = openSocketDiagnostics();
const destroyed: TcpEnds[] = [];
let others = 0;
watchDestroyed({
  onConnection: (ends) => void destroyed.push(ends),
  onOther: () => (others += 1),
  onOverrun: () => process.exit(3),
  onFault: () => process.exit(4),
});

const servers = new Map<number, Server>();
const accepted = new Set<Socket>();
const dialled: Socket[] = [];

const handlers = {
  listen: async (options: { host: string; port: number; ipv6Only?: boolean; backlog?: number }) => {
    // Half-open on purpose: the test says who closes first.
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      accepted.add(socket);
      socket.on("close", () => accepted.delete(socket));
      socket.on("error", () => {});
    });
    server.listen(options);
    await once(server, "listening");
    servers.set(options.port, server);
  },
  stopListening: (port: number) => {
    const server = servers.get(port);
    server?.close();
    servers.delete(port);
  },
  dial: async ({ host, port, count }: { host: string; port: number; count: number }): Promise<TcpEnds[]> => {
    const sockets = Array.from({ length: count }, () => connect({ host, port, allowHalfOpen: true }));
    await Promise.all(sockets.map((socket) => once(socket, "connect")));
    dialled.push(...sockets);
    return sockets.map((socket) => ({
      local: host,
      localPort: port,
      remote: socket.localAddress ?? "",
      remotePort: socket.localPort ?? 0,
    }));
  },
  accepted: () => accepted.size,
  /** The side that took the connections closes first. */
  closeAccepted: () => {
    for (const socket of accepted) socket.destroySoon();
  },
  /** The side that dialled closes. */
  closeDialled: () => {
    for (const socket of dialled.splice(0)) socket.destroy();
  },
  listeners: () => listListeners(diagnostics),
  connections: (locals: string[]) => listConnections(diagnostics, new Set(locals)),
  find: (ends: TcpEnds[]) => findConnections(diagnostics, ends),
  destroyed: () => destroyed,
  others: () => others,
};

export type SocketHandlers = typeof handlers;
serve(handlers);
