/** Requests and their answers, as `netlink-socket.ts` keeps them. */
import type { Timer } from "../core/clock.ts";
import { EsplexError } from "../core/errors.ts";
import type { NetlinkMessage, NetlinkRequest } from "./netlink-message.ts";

/** A request on the wire. */
export interface Waiting {
  readonly operation: string;
  /** An answer that is no error and no end. */
  readonly onAnswer: (message: NetlinkMessage) => void;
  /** Called once: null is success. */
  readonly settle: (error: EsplexError | null, lastFlags: number) => void;
  readonly submission: Submission;
}

/** Requests that travel in one datagram. */
export interface Submission {
  readonly expectations: readonly Expectation[];
  /** Its sequence numbers, once it was sent. */
  readonly seqs: number[];
  /** One for all: it is cancelled with the last. */
  timer: Timer | null;
  waiting: number;
  /** When it was sent, or last answered. */
  heardMs: number;
}

/** A request, and what becomes of its answers. */
export type Expectation = Omit<Waiting, "submission"> & { readonly request: NetlinkRequest; readonly flags: number };

/** One that has at most one answer besides its acknowledgement. */
export function expectation<T>(
  request: NetlinkRequest,
  flags: number,
  decode: (message: NetlinkMessage) => T,
  answer: PromiseWithResolvers<T | null>,
): Expectation {
  let value: T | null = null;
  const onAnswer = (message: NetlinkMessage): void => {
    value = decode(message);
  };
  const settle = (error: EsplexError | null): void => {
    if (error === null) answer.resolve(value);
    else answer.reject(error);
  };
  return { request, flags, operation: request.operation, onAnswer, settle };
}

/** The answer that there must be. */
export function required<T>(value: T | null, request: NetlinkRequest): T {
  if (value === null) throw new EsplexError("wire.malformed", `${request.operation}: acknowledged but not answered`);
  return value;
}
