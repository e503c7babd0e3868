/**
 * The blocks of numbers that callers were given. A line is one caller's alone, who waits for each answer: its blocks must rise,
 * over the whole run and whatever connection they came by.
 */
export class Blocks {
  readonly #ends: number[] = [];

  /** `[first, end)` of line number `line`. Throws when a number is given twice, or none. */
  add(line: number, first: number, end: number): void {
    const before = this.#ends[line] ?? 0;
    if (first < before || end <= first) {
      throw new Error(`line ${line}: [${first}, ${end}) was given after ${before} was reached`);
    }
    this.#ends[line] = end;
  }
}
