import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  ConnectionTable,
  type ConnectionKey,
  type ConnectionTableLimits,
  type Presence,
} from "../../../src/steer/connection-table.ts";

/** Tiny, so that every limit is met. */
const LIMITS: ConnectionTableLimits = {
  maxEntries: 4,
  maxProvisionalPerPeer: 3,
  maxDoubtedPerPeer: 100,
  maxOpenedPerTarget: 2,
  provisionalIdleMs: 30,
  doubtAfterMs: 5,
  provisionalGraceMs: 10,
  arrivalMs: 2,
  confirmedIdleMs: 100,
  closingIdleMs: 20,
};
const ROOMY: ConnectionTableLimits = { ...LIMITS, maxEntries: 1000, maxProvisionalPerPeer: 100 };
const ACK = { sourcePort: 0, destinationPort: 0, syn: false, ack: true, fin: false, rst: false };
const SYN = { ...ACK, syn: true, ack: false };
const PEER = "192.0.2.10";
const key = (clientPort: number, client = PEER): ConnectionKey => ({
  client,
  clientPort,
  dvipa: "192.0.2.100",
  port: 80,
});
const states = (table: ConnectionTable): string[] => table.list().map((c) => `${c.client} ${c.clientPort} ${c.state}`);

/** A table with these confirmed connections of t1. */
function withConfirmed(ports: readonly number[], limits = LIMITS): ConnectionTable {
  const table = new ConnectionTable(limits);
  for (const port of ports) table.reported(key(port), "t1", 0);
  return table;
}

describe("a provisional entry", () => {
  it("is confirmed by its target's word and by nothing else", () => {
    const table = new ConnectionTable(LIMITS);
    table.add(key(1), "t1", PEER, 0);
    table.follow(key(1), ACK, 1);
    table.answered(key(1), { target: "t2", presence: "open", askedMs: 2 }, 2);
    table.answered(key(1), { target: "t1", presence: "halfOpen", askedMs: 2 }, 2);
    expect(states(table)).toEqual([`${PEER} 1 provisional`]);
    table.answered(key(1), { target: "t1", presence: "open", askedMs: 3 }, 3);
    expect(states(table)).toEqual([`${PEER} 1 confirmed`]);
  });

  it("is its target's, and being asked for that changes nothing", () => {
    const table = new ConnectionTable(LIMITS);
    table.add(key(1), "t1", PEER, 0);
    expect([table.targetOf(key(1)), table.targetOf(key(2))]).toEqual(["t1", null]);
    expect(table.expire(31)).toBe(1);
    expect(table.targetOf(key(1))).toBeNull();
  });

  it("is asked for soon, and again, until its target has an answer", () => {
    const table = new ConnectionTable(ROOMY);
    table.add(key(1), "t1", PEER, 0);
    expect(table.questions(99, 10)).toEqual([]);
    expect(table.questions(100, 10)).toMatchObject([{ clientPort: 1, target: "t1" }]);
    expect(table.questions(100, 10)).toEqual([]);
    expect(table.questions(500, 10)).toHaveLength(1);
    table.answered(key(1), { target: "t1", presence: "open", askedMs: 501 }, 501);
    expect(table.questions(100_000, 10)).toEqual([]);
    expect(table.questions(300_501, 10)).toHaveLength(1);
  });

  it("ends when nothing follows, or when its target still does not have it after the grace", () => {
    const table = new ConnectionTable(LIMITS);
    table.add(key(1), "t1", PEER, 0);
    table.add(key(2), "t1", PEER, 0);
    table.answered(key(2), { target: "t1", presence: "absent", askedMs: 9 }, 9);
    expect(table.size).toBe(2);
    table.answered(key(2), { target: "t1", presence: "absent", askedMs: 10 }, 10);
    expect(states(table)).toEqual([`${PEER} 1 provisional`]);
    expect(table.expire(29)).toBe(0);
    expect(table.expire(30)).toBe(1);
  });

  it("does not end while its SYN, repeated after the grace, may be on its way to the target", () => {
    const table = new ConnectionTable(LIMITS);
    table.add(key(1), "t1", PEER, 0);
    table.follow(key(1), SYN, 15);
    // Asked before the SYN, answered long after it; then asked while it waits for a lease.
    table.answered(key(1), { target: "t1", presence: "absent", askedMs: 14 }, 20);
    table.answered(key(1), { target: "t1", presence: "absent", askedMs: 16 }, 20);
    expect(table.follow(key(1), ACK, 20)).toMatchObject({ target: "t1" });
    table.answered(key(1), { target: "t1", presence: "absent", askedMs: 22 }, 22);
    expect(table.size).toBe(0);
  });
});

describe("a confirmed entry", () => {
  it("is not ended, moved or shortened by anything that is peeked", () => {
    const flags = fc.record({ syn: fc.boolean(), ack: fc.boolean(), fin: fc.boolean(), rst: fc.boolean() });
    fc.assert(
      fc.property(fc.array(flags, { maxLength: 20 }), (segments) => {
        const table = withConfirmed([1]);
        segments.forEach((segment, at) => {
          expect(table.follow(key(1), { ...ACK, ...segment }, at)).toMatchObject({ target: "t1", state: "confirmed" });
        });
        expect(table.openOn("t1")).toBe(1);
        expect(table.expire(99)).toBe(0);
      }),
    );
  });

  it("is never evicted: neither for a SYN nor for another target's report", () => {
    const table = withConfirmed([1, 2, 3, 4]);
    expect(table.add(key(5), "t1", PEER, 1)).toBe("tableFull");
    expect(table.reported(key(6), "t2", 1)).toBe(false);
    expect(states(table)).toEqual([1, 2, 3, 4].map((port) => `${PEER} ${port} confirmed`));
  });

  it("lingers for late segments when its target closes it, then gives its port to a new choice", () => {
    const table = withConfirmed([1]);
    expect(table.closed(key(1), "t2", 5)).toBe(false);
    expect(table.closed(key(1), "t1", 5)).toBe(true);
    expect(table.openOn("t1")).toBe(0);
    expect(table.follow(key(1), ACK, 6)?.target).toBe("t1");
    expect(table.follow(key(1), SYN, 7)).toBeNull();
    expect(table.size).toBe(0);
  });

  it("lingers for its time only, whoever keeps sending", () => {
    const table = withConfirmed([1]);
    table.closed(key(1), "t1", 5);
    for (let nowMs = 6; nowMs < 25; nowMs++) table.follow(key(1), ACK, nowMs);
    expect(table.expire(25)).toBe(1);
  });

  it("comes back from closing when it is used and its target has it", () => {
    const table = withConfirmed([1], ROOMY);
    table.closed(key(1), "t1", 0);
    expect(table.questions(10_000, 10)).toEqual([]);
    table.follow(key(1), ACK, 10_000);
    expect(table.questions(10_100, 10)).toHaveLength(1);
    table.answered(key(1), { target: "t1", presence: "open", askedMs: 10_101 }, 10_101);
    expect(states(table)).toEqual([`${PEER} 1 confirmed`]);
  });

  it("expires when it is idle and nobody answers for it, not when its target has it", () => {
    const table = withConfirmed([1, 2]);
    table.answered(key(2), { target: "t1", presence: "open", askedMs: 50 }, 50);
    expect(table.expire(100)).toBe(1);
    expect(table.expire(149)).toBe(0);
    expect(table.expire(150)).toBe(1);
  });

  it("goes when its target does not have it any more", () => {
    const table = withConfirmed([1]);
    table.answered(key(1), { target: "t1", presence: "absent", askedMs: 1 }, 1);
    expect(states(table)).toEqual([`${PEER} 1 closing`]);
  });
});

describe("a target's snapshot", () => {
  it("rebuilds the table; what it did not name is asked for", () => {
    const table = withConfirmed([1, 2], ROOMY);
    table.reported(key(9), "t2", 0);
    table.reported(key(2), "t1", 1000);
    table.reported(key(3), "t1", 1000);
    table.recheck("t1", 1000, 1000);
    expect(table.questions(1100, 10)).toMatchObject([{ clientPort: 1 }]);
  });

  it("does not take another target's connection", () => {
    const table = withConfirmed([1]);
    table.add(key(2), "t1", PEER, 0);
    expect(table.reported(key(1), "t2", 1)).toBe(false);
    expect(table.reported(key(2), "t2", 1)).toBe(false);
    expect(table.list().map(({ target }) => target)).toEqual(["t1", "t1"]);
  });
});

describe("under a SYN flood", () => {
  it("one peer's flood evicts its own entries, not another's", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 10 }), (flood, perPeer) => {
        const limits = { ...LIMITS, maxEntries: 8, maxProvisionalPerPeer: perPeer };
        const table = new ConnectionTable(limits);
        table.reported(key(1, "c"), "t1", 0);
        table.add(key(1, "b"), "t1", "b", 0);
        for (let port = 1; port <= flood; port++) table.add(key(port, "a"), "t1", "a", port);
        expect(table.follow(key(1, "b"), ACK, 99)).not.toBeNull();
        expect(table.follow(key(1, "c"), ACK, 99)).not.toBeNull();
        expect(table.list().filter(({ client }) => client === "a")).toHaveLength(Math.min(flood, perPeer, 6));
        // The newest of the flood are there: a real client among them can still connect.
        expect(table.follow(key(flood, "a"), ACK, 99)).not.toBeNull();
        expect(table.evicted).toBe(flood - Math.min(flood, perPeer, 6));
      }),
    );
  });

  it("by many source addresses of one peer, the peer pays", () => {
    const table = new ConnectionTable(LIMITS);
    table.add(key(1, "honest"), "t1", "honest", 0);
    for (let port = 1; port <= 50; port++) table.add(key(port, `inner ${port}`), "t1", "flooder", port);
    expect(table.follow(key(1, "honest"), ACK, 99)).not.toBeNull();
  });

  describe("by a peer whose connections do not come about", () => {
    const limits = { ...ROOMY, maxDoubtedPerPeer: 2 };
    const flooded = (presences: readonly Presence[], atMs = 5): ConnectionTable => {
      const table = new ConnectionTable(limits);
      presences.forEach((presence, at) => {
        table.add(key(at), "t1", PEER, 0);
        table.answered(key(at), { target: "t1", presence, askedMs: atMs }, atMs);
      });
      return table;
    };

    it.each<[string, Presence]>([
      ["wait for the end of the handshake", "halfOpen"],
      ["do not have them", "absent"],
    ])("no new ones pass while targets %s; what it has goes on, and others do not feel it", (_what, presence) => {
      const table = flooded(["open", presence, presence]);
      expect(table.add(key(10), "t1", PEER, 6)).toBe("tooManyHalfOpen");
      expect(table.add(key(10, "other"), "t1", "other", 6)).toBe("added");
      for (const port of [0, 2]) expect(table.follow(key(port), ACK, 6)).not.toBeNull();
      expect(table.evicted).toBe(0);
    });

    it("they pass again when one has come about after all, has ended, or is given up", () => {
      const ways: ((table: ConnectionTable) => unknown)[] = [
        (table) => table.answered(key(0), { target: "t1", presence: "open", askedMs: 6 }, 6),
        (table) => table.answered(key(0), { target: "t1", presence: "closing", askedMs: 6 }, 6),
        (table) => table.closed(key(0), "t1", 6),
        (table) => table.answered(key(0), { target: "t1", presence: "absent", askedMs: 10 }, 10),
        (table) => table.expire(40),
      ];
      for (const way of ways) {
        const table = flooded(["halfOpen", "halfOpen"]);
        way(table);
        expect(table.add(key(10), "t1", PEER, 41)).toBe("added");
      }
    });

    it("a SYN that is repeated passes, as a client's is and a flood's is not", () => {
      const table = flooded(["halfOpen", "halfOpen"]);
      const tries = (port: number, ...timesMs: number[]): string[] =>
        timesMs.map((nowMs) => table.add(key(port), "t1", PEER, nowMs));
      expect(tries(10, 1_000, 1_400, 2_000)).toEqual(["tooManyHalfOpen", "tooManyHalfOpen", "added"]);
      expect(tries(11, 2_000, 6_001, 6_002)).toEqual(["tooManyHalfOpen", "tooManyHalfOpen", "tooManyHalfOpen"]);
    });

    it("a handshake has its time, and only the connection's own target is heard", () => {
      expect(flooded(["halfOpen", "halfOpen"], 4).add(key(10), "t1", PEER, 6)).toBe("added");
      const table = flooded(["halfOpen"]);
      for (const nowMs of [6, 7]) table.answered(key(0), { target: "t1", presence: "halfOpen", askedMs: nowMs }, nowMs);
      table.add(key(1), "t1", PEER, 0);
      table.answered(key(1), { target: "t2", presence: "halfOpen", askedMs: 8 }, 8);
      expect(table.add(key(10), "t1", PEER, 9)).toBe("added");
    });
  });

  it("what is over goes first", () => {
    const table = withConfirmed([1, 2]);
    table.add(key(3), "t1", "a", 0);
    table.add(key(4), "t1", "b", 0);
    table.closed(key(1), "t1", 1);
    expect(table.add(key(5), "t1", "c", 2)).toBe("added");
    expect(states(table).sort()).toEqual(
      [3, 4, 5]
        .map((p) => `${PEER} ${p} provisional`)
        .concat(`${PEER} 2 confirmed`)
        .sort(),
    );
  });
});

type Step =
  | {
      readonly do: "segment";
      readonly port: number;
      readonly peer: string;
      readonly syn: boolean;
      readonly fin: boolean;
    }
  | { readonly do: "answer"; readonly port: number; readonly target: string; readonly presence: Presence }
  | { readonly do: "closed" | "reported" | "opened"; readonly port: number; readonly target: string }
  | { readonly do: "expire" | "ask" };

const port = fc.integer({ min: 1, max: 7 });
const target = fc.constantFrom("t1", "t2");
const presence = fc.constantFrom<Presence>("open", "halfOpen", "closing", "absent");
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constant("segment" as const),
    port,
    peer: fc.constantFrom("a", "b"),
    syn: fc.boolean(),
    fin: fc.boolean(),
  }),
  fc.record({ do: fc.constant("answer" as const), port, target, presence }),
  fc.record({ do: fc.constantFrom("closed" as const, "reported" as const, "opened" as const), port, target }),
  fc.record({ do: fc.constantFrom("expire" as const, "ask" as const) }),
);

describe("a connection that a target has opened", () => {
  it("is its target's from the first answer on, and of nobody who says so later", () => {
    const table = new ConnectionTable(ROOMY);
    expect(table.opened(key(1), "t1", 0)).toBe("added");
    expect(table.opened(key(1), "t2", 1)).toBe("taken");
    expect(table.opened(key(1), "t1", 2)).toBe("added");
    expect(table.follow(key(1), { ...SYN, ack: true }, 3)).toMatchObject({ target: "t1", state: "confirmed" });
    expect(table.openOn("t1")).toBe(1);
  });

  it("takes no client's connection", () => {
    const table = new ConnectionTable(ROOMY);
    table.add(key(1), "t1", PEER, 0);
    table.reported(key(2), "t1", 0);
    for (const port of [1, 2]) expect(table.opened(key(port), "t2", 1)).toBe("taken");
  });

  it("is asked for soon: its socket may be gone by the time that it is entered", () => {
    const table = new ConnectionTable(ROOMY);
    table.opened(key(1), "t1", 0);
    expect(table.questions(100, 10)).toMatchObject([{ clientPort: 1, target: "t1" }]);
    table.answered(key(1), { target: "t1", presence: "open", askedMs: 110 }, 110);
    expect(table.questions(100_000, 10)).toEqual([]);
    table.opened(key(2), "t1", 200);
    table.answered(key(2), { target: "t1", presence: "absent", askedMs: 300 }, 300);
    expect(states(table)).toEqual([`${PEER} 1 confirmed`, `${PEER} 2 closing`]);
  });

  it("may have a port that is closing elsewhere, or its own again", () => {
    const table = new ConnectionTable(ROOMY);
    table.opened(key(1), "t1", 0);
    table.closed(key(1), "t1", 1);
    expect(table.opened(key(1), "t2", 2)).toBe("added");
    table.closed(key(1), "t2", 3);
    expect(table.opened(key(1), "t2", 4)).toBe("added");
    expect(table.list()).toMatchObject([{ target: "t2", state: "confirmed" }]);
  });

  it("is one of few at a time of each target, whatever the table has room for", () => {
    const table = new ConnectionTable(ROOMY);
    for (const port of [1, 2]) expect(table.opened(key(port), "t1", 0)).toBe("added");
    expect(table.opened(key(3), "t1", 0)).toBe("tooManyOpened");
    expect(table.opened(key(3), "t2", 0)).toBe("added");
    table.closed(key(1), "t1", 1);
    expect(table.opened(key(4), "t1", 2)).toBe("added");
    expect(table.opened(key(5), "t1", 2)).toBe("tooManyOpened");
    table.expire(1_000);
    expect(table.opened(key(5), "t1", 1_000)).toBe("added");
  });

  it("finds no room where all is confirmed, and takes that of a provisional one", () => {
    const full = withConfirmed([1, 2, 3, 4]);
    expect(full.opened(key(5), "t1", 1)).toBe("tableFull");
    const table = withConfirmed([1, 2, 3]);
    table.add(key(4), "t1", PEER, 0);
    expect(table.opened(key(5), "t1", 1)).toBe("added");
    expect(states(table)).toEqual([1, 2, 3, 5].map((port) => `${PEER} ${port} confirmed`));
  });
});

describe("any history", () => {
  it("keeps the limits and the sums, and leaves confirmed entries to their target", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const table = new ConnectionTable(LIMITS);
        steps.forEach((one, at) => {
          const before = new Map(table.list().map((c) => [c.clientPort, { ...c }]));
          play(table, one, at);
          const after = new Map(table.list().map((c) => [c.clientPort, c]));
          expect(table.size).toBeLessThanOrEqual(LIMITS.maxEntries);
          expect(after.size).toBe(table.size);
          for (const name of ["t1", "t2"]) {
            const open = table.list().filter((c) => c.target === name && c.state !== "closing");
            expect(table.openOn(name)).toBe(open.length);
          }
          for (const [clientPort, { state, target: owner }] of before) {
            if (state !== "confirmed" || one.do === "expire") continue;
            if ("target" in one && one.target === owner && one.port === clientPort) continue;
            expect(after.get(clientPort)).toMatchObject({ state: "confirmed", target: owner });
          }
        });
      }),
      { numRuns: 500 },
    );
  });
});

function play(table: ConnectionTable, one: Step, nowMs: number): void {
  switch (one.do) {
    case "segment": {
      const tcp = { ...ACK, syn: one.syn, ack: !one.syn, fin: one.fin };
      const found = table.follow(key(one.port), tcp, nowMs);
      if (found === null && one.syn) table.add(key(one.port), nowMs % 2 === 0 ? "t1" : "t2", one.peer, nowMs);
      return;
    }
    case "answer":
      table.answered(key(one.port), { ...one, askedMs: nowMs }, nowMs);
      return;
    case "closed":
    case "reported":
    case "opened":
      table[one.do](key(one.port), one.target, nowMs);
      return;
    case "expire":
      table.expire(nowMs);
      return;
    case "ask":
      expect(table.questions(nowMs, 2).length).toBeLessThanOrEqual(2);
  }
}
