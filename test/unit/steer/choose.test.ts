import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Affinity } from "../../../src/steer/affinity.ts";
import { Chooser, type Candidate, type Distribution } from "../../../src/steer/choose.ts";

const chooser = (changes: Partial<Distribution>): Chooser =>
  new Chooser({ method: "roundRobin", weights: {}, affinitySeconds: 0, ...changes });
const idle = (...names: readonly string[]): Candidate[] => names.map((name) => ({ name, connections: 0, load: 0 }));
const times = (count: number, choose: () => string | null): (string | null)[] => Array.from({ length: count }, choose);
const countOf = (chosen: readonly (string | null)[], name: string): number =>
  chosen.filter((one) => one === name).length;

describe("every method", () => {
  it.each(["roundRobin", "weighted", "leastConnections", "load"] as const)(
    "%s: only candidates, null without any",
    (method) => {
      const one = chooser({ method, weights: { t9: 100 } });
      expect(one.choose("c", [], 0)).toBeNull();
      expect(new Set(times(9, () => one.choose("c", idle("t1", "t2"), 0)))).toEqual(new Set(["t1", "t2"]));
      expect(one.choose("c", idle("t2"), 0)).toBe("t2");
    },
  );
});

describe("round robin", () => {
  it("goes on in turn when a target leaves and comes back", () => {
    const one = chooser({});
    const all = ["t1", "t2", "t3"];
    expect(times(4, () => one.choose("c", idle(...all), 0))).toEqual(["t1", "t2", "t3", "t1"]);
    expect(one.choose("c", idle("t1", "t3"), 0)).toBe("t3");
    expect(times(2, () => one.choose("c", idle(...all), 0))).toEqual(["t1", "t2"]);
  });
});

describe("weights", () => {
  it("give each target its share in every round, spread", () => {
    const weight = fc.integer({ min: 1, max: 9 });
    fc.assert(
      fc.property(weight, weight, weight, (a, b, c) => {
        const one = chooser({ method: "weighted", weights: { t1: a, t2: b, t3: c } });
        const round = times(a + b + c, () => one.choose("c", idle("t1", "t2", "t3"), 0));
        expect(["t1", "t2", "t3"].map((name) => countOf(round, name))).toEqual([a, b, c]);
      }),
    );
    const one = chooser({ method: "weighted", weights: { t1: 3 } });
    expect(times(4, () => one.choose("c", idle("t1", "t2"), 0))).toEqual(["t1", "t1", "t2", "t1"]);
  });

  it("a target that was away is not owed what it missed", () => {
    const one = chooser({ method: "weighted" });
    times(2, () => one.choose("c", idle("t1", "t2"), 0));
    times(100, () => one.choose("c", idle("t1"), 0));
    expect(
      countOf(
        times(10, () => one.choose("c", idle("t1", "t2"), 0)),
        "t2",
      ),
    ).toBe(5);
  });
});

describe("least connections", () => {
  it("levels out, by weight", () => {
    const one = chooser({ method: "leastConnections", weights: { t1: 2 } });
    const have: Record<string, number> = { t1: 0, t2: 7, t3: 0 };
    for (let i = 0; i < 33; i++) {
      const candidates = Object.entries(have).map(([name, connections]) => ({ name, connections, load: 0 }));
      const chosen = one.choose("c", candidates, 0) ?? "";
      have[chosen] = (have[chosen] ?? 0) + 1;
    }
    expect(have).toEqual({ t1: 20, t2: 10, t3: 10 });
  });
});

describe("load", () => {
  it("gives less to who is loaded, something even to who is full, and not all to the idlest", () => {
    const one = chooser({ method: "load" });
    const candidates = [
      { name: "t1", connections: 0, load: 0 },
      { name: "t2", connections: 0, load: 0.5 },
      { name: "t3", connections: 0, load: 1 },
    ];
    const chosen = times(310, () => one.choose("c", candidates, 0));
    expect(["t1", "t2", "t3"].map((name) => countOf(chosen, name))).toEqual([200, 100, 10]);
  });
});

describe("affinity", () => {
  it("sends a client where its last connection went, until its time is over", () => {
    const one = chooser({ affinitySeconds: 10 });
    const all = idle("t1", "t2", "t3");
    expect(one.choose("a", all, 0)).toBe("t1");
    expect(one.choose("b", all, 0)).toBe("t2");
    expect(one.choose("a", all, 9_000)).toBe("t1");
    expect(one.choose("a", all, 18_999)).toBe("t1");
    expect(one.choose("b", all, 10_000)).toBe("t3");
  });

  it("does not hold to a target that cannot take the connection", () => {
    const one = chooser({ affinitySeconds: 10 });
    expect(one.choose("a", idle("t1", "t2"), 0)).toBe("t1");
    expect(one.choose("a", idle("t2"), 1)).toBe("t2");
    expect(one.choose("a", idle("t1", "t2"), 2)).toBe("t2");
  });

  it("remembers so many clients and no more, the latest", () => {
    fc.assert(
      fc.property(fc.array(fc.record({ client: fc.integer({ min: 1, max: 6 }), pause: fc.nat(8) })), (visits) => {
        const affinity = new Affinity(10, 3);
        let nowMs = 0;
        for (const { client, pause } of visits) {
          nowMs += pause;
          affinity.set(String(client), `t${client}`, nowMs);
          expect(affinity.size).toBeLessThanOrEqual(3);
          expect(affinity.of(String(client), nowMs + 9)).toBe(`t${client}`);
          expect(affinity.of(String(client), nowMs + 10)).toBeNull();
        }
      }),
    );
  });
});
