import { z } from "zod";

/** A section of the file: unknown keys are refused, and the message lists the known ones. */
export function section<S extends z.ZodRawShape>(shape: S) {
  const allowed = Object.keys(shape).join(", ");
  return z.strictObject(shape, {
    error: (issue) => (issue.code === "unrecognized_keys" ? allowed : `a section with ${allowed}`),
  });
}
