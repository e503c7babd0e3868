/**
 * SAs with their policies into the kernel and out of it: our reconciler beside iproute2's `ip -batch`, in one run.
 *
 * - One network namespace, one kernel. An SA is two states (AES-GCM 128, the inbound one with a window of 1024, the outbound
 *   one with a packet limit) and two policies with host selectors, in transport mode. Keys are random.
 * - Ours: `XfrmReconciler.apply` with the wants of all SAs, from their descriptions to the last acknowledgement, then `clear`.
 *   The process runs already, as the daemon does. Theirs: from the start of `ip -batch` to its end, adding and then deleting
 *   the same by name. Both in each round, in turning order; medians over the rounds.
 * - `oneByOne`: beside all those, 250 more SAs come one after the other, and go: ours with one `XfrmReconciler.change` each, which
 *   is waited for, theirs in one `ip -batch`, which waits for each line.
 * - After each step the kernel is dumped: both must leave the same (names, keys, selectors, windows, limits), and nothing
 *   after the removal, or the run is a failure.
 */
import { availableParallelism, loadavg } from "node:os";
import { parseArgs } from "node:util";
import { Namespace } from "../netns/support/namespace.ts";
import type { Worker } from "../netns/support/worker.ts";
import { median, round, spread } from "./closed-loop.ts";
import type { XfrmBenchHandlers } from "./xfrm-worker.ts";

const SAS = 10_000;
const ROUNDS = 7;
/** SAs that come and go one by one. */
const LATE = 250;
/** Between two measurements, for the kernel to free what was deleted; our choice. */
const SETTLE_MS = 1000;
const MILLISECOND = 1000;

interface Sample {
  readonly installSeconds: number;
  readonly oneByOneSeconds: number;
  readonly removeSeconds: number;
}

type Name = "ours" | "ip";

const USAGE = `Usage: scripts/bench xfrm [--sas N] [--rounds N]

  --sas N     SAs, with two states and two policies each (default ${SAS})
  --rounds N  rounds of ours and iproute2's (default ${ROUNDS})
`;
const { values } = parseArgs({
  options: { sas: { type: "string" }, rounds: { type: "string" }, help: { type: "boolean" } },
});
const sas = Number(values.sas ?? SAS);
const rounds = Number(values.rounds ?? ROUNDS);
const isCount = (value: number): boolean => Number.isInteger(value) && value >= 1;
if (values.help === true || !isCount(sas) || !isCount(rounds)) {
  process.stdout.write(USAGE);
  process.exit(values.help === true ? 0 : 2);
}

const loadBefore = loadavg()[0];
const samples: Record<Name, Sample[]> = { ours: [], ip: [] };
let expected: string | null = null;

await using namespace = await Namespace.create("bench");
await using worker = await namespace.worker<XfrmBenchHandlers>("test/bench/xfrm-worker.ts");
await worker.call("prepare", { count: sas, lateCount: LATE });
for (let at = 0; at < rounds; at++) {
  const order: readonly Name[] = at % 2 === 0 ? ["ours", "ip"] : ["ip", "ours"];
  for (const name of order) samples[name].push(await measure(worker, name));
  const [ours, ip] = [samples.ours.at(-1), samples.ip.at(-1)].map((sample) =>
    sample === undefined ? "" : text(sample),
  );
  console.error(`round ${at + 1} of ${rounds}: ours ${ours}, ip ${ip}`);
}
console.log(
  JSON.stringify({
    ...ratios(),
    ours: summary("ours"),
    ip: summary("ip"),
    sas,
    rounds,
    machine: { processors: availableParallelism(), loadBefore, loadAfter: loadavg()[0] },
  }),
);

async function measure(subject: Worker<XfrmBenchHandlers>, name: Name): Promise<Sample> {
  const install = name === "ours" ? "installByUs" : "installByIp";
  const remove = name === "ours" ? "removeByUs" : "removeByIp";
  const installSeconds = await subject.call(install, undefined);
  const full = await subject.call("contents", undefined);
  expected ??= full.digest;
  if (full.states !== 2 * sas || full.policies < 2 * sas) throw new Error(`${name} left ${JSON.stringify(full)}`);
  if (full.digest !== expected) throw new Error(`${name} did not install the same as the other`);
  const oneByOneSeconds = await subject.call(name === "ours" ? "lateByUs" : "lateByIp", undefined);
  const after = await subject.call("contents", undefined);
  if (after.digest !== expected) throw new Error(`${name} changed others when SAs came and went`);
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  const removeSeconds = await subject.call(remove, undefined);
  const empty = await subject.call("contents", undefined);
  if (empty.states + empty.policies !== 0)
    throw new Error(`${name} did not remove everything: ${JSON.stringify(empty)}`);
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  return { installSeconds, oneByOneSeconds, removeSeconds };
}

/** Ours over theirs, below 1 is better; `ratio` is of both together. */
function ratios(): Record<string, number> {
  const over = (seconds: (sample: Sample) => number): number[] =>
    samples.ours.map((ours, at) => {
      const ip = samples.ip[at];
      return ip === undefined ? NaN : seconds(ours) / seconds(ip);
    });
  const both = over((sample) => sample.installSeconds + sample.removeSeconds);
  return {
    ratio: round(median(both), MILLISECOND),
    installRatio: round(median(over((sample) => sample.installSeconds)), MILLISECOND),
    removeRatio: round(median(over((sample) => sample.removeSeconds)), MILLISECOND),
    oneByOneRatio: round(median(over((sample) => sample.oneByOneSeconds)), MILLISECOND),
    firstRoundRatio: round(both[0] ?? NaN, MILLISECOND),
    spread: spread(both),
  };
}

function summary(name: Name): Record<string, number> {
  const install = samples[name].map((sample) => sample.installSeconds);
  const remove = samples[name].map((sample) => sample.removeSeconds);
  const oneByOne = samples[name].map((sample) => sample.oneByOneSeconds);
  return {
    installSeconds: round(median(install), MILLISECOND),
    installSpread: spread(install),
    removeSeconds: round(median(remove), MILLISECOND),
    removeSpread: spread(remove),
    oneByOneMsPerSa: round((median(oneByOne) / LATE) * MILLISECOND, MILLISECOND),
    oneByOneSpread: spread(oneByOne),
  };
}

function text({ installSeconds, oneByOneSeconds, removeSeconds }: Sample): string {
  return `${installSeconds.toFixed(3)} s in, ${oneByOneSeconds.toFixed(3)} s one by one, ${removeSeconds.toFixed(3)} s out`;
}
