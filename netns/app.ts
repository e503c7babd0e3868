/**
 * The application that runs on each target of the lab: `node netns/app.ts NAME [PORT]`. Plain HTTP, one request per
 * connection, so that each request is a distribution decision of its own; a client that asks for keep-alive stays.
 *
 *   GET /name               this node's name
 *   GET /download?bytes=N[&rate=R]   N bytes of the node's own stream (`app-stream.ts`), no more than R of them a second
 *   PUT /upload                      {"node","bytes","sha256"} of what was sent
 *
 * Each answer carries the node's name in `x-node`.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as delay } from "node:timers/promises";
import { MAX_STREAM_BYTES, streamChunks } from "./app-stream.ts";
import { APPLICATION_PORT } from "./layout.ts";

/** Of a slow download. */
const PIECES_PER_SECOND = 20;

async function answer(node: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  response.setHeader("x-node", node);
  const url = new URL(request.url ?? "/", "http://lab.example");
  if (request.method === "GET" && url.pathname === "/name") {
    response.end(`${node}\n`);
  } else if (request.method === "GET" && url.pathname === "/download") {
    await download(node, url.searchParams, response);
  } else if (request.method === "PUT" && url.pathname === "/upload") {
    await upload(node, request, response);
  } else {
    response.writeHead(404).end("GET /name, GET /download?bytes=N, PUT /upload\n");
  }
}

async function download(node: string, wanted: URLSearchParams, response: ServerResponse): Promise<void> {
  const bytes = Number(wanted.get("bytes") ?? NaN);
  const bytesPerSecond = Number(wanted.get("rate") ?? Infinity);
  if (!Number.isInteger(bytes) || bytes < 0 || bytes > MAX_STREAM_BYTES) {
    response.writeHead(400).end(`bytes must be 0 to ${MAX_STREAM_BYTES}\n`);
    return;
  }
  if (!(bytesPerSecond > 0)) {
    response.writeHead(400).end("rate must be above 0, bytes a second\n");
    return;
  }
  response.setHeader("content-length", bytes);
  const stream = streamChunks(node, bytes);
  const paced = bytesPerSecond === Infinity ? stream : slowed(stream, bytesPerSecond);
  await pipeline(Readable.from(paced, { objectMode: false }), response);
}

/** The same bytes in small pieces, each in its time: a sender that is held up makes up for it. */
async function* slowed(chunks: Iterable<Buffer>, bytesPerSecond: number): AsyncGenerator<Buffer> {
  const startMs = performance.now();
  const pieceBytes = Math.max(1, Math.ceil(bytesPerSecond / PIECES_PER_SECOND));
  let sent = 0;
  for (const chunk of chunks) {
    for (let at = 0; at < chunk.length; at += pieceBytes) {
      const piece = chunk.subarray(at, at + pieceBytes);
      yield piece;
      sent += piece.length;
      await delay(Math.max(0, startMs + (1000 * sent) / bytesPerSecond - performance.now()));
    }
  }
}

async function upload(node: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    hash.update(chunk);
  }
  response.setHeader("content-type", "application/json");
  response.end(`${JSON.stringify({ node, bytes, sha256: hash.digest("hex") })}\n`);
}

const [node, port] = process.argv.slice(2);
if (node === undefined) throw new Error("usage: app.ts NAME [PORT]");
const server = createServer({ keepAlive: false }, (request, response) => {
  if (request.headers.connection !== "keep-alive") response.setHeader("connection", "close");
  answer(node, request, response).catch((error: unknown) => {
    // The other end went away in the middle: nothing to answer any more.
    console.error(`${request.method ?? "?"} ${request.url ?? "?"}: ${String(error)}`);
    response.destroy();
  });
});
// Both IP versions.
server.listen(Number(port ?? APPLICATION_PORT), "::", () => console.log(`${node} listens`));
