import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";

/** What `node --cpu-prof` writes, as far as it is read here. */
interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
}

/** The functions in which the profiled processes of `directory` spent their time, in percent; one line each, `lines` at most. */
export async function selfTimes(directory: string, lines: number): Promise<string> {
  const samples = new Map<string, number>();
  for (const file of (await readdir(directory)).filter((name) => name.endsWith(".cpuprofile"))) {
    const profile = JSON.parse(await readFile(join(directory, file), "utf8")) as CpuProfile;
    const names = new Map(profile.nodes.map(({ id, callFrame }) => [id, nameOf(callFrame)]));
    for (const id of profile.samples) {
      const name = names.get(id) ?? "?";
      samples.set(name, (samples.get(name) ?? 0) + 1);
    }
  }
  const idle = samples.get("(idle)") ?? 0;
  samples.delete("(idle)");
  const total = [...samples.values()].reduce((sum, count) => sum + count, 0);
  const rows = [...samples].sort(([, a], [, b]) => b - a).slice(0, lines);
  const text = rows.map(([name, count]) => `${((100 * count) / total).toFixed(1).padStart(6)} %  ${name}`);
  return [`${total} samples at work, ${idle} idle`, ...text].join("\n");
}

function nameOf({ functionName, url, lineNumber }: CpuProfile["nodes"][number]["callFrame"]): string {
  const name = functionName === "" ? "(anonymous)" : functionName;
  return url === "" ? name : `${name} ${basename(url)}:${lineNumber + 1}`;
}
