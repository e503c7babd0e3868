/** Random interleavings of nodes, kernels, service, disk and network, with limits so tiny that every edge is met. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { World } from "./world.ts";

type Action = (world: World) => void | Promise<void>;

const nodeIndex = fc.nat(2);
const onNode = (act: (world: World, node: ReturnType<World["node"]>) => void | Promise<void>): fc.Arbitrary<Action> =>
  nodeIndex.map((index) => (world) => act(world, world.node(index)));

const send = onNode((world, node) => world.send(node));
const want = onNode((world, node) => world.feed(node, { kind: "want", nowMs: 0 }));
const kernelEvent = onNode((world, node) => world.kernelEvent(node));
const up = onNode((world, node) => world.deliverUp(node));
const down = onNode((world, node) => world.deliverDown(node));
const flush: fc.Arbitrary<Action> = fc.constant((world) => world.flush());
const shortTime: fc.Arbitrary<Action> = fc.integer({ min: 1, max: 300 }).map((ms) => (world) => world.advance(ms));
const longTime: fc.Arbitrary<Action> = fc.constant((world) => world.advance(4000));
const loseKernelEvent = onNode((world, node) => world.loseKernelEvent(node));
const repeated: fc.Arbitrary<Action> = fc.tuple(nodeIndex, fc.nat(5)).map(
  ([index, which]) =>
    (world) =>
      world.repeat(world.node(index), which),
);
const timeOut = onNode((world, node) => world.timeOut(node));
const redial = onNode((world, node) => world.redial(node));
const cut = onNode((world, node) => world.cut(node));
const connect = onNode((world, node) => world.connect(node));
const crashAgent = onNode((world, node) => world.crashAgent(node));
const startAgent = onNode((world, node) => world.startAgent(node));
const crashService: fc.Arbitrary<Action> = fc.nat(2).map((survivors) => (world) => world.crashService(survivors));

/** Everything that is under way for one node arrives: without this, random single steps hardly ever get a lease used. */
const talk = onNode(async (world, node) => {
  for (let i = 0; i < 6; i++) {
    world.kernelEvent(node);
    await world.deliverUp(node);
    await world.flush();
    world.deliverDown(node);
    world.check();
  }
});
const burst: fc.Arbitrary<Action> = fc
  .tuple(nodeIndex, fc.integer({ min: 1, max: 4 }))
  .map(([index, count]) => (world) => {
    for (let i = 0; i < count; i++) world.send(world.node(index));
  });

const calm = [
  { weight: 6, arbitrary: send },
  { weight: 4, arbitrary: burst },
  { weight: 3, arbitrary: want },
  { weight: 4, arbitrary: kernelEvent },
  { weight: 4, arbitrary: up },
  { weight: 4, arbitrary: down },
  { weight: 2, arbitrary: flush },
  { weight: 8, arbitrary: talk },
  { weight: 3, arbitrary: loseKernelEvent },
  { weight: 3, arbitrary: shortTime },
  { weight: 1, arbitrary: longTime },
] as const;

const faults = [
  { weight: 1, arbitrary: timeOut },
  { weight: 1, arbitrary: redial },
  { weight: 1, arbitrary: cut },
  { weight: 2, arbitrary: connect },
  { weight: 1, arbitrary: crashAgent },
  { weight: 2, arbitrary: startAgent },
  { weight: 1, arbitrary: crashService },
] as const;

async function run(actions: readonly Action[]): Promise<World> {
  const world = await World.create();
  for (const action of actions) {
    await action(world);
    world.check();
  }
  return world;
}

const RUNS = Number(process.env["PROPERTY_RUNS"] ?? 1000);

test("A1 A2 A6 A7 H1: without faults, leases stay disjoint, durable and within the peer's window", async () => {
  const actions = fc.array(fc.oneof(...calm), { minLength: 50, maxLength: 300, size: "max" });
  await fc.assert(
    fc.asyncProperty(actions, async (list) => {
      await run(list);
    }),
    { numRuns: RUNS },
  );
});

test("A1 A2 A3 A6 H1: with crashes, cuts and late answers, no number leaves twice, outside a lease or after it was burnt", async () => {
  const actions = fc.array(fc.oneof(...calm, ...faults), { minLength: 50, maxLength: 300, size: "max" });
  await fc.assert(
    fc.asyncProperty(actions, async (list) => {
      await run(list);
    }),
    { numRuns: RUNS },
  );
});

test("A1 A2 A3 A6 H1 H2: even on a bus that repeats answers, no number leaves twice or outside a lease", async () => {
  const any = fc.oneof(...calm, ...faults, { weight: 3, arbitrary: repeated });
  await fc.assert(
    fc.asyncProperty(fc.array(any, { minLength: 50, maxLength: 300, size: "max" }), async (list) => {
      await run(list);
    }),
    { numRuns: RUNS },
  );
});

test("A2 A4: once a write has failed nothing is granted any more", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(...calm), { minLength: 30, maxLength: 150, size: "max" }),
      fc.array(fc.oneof(...calm), { minLength: 30, maxLength: 150, size: "max" }),
      async (before, after) => {
        const world = await run(before);
        world.store.broken = true;
        // Failing needs a write under way.
        const hadWrite = world.store.waiting > 0;
        await world.flush();
        const granted = world.granted.length;
        for (const action of after) {
          await action(world);
          world.check();
        }
        if (hadWrite) expect(world.granted.length).toBe(granted);
      },
    ),
    { numRuns: Math.ceil(RUNS / 3) },
  );
});

test("the service makes progress: senders that take turns use the line up, and then it refuses", async () => {
  const world = await World.create();
  world.store.auto = true;
  for (let round = 0; round < 3000; round++) {
    const node = world.node(round);
    world.feed(node, { kind: "want", nowMs: 0 });
    world.send(node);
    for (const other of world.nodes) {
      for (let i = 0; i < 3; i++) {
        world.kernelEvent(other);
        await world.deliverUp(other);
        world.deliverDown(other);
      }
    }
    world.advance(5);
    world.check();
  }
  expect(world.granted.at(-1)?.[1]).toBe(1n << 32n);
  expect(world.refusals).toBeGreaterThan(0);
  expect(world.sent.size).toBeGreaterThan(30);
});
