import { basename } from "node:path";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Seconds that the long files take in UML. Only the balance of the shards depends on them. */
const LONG_FILES: Readonly<Record<string, number>> = {
  "traffic.test.ts": 320,
  "rekey-by-us.test.ts": 175,
  "suites.test.ts": 170,
  "forwarding.test.ts": 150,
  "esn.test.ts": 140,
  "lifecycle.test.ts": 120,
  "on-demand.test.ts": 125,
  "shadow.test.ts": 120,
  "filter-at-distributor.test.ts": 90,
  "filter.test.ts": 80,
  "ah.test.ts": 95,
  "peer-openiked.test.ts": 90,
  "limits.test.ts": 85,
};
const OTHER_SECONDS = 50;

/** `vitest --shard`, so that every shard takes about as long as the others: the longest file first, to who has the least. */
export class BalancedShards extends BaseSequencer {
  override shard(files: TestSpecification[]): Promise<TestSpecification[]> {
    const { index, count } = this.ctx.config.shard ?? { index: 1, count: 1 };
    const seconds = ({ moduleId }: TestSpecification): number => LONG_FILES[basename(moduleId)] ?? OTHER_SECONDS;
    const byLength = [...files].sort((a, b) => seconds(b) - seconds(a) || (a.moduleId < b.moduleId ? -1 : 1));
    const shards = Array.from({ length: count }, () => ({ seconds: 0, files: [] as TestSpecification[] }));
    for (const file of byLength) {
      const [least] = [...shards].sort((a, b) => a.seconds - b.seconds);
      if (least === undefined) continue;
      least.seconds += seconds(file);
      least.files.push(file);
    }
    return Promise.resolve(shards[index - 1]?.files ?? []);
  }
}
