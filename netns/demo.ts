/**
 * `node netns/demo.ts [--json] [--keep]`: the demo itself, to be run as root where the kernel has ESP (`scripts/demo`
 * finds such a place). Builds the lab, makes traffic in both IPsec modes, measures, judges.
 */
import { once } from "node:events";
import { parseArgs } from "node:util";
import { measure, Tally } from "./demo-measure.ts";
import { showClient, showCluster, showVerdict, type Say } from "./demo-show.ts";
import { Lab } from "./lab.ts";
import { describeLab } from "./report.ts";
import type { ChildName, StrongSwan } from "./strongswan.ts";
import { download, onEveryTarget, ping, requestName, upload, type RequestResult } from "./traffic.ts";

const PINGS = 10;
const PARALLEL_REQUESTS = 30;
const TRANSFER_BYTES = 20_000_000;
/** In the second mode a short look is enough. */
const SHORT_PINGS = 5;
const SHORT_TRANSFER_BYTES = 2_000_000;
const LOOK_LIMIT_MS = 30_000;

async function negotiate(client: StrongSwan, mode: ChildName, say: Say): Promise<void> {
  const { exitCode, stdout, stderr } = await client.initiate(mode);
  if (exitCode !== 0) throw new Error(`the client could not negotiate (${mode} mode):\n${stdout}\n${stderr}`);
  const established = stdout.split("\n").find((line) => /CHILD_SA .* established/.test(line)) ?? "";
  say(`✓ negotiated, ${mode} mode: ${established.replace(/^\[\w+\] /, "")}`);
}

async function pings(lab: Lab, tally: Tally, count: number, say: Say): Promise<void> {
  const result = await ping(lab, count);
  tally.addPing(result);
  say(`${mark(result.sent === result.received)} ping: ${result.received} of ${result.sent} answered, by d1 itself`);
}

async function requests(lab: Lab, tally: Tally, count: number, parallel: boolean, say: Say): Promise<void> {
  const results: RequestResult[] = [];
  if (parallel) results.push(...(await Promise.all(Array.from({ length: count }, () => requestName(lab)))));
  else while (results.length < count) results.push(await requestName(lab));
  tally.requests.push(...results);
  const names = results.map(({ ok, node, problem }) => (ok ? node : (problem ?? "failed")));
  const how = parallel ? "at the same time" : "one after the other";
  say(`${mark(results.every(({ ok }) => ok))} ${count} requests ${how}: ${names.join(" ")}`);
}

async function transfers(lab: Lab, tally: Tally, kind: "download" | "upload", bytes: number, say: Say): Promise<void> {
  const results = await onEveryTarget(lab, async () => {
    const result = await (kind === "download" ? download(lab, bytes) : upload(lab, bytes));
    const outcome = result.ok ? "checksum right" : (result.problem ?? "failed");
    say(`${mark(result.ok)} ${kind} of ${bytes / 1e6} MB, ${result.node ?? "nobody"}: ${outcome}`);
    return result;
  });
  tally.transfers.push({ kind, results });
}

/** Every target sends at once, so all of them hold a lease: the moment to look at the cluster. */
async function downloadsAtOnce(lab: Lab, tally: Tally, bytes: number, say: Say): Promise<void> {
  const running = Promise.all(lab.targets.map(() => download(lab, bytes)));
  await lab.distributor.waitFor("has all downloads in its table", LOOK_LIMIT_MS, ({ targets }) =>
    targets.every(({ connections }) => connections > 0),
  );
  await showCluster(lab, say);
  const results = await running;
  tally.transfers.push({ kind: "download", results });
  const names = results.map(({ node, problem }) => problem ?? node);
  say(`${mark(results.every(({ ok }) => ok))} ${results.length} downloads at the same time: ${names.join(" ")}`);
}

async function runSteps(lab: Lab, tally: Tally, say: Say): Promise<void> {
  const client = await lab.startClient();
  say("✓ client: stock strongSwan started");
  await negotiate(client, "transport", say);
  await pings(lab, tally, PINGS, say);
  await requests(lab, tally, 3 * lab.targets.length, false, say);
  await requests(lab, tally, PARALLEL_REQUESTS, true, say);
  await downloadsAtOnce(lab, tally, TRANSFER_BYTES, say);
  await transfers(lab, tally, "download", TRANSFER_BYTES, say);
  await transfers(lab, tally, "upload", TRANSFER_BYTES, say);
  await showClient(lab, say);
  const closed = await client.terminate();
  say(`${mark(closed.exitCode === 0)} closed by the client`);
  await negotiate(client, "tunnel", say);
  await pings(lab, tally, SHORT_PINGS, say);
  await requests(lab, tally, lab.targets.length, false, say);
  await transfers(lab, tally, "download", SHORT_TRANSFER_BYTES, say);
  await transfers(lab, tally, "upload", SHORT_TRANSFER_BYTES, say);
  await showCluster(lab, say);
  await showClient(lab, say);
}

function mark(good: boolean): string {
  return good ? "✓" : "✗";
}

async function stayUp(lab: Lab, say: Say): Promise<void> {
  say(`The lab stays up; Ctrl-C ends it. Namespaces: ${lab.network.namespaceOf("NODE")}, files: ${lab.directory}`);
  await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
}

const { values: options } = parseArgs({ options: { json: { type: "boolean" }, keep: { type: "boolean" } } });
const say: Say = (line) => void (options.json === true ? process.stderr : process.stdout).write(`${line}\n`);
const tally = new Tally();
await using lab = await Lab.create();
say(`✓ lab: ${lab.network.nodes.map(({ name }) => name).join(", ")} in namespaces, two networks`);
try {
  await lab.startCluster();
  say("✓ cluster: coupling service, distributor and targets are ready");
  const capture = await lab.startCapture();
  await runSteps(lab, tally, say);
  const measurement = await measure(lab, tally, capture);
  showVerdict(lab, measurement, say);
  if (options.keep === true) await stayUp(lab, say);
  if (options.json === true) process.stdout.write(`${JSON.stringify(measurement.result)}\n`);
  process.exitCode = measurement.problems.length === 0 ? 0 : 1;
} catch (error) {
  process.stderr.write(`${await describeLab(lab)}\n`);
  process.stderr.write(`The demo failed: ${error instanceof Error ? error.message : String(error)}\n`);
  if (options.keep === true) await stayUp(lab, say);
  process.exitCode = 1;
}
