import { constants } from "node:os";
import { EsplexError, isError } from "../core/errors.ts";

/** Errno names that callers compare with (`errno(3)`). */
export type ErrnoName = keyof typeof constants.errno;

/**
 * The kernel said no. `details`: `errno` (positive number), `code` ("EEXIST"), `operation` ("XFRM_MSG_NEWSA …"), and
 * `extack`, the kernel's own sentence, when it sent one.
 */
export function kernelRefusal(operation: string, errno: number, extack?: string): EsplexError {
  const code = errnoName(errno);
  const said = extack === undefined || extack === "" ? "" : `: ${extack}`;
  const details = extack === undefined ? { errno, code, operation } : { errno, code, operation, extack };
  return new EsplexError("kernel.refused", `${operation}: ${code}${said}`, details);
}

/** True for a refusal with one of these errnos. */
export function isErrno(error: unknown, ...names: readonly ErrnoName[]): boolean {
  if (!isError(error, "kernel.refused")) return false;
  return names.some((name) => error.details["errno"] === constants.errno[name]);
}

function errnoName(errno: number): string {
  const known = Object.entries(constants.errno).find(([, value]) => value === errno);
  return known?.[0] ?? `errno ${errno}`;
}
