import { chmod, mkdir, unlink } from "node:fs/promises";
import { type Server, type Socket, connect, createServer } from "node:net";
import { dirname } from "node:path";
import { EsplexError, messageOf } from "../core/errors.ts";
import type { Log } from "../core/log.ts";

/** A request is one short line of JSON. */
const MAX_REQUEST_BYTES = 4096;
const MAX_RESPONSE_BYTES = 64 * 1024 * 1024;
const MAX_CLIENTS = 16;
const REQUEST_MS = 5000;
const RESPONSE_MS = 10_000;
/** Nobody but the daemon's user may connect. */
const SOCKET_MODE = 0o600;
const SOCKET_UMASK = 0o177;

/** What a command is given besides its name; the handler checks it. */
export type ControlArguments = Readonly<Record<string, unknown>>;

/** What each command gives: plain data; `bigint` becomes decimal text. */
export type ControlHandlers = Readonly<Record<string, (args: ControlArguments) => unknown>>;

export interface ControlServer {
  close(): Promise<void>;
}

/**
 * Serves a daemon's control socket: a line `{"command":"status"}` in, with `arguments` where the command has some, and a line
 * `{"result":…}` or `{"error":"…"}` out. Replaces the socket of a process that was killed; throws `config.invalid` when a living one answers there.
 */
export async function serveControl(path: string, handlers: ControlHandlers, log: Log): Promise<ControlServer> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await removeStale(path);
  const server = createServer({ allowHalfOpen: true }, (socket) => serve(socket, handlers, log));
  server.maxConnections = MAX_CLIENTS;
  await listen(server, path);
  await chmod(path, SOCKET_MODE);
  server.on("error", (error) => log.error("control socket", { error: messageOf(error) }));
  return { close: () => new Promise((resolve) => server.close(() => resolve())) };
}

/** Sends one command to a daemon. Throws `cluster.notServing` when nobody answers there or the daemon refuses. */
export async function callControl(path: string, command: string, args: ControlArguments = {}): Promise<unknown> {
  const line = await ask(path, `${JSON.stringify({ command, arguments: args })}\n`);
  const answer = parseObject(line);
  if (answer !== null && Object.hasOwn(answer, "result")) return answer["result"];
  const why = typeof answer?.["error"] === "string" ? answer["error"] : "not an answer of a daemon";
  throw new EsplexError("cluster.notServing", `${path}: ${why}`);
}

function serve(socket: Socket, handlers: ControlHandlers, log: Log): void {
  let text = "";
  let isAnswered = false;
  const answer = (value: unknown): void => {
    isAnswered = true;
    const json = JSON.stringify(value, (_key, item: unknown) => (typeof item === "bigint" ? item.toString() : item));
    socket.end(`${json}\n`);
  };
  socket.setTimeout(REQUEST_MS, () => socket.destroy());
  socket.setEncoding("utf8");
  socket.on("error", (error) => log.debug("control client", { error: messageOf(error) }));
  socket.on("end", () => {
    if (!isAnswered) socket.destroy();
  });
  socket.on("data", (chunk: string) => {
    if (isAnswered) return;
    text += chunk;
    const end = text.indexOf("\n");
    if (end < 0 && text.length > MAX_REQUEST_BYTES) answer({ error: "the request is too long" });
    if (end < 0) return;
    const request = parseObject(text.slice(0, end));
    const command = request?.["command"];
    // From here on it is the handler that takes its time.
    socket.setTimeout(RESPONSE_MS);
    const handler = typeof command === "string" && Object.hasOwn(handlers, command) ? handlers[command] : undefined;
    if (handler === undefined) {
      answer({ error: `unknown command; known: ${Object.keys(handlers).join(", ")}` });
      return;
    }
    run(handler, asObject(request?.["arguments"]) ?? {}).then(
      (result) => answer({ result: result ?? null }),
      (error: unknown) => answer({ error: messageOf(error) }),
    );
  });
}

/** A handler that throws rejects. */
async function run(handler: ControlHandlers[string], args: ControlArguments): Promise<unknown> {
  return await handler(args);
}

function ask(path: string, request: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      socket.destroy();
      reject(new EsplexError("cluster.notServing", `${path}: ${why}; is the daemon running?`));
    };
    const socket = connect(path, () => socket.write(request));
    let text = "";
    socket.setEncoding("utf8");
    socket.setTimeout(RESPONSE_MS, () => fail("no answer"));
    socket.on("error", (error) => fail(messageOf(error)));
    socket.on("close", () => fail("closed without an answer"));
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (text.length > MAX_RESPONSE_BYTES) {
        fail("the answer is too long");
        return;
      }
      const end = chunk.includes("\n") ? text.indexOf("\n") : -1;
      if (end < 0) return;
      resolve(text.slice(0, end));
      socket.destroy();
    });
  });
}

async function removeStale(path: string): Promise<void> {
  const isAlive = await new Promise<boolean>((resolve) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
  if (isAlive)
    throw new EsplexError("config.invalid", `${path}: another daemon answers there; give each its own --run`);
  try {
    await unlink(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      throw new EsplexError("config.unreadable", `control socket ${path}: ${messageOf(error)}`);
    }
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error) =>
      reject(new EsplexError("config.unreadable", `control socket ${path}: ${messageOf(error)}`)),
    );
    // The socket is bound inside this call: at no moment can others connect.
    const umask = process.umask(SOCKET_UMASK);
    server.listen(path, resolve);
    process.umask(umask);
  });
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    return asObject(JSON.parse(text));
  } catch {
    return null;
  }
}

function asObject(value: unknown): Record<string, unknown> | null {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
}
