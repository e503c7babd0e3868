import { createInterface } from "node:readline";
import { EsplexError } from "../../../src/core/errors.ts";
import { decodeLine, encodeLine } from "./wire-json.ts";

/** What a worker offers: JSON in, JSON out (`wire-json.ts`). */
export type Handlers = Readonly<Record<string, (params: never) => unknown>>;

interface Call {
  readonly id: number;
  readonly method: string;
  readonly params: unknown;
}

/**
 * The main loop of a worker: a node program that a test started inside a namespace. Answers calls from stdin in the order
 * of their completion; ends when stdin ends.
 */
export function serve(handlers: Handlers): void {
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => void answer(handlers, decodeLine(line) as Call));
  lines.on("close", () => process.exit(0));
  process.stdout.write(encodeLine({ ready: true }));
}

/** Tells the test something it did not ask for. */
export function push(event: unknown): void {
  process.stdout.write(encodeLine({ event }));
}

async function answer(handlers: Handlers, { id, method, params }: Call): Promise<void> {
  try {
    const handler = handlers[method];
    if (handler === undefined) throw new Error(`worker has no method ${method}`);
    process.stdout.write(encodeLine({ id, result: (await handler(params as never)) ?? null }));
  } catch (error) {
    const known = error instanceof EsplexError ? { code: error.code, details: error.details } : {};
    const message = error instanceof Error ? error.message : String(error);
    process.stdout.write(encodeLine({ id, error: { message, ...known } }));
  }
}
