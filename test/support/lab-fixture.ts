import { afterAll, afterEach, beforeAll } from "vitest";
import { Lab, type LabOptions } from "../../netns/lab.ts";
import { describeLab } from "../../netns/report.ts";

/** Building a lab, and starting it, on the slowest machine that runs these tests, ms. */
const LAB_LIMIT_MS = 240_000;

/**
 * One lab for all tests of a file, taken down whatever happens. `start` brings it to where the tests begin. When a test
 * fails, every node's states, policies, counters and logs are printed.
 */
export function useLab(options: LabOptions, start: (lab: Lab) => Promise<void>): () => Lab {
  let lab: Lab | undefined;
  beforeAll(async () => {
    lab = await Lab.create(options);
    try {
      await start(lab);
    } catch (error) {
      console.error(await describeLab(lab));
      throw error;
    }
  }, LAB_LIMIT_MS);
  afterEach(async (context) => {
    if (context.task.result?.state === "fail" && lab !== undefined) console.error(await describeLab(lab));
  });
  afterAll(async () => lab?.destroy(), LAB_LIMIT_MS);
  return () => {
    if (lab === undefined) throw new Error("the lab is not up yet");
    return lab;
  };
}
