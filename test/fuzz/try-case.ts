import { EsplexError } from "../../src/core/errors.ts";
import type { Target } from "./target.ts";

/** What became of one case. */
export type Verdict =
  /** `target/reason`, each as often as it happened. */
  | { readonly kind: "ok"; readonly reasons: readonly string[] }
  /** Something else than our error was thrown. */
  | { readonly kind: "crash"; readonly stack: string };

/** Runs one case and judges it. */
export function tryCase(target: Target, bytes: Uint8Array): Verdict {
  try {
    return { kind: "ok", reasons: target.run(bytes) };
  } catch (error) {
    if (error instanceof EsplexError) return { kind: "ok", reasons: [`refused.${error.code}`] };
    return { kind: "crash", stack: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}
