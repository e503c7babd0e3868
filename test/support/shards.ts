import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Seconds that the long files of `test` take in UML. Only the balance of the shards depends on them. */
const LONG_FILES: Readonly<Record<string, number>> = {
  "interop/traffic.test.ts": 275,
  "interop/suites.test.ts": 180,
  "interop/gateway.test.ts": 160,
  "interop/limits.test.ts": 155,
  "interop/pmtu.test.ts": 140,
  "interop/esn.test.ts": 135,
  "interop/lifecycle.test.ts": 130,
  "interop/on-demand.test.ts": 125,
  "netns/xfrm/shadow.test.ts": 120,
  "interop/host-network.test.ts": 115,
  "interop/peer-openiked.test.ts": 100,
  "interop/rekey-by-us.test.ts": 97,
  "interop/ah.test.ts": 95,
  "interop/filter-ipv6.test.ts": 75,
  "interop/rekey.test.ts": 72,
  "interop/hostile.test.ts": 70,
  "interop/negotiation.test.ts": 68,
  "interop/mixed-versions.test.ts": 68,
  "interop/certificates.test.ts": 67,
  "netns/xfrm/leases.test.ts": 65,
  "interop/replay.test.ts": 57,
  "interop/peer-libreswan.test.ts": 55,
  "interop/filter.test.ts": 55,
  "interop/nat.test.ts": 54,
  "interop/steering.test.ts": 53,
  "interop/filter-at-distributor.test.ts": 50,
  "interop/peer-strongswan.test.ts": 44,
  "interop/initiate.test.ts": 38,
  "netns/xfrm/held-back.test.ts": 32,
  "interop/flood.test.ts": 31,
  "netns/xfrm/forwarding.test.ts": 28,
};
const OTHER_SECONDS = 10;

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
