import { EsplexError, type ErrorCode } from "../core/errors.ts";

/**
 * What every frame carries around its body, with short keys because it is repeated in each: `n` the number of the frame on
 * its connection, from 1 without a gap; `f` the sender's name; then one of: a request (`q` id, `t` type, `b` body),
 * a response (`a` id, and `b` body or `e` error), a notice (`t`, `b`), a heart-beat (`h`).
 */
export type Envelope =
  | { readonly kind: "request"; readonly id: number; readonly type: string; readonly body: unknown }
  | { readonly kind: "response"; readonly id: number; readonly body: unknown }
  | { readonly kind: "failure"; readonly id: number; readonly error: EsplexError }
  | { readonly kind: "notice"; readonly type: string; readonly body: unknown }
  | { readonly kind: "heartbeat" };

/** Codes that one side may report to the other; any other error is reported as `cluster.notServing`. */
const REMOTE_CODES: readonly ErrorCode[] = [
  "store.failed",
  "bus.unauthorised",
  "bus.protocol",
  "cluster.staleEpoch",
  "cluster.notOwner",
  "cluster.unknownSa",
  "cluster.exhausted",
  "cluster.notServing",
  "cluster.windowHeld",
];

const MAX_ERROR_TEXT_LENGTH = 300;

/** Writes the frames of one connection: numbers them and names their sender. */
export class EnvelopeWriter {
  readonly #from: string;
  #number = 0;

  constructor(from: string) {
    this.#from = JSON.stringify(from);
  }

  request(id: number, type: string, bodyJson: string): string {
    return `${this.#head()},"q":${id},"t":"${type}","b":${bodyJson}}`;
  }

  response(id: number, bodyJson: string): string {
    return `${this.#head()},"a":${id},"b":${bodyJson}}`;
  }

  /** Only codes of `REMOTE_CODES` travel with their text: the text of any other error may hold what the peer must not see. */
  failure(id: number, error: unknown): string {
    const known = error instanceof EsplexError && REMOTE_CODES.includes(error.code);
    const failure = known
      ? { code: error.code, message: error.message.slice(0, MAX_ERROR_TEXT_LENGTH) }
      : { code: "cluster.notServing", message: "the request failed; the other side's log says why" };
    return `${this.#head()},"a":${id},"e":${JSON.stringify(failure)}}`;
  }

  notice(type: string, bodyJson: string): string {
    return `${this.#head()},"t":"${type}","b":${bodyJson}}`;
  }

  heartbeat(): string {
    return `${this.#head()},"h":1}`;
  }

  /** The number of a frame whose head is not JSON. */
  number(): number {
    return ++this.#number;
  }

  #head(): string {
    return `{"n":${this.number()},"f":${this.#from}`;
  }
}

/** Why a frame was refused: the name of its counter after `bus.`. */
export type Refusal = "frameMalformed" | "frameVersion" | "senderMismatch" | "sequenceGap" | "messageInvalid";

/** Reads the frames of one connection: checks number, sender and form. The body is checked by its schema later. */
export class EnvelopeReader {
  readonly #from: string;
  #number = 0;

  constructor(from: string) {
    this.#from = from;
  }

  /** The envelope, or why the connection has to be closed. */
  read(text: string): Envelope | Refusal {
    const value = parse(text);
    if (value === null) return "frameMalformed";
    return this.check(value["f"], value["n"]) ?? envelopeOf(value) ?? "frameMalformed";
  }

  /** Checks sender and number of the next frame, whatever its form; null when they are right. */
  check(from: unknown, number: unknown): Refusal | null {
    if (from !== this.#from) return "senderMismatch";
    if (number !== this.#number + 1) return "sequenceGap";
    this.#number++;
    return null;
  }
}

function envelopeOf(value: Readonly<Record<string, unknown>>): Envelope | null {
  const { q, a, t, b, e, h } = value;
  if (typeof t === "string" && b !== undefined) {
    if (q === undefined) return { kind: "notice", type: t, body: b };
    return isId(q) ? { kind: "request", id: q, type: t, body: b } : null;
  }
  if (isId(a)) {
    if (b !== undefined) return { kind: "response", id: a, body: b };
    const error = errorOf(e);
    return error === null ? null : { kind: "failure", id: a, error };
  }
  return h === 1 ? { kind: "heartbeat" } : null;
}

function errorOf(value: unknown): EsplexError | null {
  if (typeof value !== "object" || value === null) return null;
  const { code, message } = value as Record<string, unknown>;
  const known = REMOTE_CODES.find((allowed) => allowed === code);
  if (known === undefined || typeof message !== "string") return null;
  return new EsplexError(known, message.slice(0, MAX_ERROR_TEXT_LENGTH));
}

function isId(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0;
}

function parse(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    return null;
  }
}
