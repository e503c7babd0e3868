import { createInterface } from "node:readline";
import { EsplexError, type ErrorCode } from "../../../src/core/errors.ts";
import type { Program } from "./program.ts";
import type { Handlers } from "./serve.ts";
import { eventually } from "./eventually.ts";
import { decodeLine, encodeLine } from "./wire-json.ts";

/** A worker that does not end when its input does is killed after this. */
const STOP_LIMIT_MS = 5000;

type Parameters1<F> = F extends (params: infer P) => unknown ? P : never;
type Result<F> = F extends (params: never) => infer R ? Awaited<R> : never;

interface Line {
  readonly ready?: true;
  readonly event?: unknown;
  readonly id?: number;
  readonly result?: unknown;
  readonly error?: { readonly message: string; readonly code?: ErrorCode; readonly details?: Record<string, unknown> };
}

/** A node program inside a namespace that runs our code there (`serve.ts`). `call` throws what the handler threw. */
export class Worker<H extends Handlers> implements AsyncDisposable {
  readonly events: unknown[] = [];
  readonly #program: Program;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #ready = Promise.withResolvers<null>();
  #lastId = 0;

  constructor(program: Program) {
    this.#program = program;
    createInterface({ input: program.output }).on("line", (line) => this.#received(decodeLine(line) as Line));
    this.#ready.promise.catch(() => {}); // `ready` tells it
    void program.ended.then((code) => {
      const error = new Error(`worker ended with ${code}: ${program.stderr}`);
      this.#ready.reject(error);
      for (const { reject } of this.#waiting.values()) reject(error);
    });
  }

  /** Returns when it takes calls; throws when it ended instead. */
  async ready(): Promise<void> {
    await this.#ready.promise;
  }

  async call<M extends keyof H & string>(method: M, params: Parameters1<H[M]>): Promise<Result<H[M]>> {
    const id = ++this.#lastId;
    const answer = Promise.withResolvers<unknown>();
    this.#waiting.set(id, answer);
    this.#program.write(encodeLine({ id, method, params }));
    return (await answer.promise) as Result<H[M]>;
  }

  /** Waits for a pushed event; returns the first that fits. */
  async event<T>(fits: (event: unknown) => event is T): Promise<T> {
    return eventually("the worker's event", () => this.events.find(fits));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#program.finish();
    const timer = setTimeout(() => this.#program.kill("SIGKILL"), STOP_LIMIT_MS);
    await this.#program.ended;
    clearTimeout(timer);
  }

  #received(line: Line): void {
    if (line.ready === true) this.#ready.resolve(null);
    if (line.event !== undefined) this.events.push(line.event);
    if (line.id === undefined) return;
    const waiting = this.#waiting.get(line.id);
    this.#waiting.delete(line.id);
    const { error } = line;
    if (error === undefined) waiting?.resolve(line.result);
    else if (error.code === undefined) waiting?.reject(new Error(error.message));
    else waiting?.reject(new EsplexError(error.code, error.message, error.details));
  }
}
