/** `npm run fuzz -- ike`: a short run finds nothing, and it finds what is planted. */
import { describe, expect, test } from "vitest";
import { fuzz, type Finding } from "../../fuzz/fuzz-run.ts";
import { fuzzTargets, type Plant } from "../../fuzz/ike-targets.ts";
import { mutated } from "../../fuzz/mutate.ts";
import { tryCase } from "../../fuzz/try-case.ts";
import { SeededRandom } from "../../fault/random.ts";

const SEED = 20_261_121;
const targets = fuzzTargets("none");

async function run(cases: number, plant: Plant) {
  const findings: Finding[] = [];
  const names = targets.map(({ name }) => name);
  const onFinding = (finding: Finding): void => void findings.push(finding);
  const result = await fuzz({ seed: SEED, cases, seconds: Infinity, plant, targets: names, onFinding });
  return { findings, result };
}

describe("fuzzing IKE", () => {
  test("a short run finds nothing, tries every target, and its peer gets through to the inner decoders", async () => {
    const { findings, result } = await run(2_000, "none");
    expect(findings).toEqual([]);
    expect(result).toMatchObject({ cases: 2_000, crashes: 0, hangs: 0 });
    const reasons = Object.keys(result.reasons);
    expect(new Set(reasons.map((reason) => reason.split("/")[0]))).toEqual(new Set(targets.map(({ name }) => name)));
    for (const reason of ["invalidSyntax", "malformed", "integrity", "childRekeyed", "ikeRekeyed", "ikeDeletedByPeer"])
      expect(reasons).toContain(`core/ike.${reason}`);
  });

  test("a decoder that throws is found, with the case that makes it", async () => {
    const { findings, result } = await run(600, "throw");
    expect(result.crashes).toBeGreaterThan(0);
    const [finding] = findings;
    expect(finding).toMatchObject({ kind: "crash", target: "wire.message" });
    expect(finding?.stack).toContain("TypeError: planted");
    const bytes = new Uint8Array(Buffer.from(finding?.hex ?? "", "hex"));
    const byName = (plant: Plant) => fuzzTargets(plant).find(({ name }) => name === finding?.target);
    const [planted, real] = [byName("throw"), byName("none")];
    if (planted === undefined || real === undefined) throw new Error("no such target");
    expect(tryCase(planted, bytes).kind).toBe("crash");
    expect(tryCase(real, bytes).kind).toBe("ok");
  });

  test("a decoder that does not end is found, and the run goes on behind it", async () => {
    const { findings, result } = await run(400, "loop");
    expect(result.hangs).toBeGreaterThan(0);
    expect(result.hangs + result.crashes).toBe(findings.length);
    expect(findings[0]).toMatchObject({ kind: "hang", target: "wire.message" });
    expect(findings[0]?.hex.length).toBeLessThan(200);
    expect(result.cases).toBe(400);
  });
});

test("the same seed makes the same cases", () => {
  const seeds = [Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), new Uint8Array(40)];
  const cases = (seed: number) =>
    Array.from({ length: 50 }, (_, i) => Buffer.from(mutated(new SeededRandom(seed + i), seeds)).toString("hex"));
  expect(cases(7)).toEqual(cases(7));
  expect(new Set(cases(7)).size).toBeGreaterThan(30);
});
