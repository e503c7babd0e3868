import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { type Socket, connect } from "node:net";
import { Blocks } from "./blocks.ts";
import { LOOPBACK, Program, freePort } from "./programs.ts";
import { COUNT_NUMBERS, LINES, type Session, type Subject } from "./subject.ts";

/** A `redis-server` of our own on loopback, with its files in `directory`: fsync after every write, or no persistence. */
export async function startRedis(directory: string, isDurable: boolean): Promise<Subject> {
  await mkdir(directory);
  const port = await freePort();
  const persistence = isDurable ? ["--appendonly", "yes", "--appendfsync", "always"] : ["--appendonly", "no"];
  const program = await Program.start(
    "redis-server",
    ["--bind", LOOPBACK, "--port", String(port), "--dir", directory, "--save", "", ...persistence],
    "Ready to accept connections",
  );
  const blocks = new Blocks();
  return {
    name: isDurable ? "redisAlways" : "redis",
    program,
    open: (callers, isShared) => openSession(port, callers, isShared, blocks),
    [Symbol.asyncDispose]: () => program[Symbol.asyncDispose](),
  };
}

async function openSession(port: number, callers: number, isShared: boolean, blocks: Blocks): Promise<Session> {
  const dial = (): Promise<RespConnection> => RespConnection.dial(port);
  const connections = await Promise.all(Array.from({ length: isShared ? 1 : callers }, dial));
  const line = Array.from({ length: callers }, (_, caller) => caller);
  return {
    call: async (caller) => {
      const connection = connections[isShared ? 0 : caller];
      const at = line[caller];
      if (connection === undefined || at === undefined) throw new Error(`no caller ${caller}`);
      line[caller] = (at + callers) % LINES;
      const end = await connection.incrBy(`line:${at}`, COUNT_NUMBERS);
      blocks.add(at, end - COUNT_NUMBERS, end);
    },
    close: () => {
      for (const connection of connections) connection.close();
      return Promise.resolve();
    },
  };
}

interface Waiting {
  readonly resolve: (value: number) => void;
  readonly reject: (error: Error) => void;
}

/**
 * As much of a Redis client as this benchmark needs: INCRBY, pipelined. Commands of one turn of the event loop leave in one
 * write, as the bus does it.
 */
class RespConnection {
  readonly #socket: Socket;
  #waiting: Waiting[] = [];
  #answered = 0;
  #outgoing = "";
  #rest = "";

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true).setEncoding("latin1");
    socket.on("data", (text: string) => this.#received(text));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("redis closed the connection")));
  }

  static async dial(port: number): Promise<RespConnection> {
    const socket = connect({ host: LOOPBACK, port });
    await once(socket, "connect");
    return new RespConnection(socket);
  }

  incrBy(key: string, count: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      if (this.#outgoing === "") process.nextTick(() => this.#flush());
      const by = String(count);
      this.#outgoing += `*3\r\n$6\r\nINCRBY\r\n$${key.length}\r\n${key}\r\n$${by.length}\r\n${by}\r\n`;
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #flush(): void {
    this.#socket.write(this.#outgoing, "latin1");
    this.#outgoing = "";
  }

  #received(text: string): void {
    const all = this.#rest + text;
    let start = 0;
    for (let end = all.indexOf("\r\n"); end >= 0; end = all.indexOf("\r\n", start)) {
      this.#answer(all.slice(start, end));
      start = end + 2;
    }
    this.#rest = all.slice(start);
    this.#waiting.splice(0, this.#answered);
    this.#answered = 0;
  }

  #answer(line: string): void {
    const waiting = this.#waiting[this.#answered++];
    if (line.startsWith(":")) waiting?.resolve(Number(line.slice(1)));
    else waiting?.reject(new Error(`redis: ${line}`));
  }

  #fail(error: Error): void {
    for (const { reject } of this.#waiting) reject(error);
    this.#waiting = [];
  }
}
