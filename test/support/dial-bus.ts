/**
 * Run inside a namespace by `dialBus`: connects as stdin says, sends the bytes, and waits until the other side closes.
 * Prints one JSON line `{"connected","closedByPeer"}`.
 */
import { readFileSync } from "node:fs";
import { connect as connectTcp, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { connect as connectTls } from "node:tls";
import type { BusCall } from "./hostile.ts";

/** The bus gives a silent peer some heart-beats; our limit is far above. */
const CLOSE_LIMIT_MS = 60_000;

const call = JSON.parse(await text(process.stdin)) as BusCall;
const { host, port, credentials } = call;
let connected = false;
let socket: Socket;
const send = (): void => {
  connected = true;
  socket.write(Buffer.from(call.hex, "hex"));
  if (call.thenEnd) socket.end();
};
if (credentials === null) {
  socket = connectTcp({ host, port }, send);
} else {
  const [cert, key] = credentials.map((path) => readFileSync(path));
  // The service's own certificate has no DNS name, and a stranger does not care who answers.
  const checks = { rejectUnauthorized: false, checkServerIdentity: () => undefined };
  socket = connectTls({ host, port, cert, key, minVersion: "TLSv1.3", ...checks }, send);
}
const finish = (closedByPeer: boolean): void => {
  process.stdout.write(`${JSON.stringify({ connected, closedByPeer })}\n`, () => process.exit(0));
};
const limit = setTimeout(() => finish(false), CLOSE_LIMIT_MS);
socket.resume();
socket.on("error", () => {
  // `close` follows.
});
socket.on("close", () => {
  clearTimeout(limit);
  finish(true);
});
