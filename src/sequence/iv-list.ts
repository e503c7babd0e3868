/**
 * The IVs of one key as 64-bit values, 8 bytes each, to be searched for repetitions once all are there. Sorting a plain
 * array takes a tenth of the memory of a set.
 */
export class IvList {
  #values = new BigUint64Array(1024);
  #length = 0;

  add(iv: bigint): void {
    if (this.#length === this.#values.length) {
      const grown = new BigUint64Array(2 * this.#length);
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[this.#length++] = iv;
  }

  /** Each value that came again, once per repetition. */
  *repeated(): Generator<bigint> {
    const sorted = this.#values.subarray(0, this.#length).sort();
    for (let i = 1; i < sorted.length; i++) {
      const value = sorted[i];
      if (value !== undefined && value === sorted[i - 1]) yield value;
    }
  }
}
