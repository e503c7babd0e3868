/**
 * `node count-results.ts REPORT`: prints "PASSED FAILED" from a JSON report of vitest. Whatever did not pass has failed:
 * a skipped test, a file that could not start, a report that is not there.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";

const report = z.object({
  success: z.boolean(),
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      assertionResults: z.array(z.object({ fullName: z.string(), status: z.string() })),
    }),
  ),
});

function count(path: string): { passed: number; failed: number } {
  const { success, testResults } = report.parse(JSON.parse(readFileSync(path, "utf8")));
  const tests = testResults.flatMap((file) => file.assertionResults);
  const passed = tests.filter((test) => test.status === "passed").length;
  const brokenFiles = testResults.filter(
    (file) => file.status !== "passed" && file.assertionResults.every((test) => test.status === "passed"),
  ).length;
  for (const test of tests.filter(({ status }) => status !== "passed")) {
    console.error(`${test.status.padEnd(8)} ${test.fullName}`);
  }
  const failed = tests.length - passed + brokenFiles;
  // An error outside of any test (a rejection nobody caught) fails the run too.
  return { passed, failed: failed === 0 && !success ? 1 : failed };
}

const [path] = process.argv.slice(2);
if (path === undefined) throw new Error("usage: count-results.ts REPORT");
let result = { passed: 0, failed: 1 };
try {
  result = count(path);
} catch (error) {
  console.error(`no usable test report: ${String(error)}`);
}
console.log(`${result.passed} ${result.failed}`);
