import type { SeededRandom } from "../fault/random.ts";

/** One piece of code under the fuzzer. A case is bytes, so that each can be printed and tried again. */
export interface Target {
  readonly name: string;
  /** A case: the same from the same random numbers. */
  make(random: SeededRandom): Uint8Array;
  /**
   * Tries one case; returns what became of it, to be counted. May throw `EsplexError` (a refusal, counted by its code);
   * anything else that it throws is a crash.
   */
  run(bytes: Uint8Array): readonly string[];
}
