/** The smaller one: `Math.min` takes no bigint. */
export function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

/** The larger one. */
export function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
