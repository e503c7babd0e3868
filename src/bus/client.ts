import { type TLSSocket, connect } from "node:tls";
import type { Timer } from "../core/clock.ts";
import { EsplexError, messageOf } from "../core/errors.ts";
import { BusConnection, type BusHandlers } from "./connection.ts";
import { tlsOptions } from "./credentials.ts";
import { type Identity, identityName, identityOf, identityUri } from "./identity.ts";
import type { BusOptions } from "./server.ts";

/** First pause before dialling again; it doubles up to the last one, each cut by up to half at random. Our choice. */
const FIRST_PAUSE_MS = 50;
const LAST_PAUSE_MS = 2000;
/** A dial that has not finished its TLS handshake by then has failed. */
const DIAL_MS = 5000;

export interface BusClientOptions extends BusOptions {
  readonly host: string;
  readonly port: number;
  /** Who has to be there: any other certificate of the cluster is refused. */
  readonly expect: Identity;
  /** Handlers of a new connection. */
  readonly handlers: (connection: BusConnection) => BusHandlers;
  /** Called when a connection stands, to say hello and catch up. A rejection closes that connection: it is dialled again. */
  readonly onOpen: (connection: BusConnection) => Promise<void>;
  /** Called when a connection that stood has ended. */
  readonly onClose?: (connection: BusConnection, reason: string) => void;
}

/** Keeps one connection to a peer of the bus: dials again, for ever, until it is closed. */
export class BusClient {
  readonly #options: BusClientOptions;
  #connection: BusConnection | null = null;
  #dialling: TLSSocket | null = null;
  #pause: Timer | null = null;
  #pauseMs = FIRST_PAUSE_MS;
  #isClosed = false;

  /** Starts dialling at once. */
  constructor(options: BusClientOptions) {
    this.#options = options;
    this.#dial();
  }

  /** The connection while it stands (`onOpen` has succeeded or still runs); null while dialling. */
  get connection(): BusConnection | null {
    return this.#connection;
  }

  close(): void {
    this.#isClosed = true;
    this.#pause?.cancel();
    this.#dialling?.destroy();
    this.#connection?.close("shutting down");
  }

  #dial(): void {
    const { host, port, credentials, clock, cluster, expect } = this.#options;
    const socket = connect({
      host,
      port,
      ...tlsOptions(credentials),
      rejectUnauthorized: true,
      checkServerIdentity: (_host, certificate) => refusal(certificate.subjectaltname, cluster, expect),
    });
    this.#dialling = socket;
    const limit = clock.after(DIAL_MS, () => void socket.destroy(new Error("no TLS handshake in time")));
    let failure = "closed during the handshake";
    socket.on("error", (error) => (failure = messageOf(error)));
    const failed = (): void => {
      limit.cancel();
      this.#options.counters.add("bus.dialFailed");
      this.#options.log.debug("bus: dial failed", { host, port, error: failure });
      this.#again();
    };
    socket.once("close", failed);
    socket.once("secureConnect", () => {
      limit.cancel();
      socket.off("close", failed);
      this.#opened(socket);
    });
  }

  #opened(socket: TLSSocket): void {
    socket.setNoDelay(true);
    this.#dialling = null;
    const connection = new BusConnection(socket, {
      ...this.#options,
      peer: this.#options.expect,
      remoteAddress: socket.remoteAddress ?? "",
    });
    connection.start(this.#options.handlers(connection));
    this.#connection = connection;
    void connection.closed.then((reason) => {
      this.#connection = null;
      this.#options.onClose?.(connection, reason);
      this.#again();
    });
    this.#options.onOpen(connection).then(
      () => (this.#pauseMs = FIRST_PAUSE_MS),
      (error: unknown) => {
        this.#options.log.warn("bus: hello failed", { peer: identityName(connection.peer), error: messageOf(error) });
        connection.close(`hello failed: ${messageOf(error)}`);
      },
    );
  }

  #again(): void {
    if (this.#isClosed) return;
    this.#dialling = null;
    const pauseMs = this.#pauseMs * (0.5 + Math.random() / 2);
    this.#pauseMs = Math.min(2 * this.#pauseMs, LAST_PAUSE_MS);
    this.#pause = this.#options.clock.after(pauseMs, () => this.#dial());
  }
}

function refusal(subjectAltName: string | undefined, cluster: string, expect: Identity): Error | undefined {
  try {
    const found = identityUri(identityOf(subjectAltName, cluster));
    if (found === identityUri(expect)) return undefined;
    return new EsplexError("bus.unauthorised", `${found} answers where ${identityUri(expect)} should`);
  } catch (error) {
    return error instanceof Error ? error : new Error(messageOf(error));
  }
}
