/** Random histories of the whole world leave a ledger that proves what happened; a planted fault makes it fail. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeLedgerRecord } from "../../../src/sequence/ledger-record.ts";
import { type LedgerVerdict, LedgerVerifier } from "../../../src/sequence/ledger-verifier.ts";
import { PEER, SPI, World } from "./world.ts";

type Action = (world: World) => void | Promise<void>;

const node = fc.nat(2);
const actions: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 6,
    arbitrary: node.map(
      (i): Action =>
        (world) =>
          world.send(world.node(i)),
    ),
  },
  {
    weight: 3,
    arbitrary: node.map(
      (i): Action =>
        (world) =>
          world.feed(world.node(i), { kind: "want", nowMs: 0 }),
    ),
  },
  {
    weight: 10,
    arbitrary: node.map(
      (i): Action =>
        (world) =>
          talk(world, i),
    ),
  },
  { weight: 2, arbitrary: fc.constant<Action>((world) => world.advance(300)) },
  { weight: 1, arbitrary: fc.constant<Action>((world) => world.advance(4000)) },
  {
    weight: 1,
    arbitrary: node.map(
      (i): Action =>
        (world) =>
          world.cut(world.node(i)),
    ),
  },
  {
    weight: 2,
    arbitrary: node.map(
      (i): Action =>
        (world) =>
          world.connect(world.node(i)),
    ),
  },
  {
    weight: 1,
    arbitrary: node.map(
      (i): Action =>
        (world) =>
          world.crashAgent(world.node(i)),
    ),
  },
  {
    weight: 2,
    arbitrary: node.map(
      (i): Action =>
        (world) =>
          world.startAgent(world.node(i)),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.nat(2).map(
      (lost): Action =>
        (world) =>
          world.crashService(lost),
    ),
  },
);

async function talk(world: World, index: number): Promise<void> {
  const one = world.node(index);
  for (let i = 0; i < 6; i++) {
    world.kernelEvent(one);
    await world.deliverUp(one);
    await world.flush();
    world.deliverDown(one);
  }
}

async function history(list: readonly Action[]): Promise<World> {
  const world = await World.create();
  for (const action of list) await action(world);
  return world;
}

interface Packet {
  readonly number: bigint;
  readonly iv: bigint;
}

const packetsOf = (world: World): Packet[] => [...world.sent].map((number) => ({ number, iv: number ^ 0xa5n }));

function verdictOf(ledger: readonly string[], packets: readonly Packet[]): LedgerVerdict {
  const verifier = new LedgerVerifier();
  for (const [index, text] of ledger.entries()) {
    // The world's cipher makes no IV from the number; here it does.
    verifier.take(decodeLedgerRecord(text.replace(" free ", " counter ")), `record ${index}`);
  }
  for (const { number, iv } of packets) {
    const sequence = Number(number & 0xffff_ffffn);
    verifier.takePacket({ protocol: "esp", source: "192.0.2.100", destination: PEER, spi: SPI, sequence, iv, atMs: 1 });
  }
  return verifier.verdict();
}

const RUNS = Number(process.env["PROPERTY_RUNS"] ?? 300);
const histories = fc.array(actions, { minLength: 60, maxLength: 250, size: "max" });

test("every history is proved, and its numbers add up", async () => {
  let [granted, used, burnt] = [0n, 0n, 0n];
  await fc.assert(
    fc.asyncProperty(histories, async (list) => {
      const world = await history(list);
      const verdict = verdictOf(world.ledger, packetsOf(world));
      expect(verdict).toMatchObject({ proven: true, named: [], packets: world.sent.size });
      expect(verdict.used + BigInt(verdict.unrecorded)).toBe(BigInt(world.sent.size));
      expect(verdict.outstanding).toBeGreaterThanOrEqual(0n);
      if (!world.seen.serviceCrashed) expect(verdict.unrecorded).toBe(0);
      granted += verdict.granted;
      used += verdict.used;
      burnt += Object.values(verdict.burnt).reduce((sum, numbers) => sum + numbers, 0n);
    }),
    { numRuns: RUNS },
  );
  // The histories are about something.
  expect(granted > 0n && used > 0n && burnt > 0n).toBe(true);
});

test("a fault planted in any history is found", async () => {
  await fc.assert(
    fc.asyncProperty(histories, fc.nat(), async (list, pick) => {
      const world = await history(list);
      const { ledger } = world;
      const packets = packetsOf(world);
      const one = <T>(from: readonly T[]): T | undefined => from[pick % Math.max(1, from.length)];

      const at = (kind: string): number | undefined =>
        one([...ledger.keys()].filter((i) => ledger[i]?.startsWith(`${kind} `) === true));
      for (const [kind, rule] of [
        ["grant", "(L1)"],
        ["burnt", "(L4)"],
      ] as const) {
        const found = at(kind);
        if (found === undefined) continue;
        const planted = verdictOf(ledger.toSpliced(found + 1, 0, ledger[found] ?? ""), packets);
        expect(planted.proven).toBe(false);
        expect(planted.named[0]).toContain(rule);
      }

      const packet = one(packets);
      if (packet !== undefined) {
        expect(verdictOf(ledger, [...packets, packet])).toMatchObject({
          proven: false,
          duplicates: 1,
          duplicateIvs: 1,
        });
        const alike = packets.map((other) =>
          other === packets[0] ? { ...other, iv: packets.at(-1)?.iv ?? 0n } : other,
        );
        const repeated = packets.length > 1 ? 1 : 0;
        expect(verdictOf(ledger, alike)).toMatchObject({
          proven: repeated === 0,
          duplicates: 0,
          duplicateIvs: repeated,
        });
      }
      const outside = verdictOf(ledger, [...packets, { number: 5n, iv: 1n }]);
      // Numbers from before a ledger that a crash has cut at its beginning are not refuted.
      if (!world.seen.serviceCrashed) expect(outside).toMatchObject({ proven: false, outsideLease: 1 });
    }),
    { numRuns: Math.ceil(RUNS / 3) },
  );
});
