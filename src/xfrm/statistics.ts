import { readFile } from "node:fs/promises";

/** What the kernel counts about IPsec in the current network namespace (Documentation/networking/xfrm_proc.rst). */
const XFRM_STATISTICS = "/proc/net/xfrm_stat";

/** The counters that are not zero, by their kernel names. Empty on a kernel without CONFIG_XFRM_STATISTICS. */
export async function readXfrmStatistics(path = XFRM_STATISTICS): Promise<ReadonlyMap<string, number>> {
  const text = await readFile(path, "latin1").catch((error: unknown) => {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return "";
    throw error;
  });
  const lines = text.split("\n").map((line) => line.trim().split(/\s+/));
  return new Map(
    lines.flatMap(([name = "", count = ""]) => (Number(count) > 0 ? [[name, Number(count)] as const] : [])),
  );
}
