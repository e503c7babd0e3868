/** JSON lines between a test and its workers; bigints travel as `{"$n": "…"}`, bytes as `{"$b": "hex"}`. */

export function encodeLine(value: unknown): string {
  const text = JSON.stringify(value, (_key, item: unknown) => {
    if (typeof item === "bigint") return { $n: item.toString() };
    if (item instanceof Uint8Array) return { $b: Buffer.from(item).toString("hex") };
    return item;
  });
  return `${text}\n`;
}

export function decodeLine(line: string): unknown {
  return JSON.parse(line, (_key, item: unknown): unknown => {
    if (typeof item !== "object" || item === null) return item;
    if ("$n" in item && typeof item.$n === "string") return BigInt(item.$n);
    if ("$b" in item && typeof item.$b === "string") return new Uint8Array(Buffer.from(item.$b, "hex"));
    return item;
  }) as unknown;
}
