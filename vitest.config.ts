import { defineConfig } from "vitest/config";

/** Tests that start programs in network namespaces share one kernel: they run one file after the other. */
const onTheKernel = { fileParallelism: false, testTimeout: 300_000, hookTimeout: 300_000 };

export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: ["test/unit/**/*.test.ts", "test/exchange/**/*.test.ts"] } },
      { test: { name: "netns", include: ["test/netns/**/*.test.ts"], ...onTheKernel } },
      { test: { name: "interop", include: ["test/interop/**/*.test.ts"], ...onTheKernel } },
    ],
  },
});
