import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConnectionTable, type ConnectionKey } from "../../../src/steer/connection-table.ts";

const LIMITS = { maxEntries: 3, provisionalIdleMs: 10, establishedIdleMs: 100, closingIdleMs: 20 };
const ACK = { sourcePort: 0, destinationPort: 0, syn: false, ack: true, fin: false, rst: false };
const key = (clientPort: number): ConnectionKey => ({
  client: "192.0.2.10",
  clientPort,
  dvipa: "192.0.2.100",
  port: 80,
});

describe("ConnectionTable", () => {
  it("expires by state and idle time", () => {
    const table = new ConnectionTable(LIMITS);
    table.add(key(1), "t1", 0);
    table.add(key(2), "t2", 0);
    table.follow(key(2), ACK, 0);
    expect(table.expire(9)).toBe(0);
    expect(table.expire(10)).toBe(1);
    expect(table.list().map((c) => c.clientPort)).toEqual([2]);
    table.follow(key(2), { ...ACK, fin: true }, 50);
    expect(table.expire(69)).toBe(0);
    expect(table.expire(70)).toBe(1);
  });

  it("makes room by dropping what nothing followed before what is in use", () => {
    const table = new ConnectionTable(LIMITS);
    for (const port of [1, 2, 3]) table.add(key(port), "t1", port);
    table.follow(key(1), ACK, 5);
    expect(table.add(key(4), "t1", 6)?.clientPort).toBe(2);
    expect(table.follow(key(1), ACK, 7)?.target).toBe("t1");
  });

  it("removes the connections of one target", () => {
    const table = new ConnectionTable(LIMITS);
    table.add(key(1), "t1", 0);
    table.add(key(2), "t2", 0);
    expect(table.removeWhere((c) => c.target === "t1")).toBe(1);
    expect(table.list().map((c) => c.target)).toEqual(["t2"]);
  });

  it("never holds more than its limit, and each connection has one target as long as it stays", () => {
    const step = fc.record({ port: fc.integer({ min: 1, max: 6 }), fin: fc.boolean(), syn: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const table = new ConnectionTable(LIMITS);
        steps.forEach(({ port, fin, syn }, nowMs) => {
          const before = table.list().find((c) => c.clientPort === port);
          const found = table.follow(key(port), { ...ACK, fin, syn, ack: !syn }, nowMs);
          if (found !== null) expect(found.target).toBe(before?.target);
          else table.add(key(port), `t${nowMs}`, nowMs);
          expect(table.size).toBeLessThanOrEqual(LIMITS.maxEntries);
          expect(table.list()).toHaveLength(table.size);
          for (const { target } of table.list()) {
            const open = table.list().filter((c) => c.target === target && c.state !== "closing");
            expect(table.openOn(target)).toBe(open.length);
          }
        });
      }),
    );
  });
});
