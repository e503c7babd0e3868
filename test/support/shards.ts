import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Seconds that the long files of `test` take in UML. Only the balance of the shards depends on them. */
const LONG_FILES: Readonly<Record<string, number>> = {
  "interop/traffic.test.ts": 270,
  "interop/esn.test.ts": 215,
  "interop/suites.test.ts": 190,
  "interop/on-demand.test.ts": 180,
  "interop/pmtu.test.ts": 175,
  "interop/limits.test.ts": 160,
  "interop/gateway.test.ts": 150,
  "interop/ah.test.ts": 155,
  "interop/lifecycle.test.ts": 145,
  "netns/xfrm/shadow.test.ts": 135,
  "interop/certificates.test.ts": 115,
  "interop/rekey-by-us.test.ts": 105,
  "interop/filter.test.ts": 105,
  "interop/peer-openiked.test.ts": 100,
  "interop/hostile.test.ts": 95,
  "interop/mixed-versions.test.ts": 85,
  "interop/rekey.test.ts": 75,
  "interop/nat.test.ts": 75,
  "interop/filter-at-distributor.test.ts": 70,
  "interop/negotiation.test.ts": 70,
  "interop/replay.test.ts": 70,
  "netns/xfrm/leases.test.ts": 65,
  "interop/peer-libreswan.test.ts": 65,
};
const OTHER_SECONDS = 20;

/** `vitest --shard`, so that every shard takes about as long as the others: the longest file first, to who has the least. */
export class BalancedShards extends BaseSequencer {
  override shard(files: TestSpecification[]): Promise<TestSpecification[]> {
    const { index, count } = this.ctx.config.shard ?? { index: 1, count: 1 };
    const seconds = ({ moduleId }: TestSpecification): number =>
      LONG_FILES[moduleId.split("/test/").at(-1) ?? ""] ?? OTHER_SECONDS;
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
