import type { AddressInfo } from "node:net";
import { type TLSSocket, createServer } from "node:tls";
import type { Clock } from "../core/clock.ts";
import type { Counters } from "../core/counters.ts";
import { EsplexError, isError, messageOf } from "../core/errors.ts";
import type { Log } from "../core/log.ts";
import { BusConnection, type BusHandlers } from "./connection.ts";
import { type Credentials, tlsOptions } from "./credentials.ts";
import { type Identity, identityOf } from "./identity.ts";
import type { BusLimits } from "./limits.ts";

/** A TLS handshake that takes longer is cut off. Our choice. */
const HANDSHAKE_MS = 5000;
/** Connections at a time, also those still shaking hands. */
const MAX_CONNECTIONS = 512;

/** What both ends of the bus need. */
export interface BusOptions {
  readonly cluster: string;
  /** Our own name in the sender field. */
  readonly self: string;
  readonly credentials: Credentials;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
  readonly limits?: Partial<BusLimits>;
}

export interface BusServerOptions extends BusOptions {
  readonly host: string;
  /** 0 lets the kernel choose. */
  readonly port: number;
  /** Gives the handlers of a new connection; null sends the peer away (counted as `bus.identityRefused`). */
  readonly accept: (connection: BusConnection) => BusHandlers | null;
}

export interface BusServer {
  readonly host: string;
  readonly port: number;
  /** Stops listening and ends every connection. */
  close(): Promise<void>;
}

/** Listens for peers of this cluster. Rejects with `config.invalid` when the address cannot be used. */
export async function listenBus(options: BusServerOptions): Promise<BusServer> {
  const { counters, log } = options;
  const connections = new Set<BusConnection>();
  let isClosing = false;
  const server = createServer({
    ...tlsOptions(options.credentials),
    requestCert: true,
    rejectUnauthorized: true,
    handshakeTimeout: HANDSHAKE_MS,
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.on("tlsClientError", (error: Error, socket: TLSSocket) => {
    counters.add("bus.tlsRefused");
    log.warn("bus: TLS handshake failed", { remote: socket.remoteAddress ?? "", error: messageOf(error) });
    socket.destroy();
  });
  server.on("drop", () => counters.add("bus.tooManyConnections"));
  server.on("secureConnection", (socket: TLSSocket) => {
    // Its handshake was under way: nobody would end it any more, and the end of the server waits for it.
    if (isClosing) {
      socket.destroy();
      return;
    }
    const connection = accepted(socket, options);
    if (connection === null) return;
    connections.add(connection);
    void connection.closed.then(() => connections.delete(connection));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) =>
      reject(new EsplexError("config.invalid", `bus: cannot listen on ${options.host}: ${messageOf(error)}`)),
    );
    server.listen({ host: options.host, port: options.port }, resolve);
  });
  server.on("error", (error) => log.error("bus: listening socket", { error: messageOf(error) }));
  return {
    host: options.host,
    port: (server.address() as AddressInfo).port,
    close: () => {
      isClosing = true;
      const done = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const connection of connections) connection.close("shutting down");
      return done;
    },
  };
}

function accepted(socket: TLSSocket, options: BusServerOptions): BusConnection | null {
  socket.setNoDelay(true);
  const refuse = (why: string): null => {
    options.counters.add("bus.identityRefused");
    options.log.warn("bus: peer refused", { remote: socket.remoteAddress ?? "", why });
    socket.on("error", () => {});
    socket.destroy();
    return null;
  };
  let peer: Identity;
  try {
    peer = identityOf(socket.getPeerX509Certificate()?.subjectAltName, options.cluster);
  } catch (error) {
    if (!isError(error, "bus.")) throw error;
    return refuse(error.message);
  }
  const connection = new BusConnection(socket, { ...options, peer, remoteAddress: socket.remoteAddress ?? "" });
  const handlers = options.accept(connection);
  if (handlers === null) return refuse(`${peer.kind === "node" ? peer.name : peer.kind} has no business here`);
  connection.start(handlers);
  return connection;
}
