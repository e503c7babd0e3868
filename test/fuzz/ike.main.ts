// runs: anywhere
/**
 * `npm run fuzz -- ike [--seconds N | --cases N] [--seed N] [--plant throw|loop] [--replay TARGET HEX]`: messages and certificates of
 * other implementations, changed, for every decoder of IKE and X.509, and for the whole IKE core: from strangers, and from a peer
 * with the right keys. stderr: findings; stdout: one line of JSON. Exit 1 on a crash, a hang, or memory that grows.
 */
import { randomInt } from "node:crypto";
import { parseArgs } from "node:util";
import { fromHex } from "../../src/core/bytes.ts";
import { fuzz, type Finding } from "./fuzz-run.ts";
import { fuzzTargets, type Plant } from "./ike-targets.ts";
import { tryCase } from "./try-case.ts";

const DEFAULT_SECONDS = 60;
/** Beyond this memory is not flat; 20,000 cases grew it by 0.6 MB. Our choice. */
const HEAP_GROWTH_MAX_MB = 16;

const HELP = `Usage: scripts/fuzz ike [--seconds N | --cases N] [--seed N] [--plant throw|loop] [--json]
       scripts/fuzz ike --replay TARGET HEX

  --seconds N          how long (default ${DEFAULT_SECONDS})
  --cases N            how many cases, instead
  --seed N             which cases, in which order (default: random, shown)
  --plant throw|loop   positive control: one decoder has a bug; the run must find it and fail
  --replay TARGET HEX  tries one case as it was printed, and shows what comes of it
  --json               findings stay away from stderr: the counts alone
`;

const { values, positionals } = parseArgs({
  options: {
    seconds: { type: "string" },
    cases: { type: "string" },
    seed: { type: "string", default: String(randomInt(2 ** 31)) },
    plant: { type: "string", default: "none" },
    replay: { type: "string" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const seed = Number(values.seed);
const seconds = Number(values.seconds ?? (values.cases === undefined ? DEFAULT_SECONDS : Infinity));
const cases = Number(values.cases ?? Infinity);
const isPlant = (text: string): text is Plant => ["none", "throw", "loop"].includes(text);
if (values.help || !(seconds > 0) || !(cases > 0) || !Number.isInteger(seed) || !isPlant(values.plant)) {
  process.stdout.write(HELP);
  process.exit(values.help ? 0 : 2);
}
const targets = fuzzTargets(values.plant);

if (values.replay !== undefined) replay(values.replay, positionals[0] ?? "");
else {
  const result = await fuzz({
    ...{ seed, seconds, cases, plant: values.plant },
    targets: targets.map(({ name }) => name),
    onFinding: values.json ? () => {} : show,
  });
  process.stdout.write(`${JSON.stringify(result)}\n`);
  const isGood = result.crashes + result.hangs === 0 && result.heapGrowthMb <= HEAP_GROWTH_MAX_MB && result.cases > 0;
  process.exitCode = isGood ? 0 : 1;
}

function show({ kind, target, hex, stack }: Finding): void {
  process.stderr.write(`${kind} in ${target} (seed ${seed}): --replay ${target} ${hex}\n${stack}\n`);
}

function replay(name: string, hex: string): void {
  const target = targets.find((one) => one.name === name);
  if (target === undefined) {
    process.stderr.write(`no target ${name}: ${[...new Set(targets.map((one) => one.name))].join(", ")}\n`);
    process.exit(2);
  }
  const verdict = tryCase(target, fromHex(hex));
  process.stdout.write(`${JSON.stringify(verdict)}\n`);
  process.exitCode = verdict.kind === "ok" ? 0 : 1;
}
