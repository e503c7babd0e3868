import { createSocket } from "node:dgram";
import { EsplexError, messageOf } from "../../core/errors.ts";
import { ipVersion } from "../../core/ip.ts";

/**
 * The address of this host on the way to `host`: the node's own address on the trusted link. Asks the kernel's routing
 * (a connected UDP socket sends nothing). Throws `config.invalid` when there is no way.
 */
export function addressTowards(host: string, port: number): Promise<string> {
  const socket = createSocket(ipVersion(host) === 4 ? "udp4" : "udp6");
  return new Promise<string>((resolve, reject) => {
    const failed = (error: unknown): void =>
      reject(
        new EsplexError(
          "config.invalid",
          `bus.coupling: no route to ${host} (${messageOf(error)}): is the trusted link up?`,
        ),
      );
    socket.once("error", failed);
    socket.connect(port, host, () => {
      try {
        resolve(socket.address().address);
      } catch (error) {
        failed(error);
      }
    });
  }).finally(() => socket.close());
}
