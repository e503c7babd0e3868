/**
 * Run inside a namespace by `sendDatagrams`: sends the UDP datagrams that stdin lists as JSON, in order, and ends.
 */
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import type { Datagram } from "./hostile.ts";

const sockets = new Map<string, Socket>();

async function socketOf(address: string): Promise<Socket> {
  const known = sockets.get(address);
  if (known !== undefined) return known;
  const socket = createSocket("udp4");
  socket.on("message", () => {
    // Answers are nobody's business here.
  });
  socket.bind({ address });
  await once(socket, "listening");
  sockets.set(address, socket);
  return socket;
}

for (const { sourceAddress, address, port, hex } of JSON.parse(await text(process.stdin)) as Datagram[]) {
  const socket = await socketOf(sourceAddress ?? "0.0.0.0");
  await new Promise<void>((resolve, reject) => {
    socket.send(Buffer.from(hex, "hex"), port, address, (error) => (error === null ? resolve() : reject(error)));
  });
}
for (const socket of sockets.values()) socket.close();
