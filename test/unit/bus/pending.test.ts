import fc from "fast-check";
import { expect, test } from "vitest";
import { type Pending, PendingRequests } from "../../../src/bus/pending.ts";
import { EsplexError } from "../../../src/core/errors.ts";

function waiter(id: number, rejected: number[] = []): Pending {
  return { id, type: "reserve", deadlineMs: id, resolve: () => {}, reject: () => void rejected.push(id) };
}

/** Adds many, takes one by its place among those that wait, takes a foreign id, or lets time pass. */
const step = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("add" as const), value: fc.integer({ min: 1, max: 700 }) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("take" as const), value: fc.nat(5000) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("strange" as const), value: fc.nat(5000) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("expire" as const), value: fc.nat(1500) }) },
);

test("behaves as a map from id to request, also when old ones stay for thousands of newer ones", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const pending = new PendingRequests();
      const model = new Map<number, Pending>();
      for (const { kind, value } of steps) {
        if (kind === "add") {
          for (let i = 0; i < value; i++) {
            const one = waiter(pending.nextId);
            expect(model.has(one.id)).toBe(false);
            model.set(one.id, one);
            pending.add(one);
          }
        } else if (kind === "expire") {
          const nowMs = ([...model.keys()][0] ?? 0) + value;
          const overdue = [...model.values()].filter(({ deadlineMs }) => deadlineMs <= nowMs);
          expect(pending.takeOverdue(nowMs)).toEqual(overdue);
          for (const { id } of overdue) model.delete(id);
        } else {
          const id = kind === "take" ? ([...model.keys()][value % model.size] ?? 1) : value;
          expect(pending.take(id)).toBe(model.get(id));
          model.delete(id);
        }
        expect(pending.size).toBe(model.size);
      }
    }),
  );
});

test("a second answer to the same request finds nobody", () => {
  const pending = new PendingRequests();
  const one = waiter(pending.nextId);
  pending.add(one);
  expect(pending.take(one.id)).toBe(one);
  expect(pending.take(one.id)).toBeUndefined();
  expect(pending.take(one.id + 1024)).toBeUndefined();
});

test("all that wait are rejected once, the oldest first", () => {
  const pending = new PendingRequests();
  const rejected: number[] = [];
  for (let i = 0; i < 3000; i++) pending.add(waiter(pending.nextId, rejected));
  pending.rejectAll(new EsplexError("bus.closed", "test"));
  pending.rejectAll(new EsplexError("bus.closed", "test"));
  expect(rejected).toEqual(Array.from({ length: 3000 }, (_, i) => i + 1));
  expect(pending.size).toBe(0);
});
