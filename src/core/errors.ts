/**
 * Every error that code may branch on. The prefix says whose fault it is and what the catcher does:
 * `wire.*` drop and count; `peer.*` answer with the notify and keep running; `kernel.*` carries errno and operation;
 * `store.*` stop serving; `config.*` tell the user and exit 2; `bus.*` close that connection; `cluster.*` the cluster refuses.
 */
export type ErrorCode =
  | "wire.short"
  | "wire.malformed"
  | "wire.unsupported"
  | "wire.integrity"
  | "peer.invalidSyntax"
  | "peer.authenticationFailed"
  | "peer.noProposalChosen"
  | "peer.tsUnacceptable"
  | "peer.invalidKePayload"
  | "peer.unsupportedCriticalPayload"
  | "peer.childSaNotFound"
  | "peer.noAdditionalSas"
  | "peer.temporaryFailure"
  | "kernel.refused"
  | "kernel.overrun"
  | "kernel.offload"
  | "kernel.missing"
  | "store.failed"
  | "store.corrupt"
  | "config.invalid"
  | "config.unreadable"
  | "bus.closed"
  | "bus.timeout"
  | "bus.protocol"
  | "bus.unauthorised"
  | "cluster.staleEpoch"
  | "cluster.notOwner"
  | "cluster.unknownSa"
  | "cluster.exhausted"
  | "cluster.notServing"
  | "cluster.windowHeld";

/** The only error class of esplex. `code` is for programs, `message` is for the person who has to act on it. */
export class EsplexError extends Error {
  readonly code: ErrorCode;
  /** Facts for the log: never key material. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, details: Readonly<Record<string, unknown>> = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "EsplexError";
    this.code = code;
    this.details = details;
  }
}

/** True when `error` is ours and carries `code`, or any code of that family when `code` ends in a dot (`"wire."`). */
export function isError(error: unknown, code: ErrorCode | `${string}.`): error is EsplexError {
  if (!(error instanceof EsplexError)) return false;
  return code.endsWith(".") ? error.code.startsWith(code) : error.code === code;
}

/** The text of anything that was thrown, for a log line. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A broken invariant ends the process: the supervisor restarts it, the reconciler converges. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`invariant broken: ${message}`);
}

/** The end of an exhaustive switch: does not compile when a variant is missing. */
export function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
