import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { AH_SUITES, ESP_SUITES } from "../../../src/sa/suite.ts";
import { Allocator } from "../../../src/sequence/allocator.ts";
import type { AllocatorEvents } from "../../../src/sequence/allocator-options.ts";
import { hasCounterNonce, nonceBudgetEnd } from "../../../src/sequence/nonce-budget.ts";
import { FakeClock, FakeDisk, FakeStore, settled } from "./fakes.ts";

const SA = "a".repeat(32);
const DVIPA = "192.0.2.100";
const RISK_TIMES_2_65 = 1n << 33n;

/** Whether the collision bound of K states below `end` is at most 2^-32: by XORs per pair of states, or by pairs of packets. */
function isWithinRisk(instances: number, end: bigint): boolean {
  const k = BigInt(instances);
  let power = 1n;
  while (power < end) power *= 2n;
  return k * (k - 1n) * power <= RISK_TIMES_2_65 || end * end <= RISK_TIMES_2_65;
}

describe("the arithmetic", () => {
  test.each([
    [0, 1n << 33n],
    [1, 1n << 33n],
    [2, 1n << 31n],
    [3, (1n << 33n) / 9n],
    [4, 1n << 29n],
    [5, 1n << 28n],
    [8, 1n << 27n],
    [1000, 92_681n],
  ])("%i instances: numbers end at %s", (instances, end) => {
    expect(nonceBudgetEnd(instances)).toBe(end);
  });

  test("keeps the proved bound, and the design's where states limit, for every number of instances", () => {
    for (let k = 1; k <= 5000; k++) {
      const end = nonceBudgetEnd(k);
      expect(isWithinRisk(k, end)).toBe(true);
      if (end > 92_681n) expect(BigInt(k * k) * end).toBeLessThanOrEqual(RISK_TIMES_2_65);
      expect(end).toBeLessThanOrEqual(nonceBudgetEnd(k - 1));
    }
  });

  test("XORs of numbers below E are as many as the power of two above E, not E: why E alone is not enough", () => {
    for (let end = 2; end < 70; end++) {
      const xors = new Set<number>();
      for (let a = 1; a < end; a++) for (let b = 1; b < end; b++) xors.add(a ^ b);
      expect(xors.size).toBeLessThanOrEqual(2 ** Math.ceil(Math.log2(end)));
    }
    const half = new Set([0, 1, 2, 3, 4].flatMap((a) => [0, 1, 2, 3, 4].map((b) => a ^ b)));
    expect(half.size).toBe(8);
  });

  test("ciphers whose IV is the number are under the budget: of all suites, all but CBC and null", () => {
    const under = new Set(ESP_SUITES.filter(hasCounterNonce).map(({ kind }) => kind));
    expect([...under].sort()).toEqual(["aes-ccm-16", "aes-ctr", "aes-gcm-16", "chacha20-poly1305"]);
    const free = new Set(
      [...ESP_SUITES, ...AH_SUITES].filter((suite) => !hasCounterNonce(suite)).map(({ kind }) => kind),
    );
    expect([...free].sort()).toEqual(["aes-cbc", "ah", "null"].sort());
  });
});

let disk: FakeDisk;
let store: FakeStore;
let rekeys: number;
/** End of the last grant of all, over restarts of the service. */
let used: bigint;
let allocator: Allocator;

function start(): void {
  store = new FakeStore(disk);
  store.auto = true;
  rekeys = 0;
  const events: AllocatorEvents = {
    recall: () => {},
    granted: (_request, { end }) => {
      used = end;
    },
    rekeySoon: () => {
      rekeys++;
    },
    stopped: () => {},
  };
  const limits = { ceilingStepNumbers: 1000n };
  allocator = new Allocator({ store, clock: new FakeClock(), counters: new Counters(), limits, events });
}

async function open(firstNumber: bigint, counterNonce = true, esn = false): Promise<void> {
  disk = new FakeDisk();
  used = firstNumber;
  start();
  const epoch = await allocator.own(DVIPA, "d1");
  await allocator.register({ sa: SA, dvipa: DVIPA, epoch, firstNumber, windowPackets: 64, esn, counterNonce });
}

const count = (node: string, total: number, incarnation = "a"): Promise<void> =>
  allocator.countInstances({ sa: SA, node, incarnation, epoch: 1n, count: total });

/** End of the grant, or the code of the refusal. */
function reserve(node: string, numbers: number): bigint | string | null {
  let result: bigint | string | null = null;
  allocator.reserve({ sa: SA, node, epoch: 1n, count: numbers, nextUnsent: 0n }, (outcome) => {
    result = "grant" in outcome ? outcome.grant.end : outcome.refused.code;
  });
  return result;
}

const line = () => allocator.lines()[0];

describe("A9 the allocator", () => {
  beforeEach(() => open(1n));

  test("sums what the nodes' processes report; a report that comes twice counts once", async () => {
    await count("t1", 1);
    await count("t1", 1);
    await count("t2", 2);
    await count("t2", 1);
    expect(line()?.instances.total).toBe(3);
    await count("t2", 1, "restarted");
    expect(line()?.instances.total).toBe(4);
    expect(line()?.end).toBe(nonceBudgetEnd(4));
  });

  test("resolves only when the count is durable, also for a repeated report", async () => {
    store.auto = false;
    let counted = 0;
    void count("t1", 1).then(() => counted++);
    void count("t1", 1).then(() => counted++);
    await settled();
    expect([counted, line()?.instances.total]).toEqual([0, 1]);
    store.flush();
    await settled();
    expect(counted).toBe(2);
  });

  test("knows after a restart what it had counted, and counts the same process no second time", async () => {
    await count("t1", 2);
    await count("t2", 1);
    await count("t2", 1, "restarted");
    start();
    expect(line()?.instances.total).toBe(4);
    await count("t1", 2);
    await count("t2", 1, "restarted");
    expect(line()?.instances.total).toBe(4);
    await count("t1", 3);
    expect(line()?.instances.total).toBe(5);
  });

  test("a new epoch keeps the count", async () => {
    await count("t1", 3);
    const epoch = await allocator.own(DVIPA, "d2");
    await expect(count("t1", 4)).rejects.toMatchObject({ code: "cluster.staleEpoch" });
    const registration = { sa: SA, dvipa: DVIPA, epoch, firstNumber: 1n, windowPackets: 64, esn: false };
    await allocator.register({ ...registration, counterNonce: true });
    start();
    expect(line()?.instances.total).toBe(3);
  });

  test("an instance that the spent numbers have no room for is refused and not counted; a rekey is asked for at once", async () => {
    await open(nonceBudgetEnd(4) + 1n);
    await count("t1", 1);
    await count("t2", 1);
    await count("t3", 1);
    expect(reserve("t1", 10)).toBe(nonceBudgetEnd(4) + 11n);
    await expect(count("t4", 1)).rejects.toMatchObject({ code: "cluster.exhausted" });
    expect(rekeys).toBe(1);
    expect(reserve("t1", 10)).toBe(nonceBudgetEnd(4) + 21n);
    expect(line()?.instances.total).toBe(3);
  });

  test("more instances end the numbers earlier: the last grant is short, the next is refused, a rekey was asked for", async () => {
    await open(nonceBudgetEnd(3) - 8n);
    await count("t1", 1);
    expect(rekeys).toBe(0);
    await count("t2", 2);
    expect(rekeys).toBe(1);
    expect(reserve("t1", 32)).toBe(nonceBudgetEnd(3));
    expect(reserve("t1", 32)).toBe("cluster.exhausted");
  });

  test("CBC ends where the numbers end, whatever the count; ESN ends at the budget", async () => {
    await open((1n << 32n) - 8n, false);
    await count("t1", 1_000_000);
    expect(reserve("t1", 32)).toBe(1n << 32n);
    await open((1n << 33n) - 8n, true, true);
    expect(reserve("t1", 32)).toBe(1n << 33n);
  });

  test("any order of restarts, reports and grants: every state that may send is counted, and the risk stays below 2^-32", async () => {
    const nodes = ["t1", "t2", "t3"];
    const action = fc.record({
      node: fc.nat(2),
      act: fc.constantFrom("make", "grant", "restart", "service"),
      late: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(action, { minLength: 5, maxLength: 60 }),
        fc.integer({ min: 1, max: 7 }),
        async (actions, near) => {
          await open(nonceBudgetEnd(near) - 100n);
          const made = [0, 0, 0];
          const incarnations = [0, 0, 0];
          let sending = 0;
          let refused = 0;
          for (const { node, act, late } of actions) {
            const name = nodes[node] ?? "";
            if (act === "restart") [made[node], incarnations[node]] = [0, (incarnations[node] ?? 0) + 1];
            if (act === "service") start();
            if (act === "grant") reserve(name, 40);
            if (act !== "make") continue;
            const total = (made[node] ?? 0) + 1;
            // The service may die after the write, before the node hears of it: then it asks again.
            const done = await count(name, total, String(incarnations[node])).then(
              () => true,
              () => false,
            );
            if (!done) refused++;
            else if (late) start();
            else [made[node], sending] = [total, sending + 1];
          }
          await settled();
          expect(line()?.instances.total).toBeGreaterThanOrEqual(sending);
          expect(isWithinRisk(sending, used)).toBe(true);
          expect(refused === 0 || rekeys > 0 || actions.some(({ act, late }) => act === "service" || late)).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });
});
