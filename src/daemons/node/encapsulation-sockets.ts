import { createSocket, type Socket } from "node:dgram";
import { messageOf } from "../../core/errors.ts";
import { ipVersion } from "../../core/ip.ts";
import type { Log } from "../../core/log.ts";
import { NAT_T_PORT } from "../../sa/spec.ts";

/** Nothing comes here; the kernel makes it its smallest buffer. */
const RECEIVE_BUFFER_BYTES = 1;

/**
 * A target's sockets on port 4500 of its DVIPAs. Nobody reads or sends there: its kernel makes ESP in UDP by itself. But a kernel heeds ICMP
 * errors about UDP, the path MTU's too, only where a socket has the port they are about (__udp4_lib_err).
 */
export class EncapsulationSockets {
  readonly #log: Log;
  /** Null: another program has the port; its socket does as well. */
  readonly #sockets = new Map<string, Socket | null>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Opens those of these addresses, which must be there, and closes all others. */
  async apply(addresses: readonly string[]): Promise<void> {
    for (const [address, socket] of this.#sockets) {
      if (addresses.includes(address)) continue;
      socket?.close();
      this.#sockets.delete(address);
    }
    for (const address of addresses) {
      if (!this.#sockets.has(address)) this.#sockets.set(address, await this.#open(address));
    }
  }

  async #open(address: string): Promise<Socket | null> {
    const type = ipVersion(address) === 4 ? "udp4" : "udp6";
    const socket = createSocket({
      ...{ type, ipv6Only: type === "udp6", recvBufferSize: RECEIVE_BUFFER_BYTES },
      // A key manager of the host's own must still get the port on all addresses, as strongSwan asks for it.
      reuseAddr: true,
    });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("error", reject);
        socket.bind({ address, port: NAT_T_PORT, exclusive: true }, resolve);
      });
    } catch (error) {
      socket.close();
      this.#log.warn("another program has UDP port 4500: path MTU discovery of ESP in UDP depends on it", {
        address,
        reason: messageOf(error),
      });
      return null;
    }
    socket.on("error", (error) => this.#log.debug("UDP port 4500 of a DVIPA", { address, reason: error.message }));
    return socket;
  }
}
