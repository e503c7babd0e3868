import { expect, it } from "vitest";
import { mapInParts } from "../../../src/core/parts.ts";

it("works on so many items at once, and keeps their order", async () => {
  let running = 0;
  let most = 0;
  const results = await mapInParts([5, 4, 3, 2, 1, 0, 7], 3, async (item) => {
    most = Math.max(most, ++running);
    for (let i = 0; i < item; i++) await Promise.resolve();
    running--;
    return item * 10;
  });
  expect(results).toEqual([50, 40, 30, 20, 10, 0, 70]);
  expect(most).toBe(3);
});

it("stops at the first part that fails", async () => {
  const begun: number[] = [];
  const work = (item: number): Promise<number> => {
    begun.push(item);
    return item === 2 ? Promise.reject(new Error("two")) : Promise.resolve(item);
  };
  await expect(mapInParts([1, 2, 3, 4], 2, work)).rejects.toThrow("two");
  expect(begun).toEqual([1, 2]);
});
