import { readFile, rm } from "node:fs/promises";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { streamDigest, writeStreamFile } from "./app-stream.ts";
import type { Lab } from "./lab.ts";
import { echoReplies } from "./counters.ts";
import { SERVICE_ADDRESSES, type IpVersion } from "./layout.ts";

/** Longest time one transfer may take, s: 20 MB in a slow emulated machine. Our choice, below `COMMAND_LIMIT_MS`. */
const TRANSFER_LIMIT_SECONDS = 110;
const REQUEST_LIMIT_SECONDS = 30;
const PING_INTERVAL_SECONDS = 0.2;
/** What ping sends unless told otherwise. */
const PING_BYTES = 56;
/** Seed of uploaded files: no node has this name. */
const UPLOAD_SEED = "client";

/** One request that the client made of the DVIPA's application. */
export interface RequestResult {
  readonly ok: boolean;
  /** The target that answered. */
  readonly node: string | undefined;
  /** For a person: what went wrong. */
  readonly problem: string | undefined;
}

let files = 0;

interface PingOptions {
  readonly bytes?: number;
  readonly intervalSeconds?: number;
  readonly ipVersion?: IpVersion;
}

/** Labs in which a ping is under way. */
const pinging = new WeakSet<Lab>();
/** How long a reply may take. */
const LATE_REPLY_MS = 5_000;

/** What became of pings. */
export interface PingResult {
  readonly sent: number;
  /** What the client's kernel has counted: ping itself ends two round trips after its last request, and knows no later reply. */
  readonly received: number;
}

/** Pings the DVIPA from the client `count` times; fails when others do so meanwhile. */
export async function ping(lab: Lab, count: number, options: PingOptions = {}): Promise<PingResult> {
  return counted(lab, options, () => sendPings(lab, count, options));
}

/**
 * Pings the DVIPA from the client until `work` has ended, in two streams of `batch` pings at a time, so that there is no gap
 * between a batch and the next; fails when others ping meanwhile, and as `work` fails.
 */
export async function pingWhile(
  lab: Lab,
  work: () => Promise<void>,
  { batch, ...options }: PingOptions & { readonly batch: number },
): Promise<PingResult> {
  return counted(lab, options, async () => {
    let isDone = false;
    const stream = async (): Promise<number> => {
      let sent = 0;
      do sent += await sendPings(lab, batch, options);
      while (!isDone);
      return sent;
    };
    const running = Promise.all([stream(), stream()]);
    try {
      await work();
    } finally {
      isDone = true;
      await running;
    }
    const [one, other] = await running;
    return one + other;
  });
}

async function counted(lab: Lab, options: PingOptions, send: () => Promise<number>): Promise<PingResult> {
  const version = options.ipVersion ?? lab.network.ipVersion;
  if (pinging.has(lab))
    throw new Error("two pings at once: the kernel counts their replies together; wait for the first");
  pinging.add(lab);
  try {
    const before = await echoReplies(lab, version);
    const sent = await send();
    return { sent, received: await repliesSince(lab, version, before, sent) };
  } finally {
    pinging.delete(lab);
  }
}

/** Sends so many; resolves to how many were sent, a moment after the last one. */
async function sendPings(
  lab: Lab,
  count: number,
  { bytes = PING_BYTES, intervalSeconds = PING_INTERVAL_SECONDS, ipVersion = lab.network.ipVersion }: PingOptions = {},
): Promise<number> {
  const pace = ["-c", String(count), "-i", String(intervalSeconds), "-W", "5"];
  const command = ["ping", "-n", "-q", ...pace, "-s", String(bytes), SERVICE_ADDRESSES[ipVersion].dvipa];
  const { stdout } = await lab.network.try("client", command);
  const [, sent] = /(\d+) packets transmitted/.exec(stdout) ?? [];
  if (sent === undefined) throw new Error(`ping said something else:\n${stdout}`);
  return Number(sent);
}

/** Replies to pings that the client's kernel has got since its count was `before`: waits for `wanted` of them, or long enough. */
async function repliesSince(lab: Lab, version: IpVersion, before: number, wanted: number): Promise<number> {
  const deadlineMs = Date.now() + LATE_REPLY_MS;
  for (;;) {
    const received = (await echoReplies(lab, version)) - before;
    if (received >= wanted || Date.now() > deadlineMs) return received;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Asks the DVIPA for the name of the node that answers, over a connection of its own. */
export async function requestName(lab: Lab, ipVersion = lab.network.ipVersion): Promise<RequestResult> {
  const { exitCode, stdout, stderr } = await curl(lab, REQUEST_LIMIT_SECONDS, ["/name"], ipVersion);
  if (exitCode !== 0) return { ok: false, node: undefined, problem: stderr };
  return { ok: true, node: stdout.trim(), problem: undefined };
}

/** How a client downloads slowly. */
export interface DownloadPace {
  /** What the server sends on average, so that packets are under way while something happens; held up, it makes up for it. */
  readonly bytesPerSecond: number;
  /** When it gives up. */
  readonly limitSeconds: number;
}

/** Downloads `bytes` from whichever target is chosen and compares the checksum with what that target must send. */
export async function download(
  lab: Lab,
  bytes: number,
  pace?: DownloadPace,
  client: "client" | "client2" = "client",
): Promise<RequestResult> {
  const path = newFile(lab);
  try {
    const request = `/download?bytes=${bytes}${pace === undefined ? "" : `&rate=${pace.bytesPerSecond}`}`;
    const args = ["--output", path, "--write-out", "%header{x-node}", request];
    const said = await curl(lab, pace?.limitSeconds ?? TRANSFER_LIMIT_SECONDS, args, lab.network.ipVersion, client);
    const node = said.stdout.trim();
    if (said.exitCode !== 0) return { ok: false, node: node === "" ? undefined : node, problem: said.stderr };
    const found = createHash("sha256")
      .update(await readFile(path))
      .digest("hex");
    return compared(node, found, streamDigest(node, bytes));
  } finally {
    await rm(path, { force: true });
  }
}

/** Uploads `bytes` to whichever target is chosen and compares the checksum that it answers. */
export async function upload(lab: Lab, bytes: number): Promise<RequestResult> {
  const path = newFile(lab);
  await writeStreamFile(path, UPLOAD_SEED, bytes);
  try {
    const { exitCode, stdout, stderr } = await curl(lab, TRANSFER_LIMIT_SECONDS, ["--upload-file", path, "/upload"]);
    if (exitCode !== 0) return { ok: false, node: undefined, problem: stderr };
    const answer = JSON.parse(stdout) as { node: string; sha256: string };
    return compared(answer.node, answer.sha256, streamDigest(UPLOAD_SEED, bytes));
  } finally {
    await rm(path, { force: true });
  }
}

/**
 * Repeats a transfer until every target has served one; round robin needs as many as there are targets. Returns all of
 * them; a target that is missing there was not chosen in three rounds.
 */
export async function onEveryTarget(
  lab: Lab,
  transfer: () => Promise<RequestResult>,
): Promise<readonly RequestResult[]> {
  const results: RequestResult[] = [];
  const served = (): Set<string | undefined> => new Set(results.filter(({ ok }) => ok).map(({ node }) => node));
  while (served().size < lab.targets.length && results.length < 3 * lab.targets.length) results.push(await transfer());
  return results;
}

async function curl(
  lab: Lab,
  limitSeconds: number,
  args: readonly string[],
  ipVersion = lab.network.ipVersion,
  client = "client",
): Promise<{ exitCode: number; stdout: string; stderr: string }> {
  const path = args.at(-1) ?? "/";
  const options = ["--silent", "--show-error", "--fail", "--http1.1", "--max-time", String(limitSeconds)];
  const { dvipa } = SERVICE_ADDRESSES[ipVersion];
  const host = ipVersion === 4 ? dvipa : `[${dvipa}]`;
  return lab.network.try(client, ["curl", ...options, ...args.slice(0, -1), `http://${host}${path}`]);
}

function compared(node: string, found: string, wanted: string): RequestResult {
  if (found === wanted) return { ok: true, node, problem: undefined };
  return { ok: false, node, problem: `${node}: SHA-256 ${found}, not ${wanted}` };
}

function newFile(lab: Lab): string {
  files += 1;
  return join(lab.directory, `transfer-${process.pid}-${files}`);
}
