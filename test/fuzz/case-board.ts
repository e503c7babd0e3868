/** Longest case that fits. */
const CASE_BYTES = 65_536;
const HEAD_WORDS = 4;

/** Places of the head: how often a case began, its number, its target, its length. */
const [BEGUN, NUMBER, TARGET, LENGTH] = [0, 1, 2, 3];

/** The case that a worker is at, readable while the worker hangs in it. */
export class CaseBoard {
  readonly buffer: SharedArrayBuffer;
  readonly #head: Int32Array;
  readonly #bytes: Uint8Array;

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(4 * HEAD_WORDS + CASE_BYTES)) {
    this.buffer = buffer;
    this.#head = new Int32Array(buffer, 0, HEAD_WORDS);
    this.#bytes = new Uint8Array(buffer, 4 * HEAD_WORDS);
  }

  /** Changes with every case; 0 when none runs. */
  get begun(): number {
    return Atomics.load(this.#head, BEGUN);
  }

  begin(number: number, target: number, bytes: Uint8Array): void {
    this.#bytes.set(bytes.subarray(0, CASE_BYTES));
    Atomics.store(this.#head, NUMBER, number);
    Atomics.store(this.#head, TARGET, target);
    Atomics.store(this.#head, LENGTH, Math.min(bytes.length, CASE_BYTES));
    Atomics.store(this.#head, BEGUN, number + 1);
  }

  end(): void {
    Atomics.store(this.#head, BEGUN, 0);
  }

  /** Only while the worker cannot go on. */
  read(): { readonly number: number; readonly target: number; readonly bytes: Uint8Array } {
    const length = Atomics.load(this.#head, LENGTH);
    return {
      number: Atomics.load(this.#head, NUMBER),
      target: Atomics.load(this.#head, TARGET),
      bytes: this.#bytes.slice(0, length),
    };
  }
}
