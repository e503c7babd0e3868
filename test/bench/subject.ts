import type { Call } from "./closed-loop.ts";
import type { Program } from "./programs.ts";

/** Number lines (SAs here, keys there) that the callers share out; a multiple of their number. */
export const LINES = 64;
/** Numbers a call asks for: the lease of three nodes on a peer's window of `WINDOW_PACKETS` (`leaseSizeNumbers`). */
export const COUNT_NUMBERS = 128;
export const WINDOW_PACKETS = 1024;

/** Callers that are connected. */
export interface Session {
  /** Caller `c` takes from the lines c, c + callers, … in turn. */
  readonly call: Call;
  readonly close: () => Promise<void>;
}

/** What is measured: a server in a process of its own. */
export interface Subject extends AsyncDisposable {
  readonly name: "ours" | "redis" | "redisAlways";
  readonly program: Program;
  /** Connects `callers`, all over one connection or each over its own. A call rejects when a number is given twice. */
  open(callers: number, isShared: boolean): Promise<Session>;
}
