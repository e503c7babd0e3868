import { defineConfig } from "vitest/config";
import { BalancedShards } from "./test/support/shards.ts";

/** Tests that start programs in network namespaces share one kernel: they run one file after the other. */
const onTheKernel = { fileParallelism: false, testTimeout: 300_000, hookTimeout: 300_000 };

/** On a busy machine a thousand random histories take a while; the default of 5 s is for a test that hangs. */
const unit = { testTimeout: 120_000, hookTimeout: 120_000 };

export default defineConfig({
  test: {
    sequence: { sequencer: BalancedShards },
    projects: [
      { test: { name: "unit", include: ["test/unit/**/*.test.ts", "test/exchange/**/*.test.ts"], ...unit } },
      { test: { name: "netns", include: ["test/netns/**/*.test.ts"], ...onTheKernel } },
      { test: { name: "interop", include: ["test/interop/**/*.test.ts"], ...onTheKernel } },
    ],
  },
});
