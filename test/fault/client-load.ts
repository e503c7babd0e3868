import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { streamDigest } from "../../netns/app-stream.ts";
import type { Lab } from "../../netns/lab.ts";
import { DVIPA } from "../../netns/layout.ts";
import { ping } from "../../netns/traffic.ts";

/** One download: some seconds at this pace, so that faults hit it in the middle. Our choice. */
const DOWNLOAD_BYTES = 2_000_000;
const DOWNLOAD_BYTES_PER_SECOND = 1_000_000;
/** When the client gives up a download, s. Our choice: longer than a daemon's restart in a slow emulated machine. */
const DOWNLOAD_LIMIT_SECONDS = 25;
const REQUEST_LIMIT_SECONDS = 5;
const PINGS_AT_ONCE = 10;
const DOWNLOADERS = 3;
const REQUESTERS = 2;
/** Between two transfers of one loop, ms: a client that is refused at once must not spin. */
const PAUSE_MS = 100;

/** How transfers ended. `corrupted`: a byte that the application never sent, or one at the wrong place. */
export interface Outcomes {
  finished: number;
  failedCleanly: number;
  corrupted: number;
}

/** A transfer as the client saw it. */
interface Transfer {
  readonly exitCode: number;
  readonly node: string;
  readonly body: Buffer;
}

/** `whole`: what the node must send altogether. A transfer that was cut is clean when its bytes are the first of those. */
export function judgeTransfer(
  { exitCode, node, body }: Transfer,
  whole: number,
  digest = streamDigest,
): keyof Outcomes {
  if (body.length === 0) return exitCode === 0 ? "corrupted" : "failedCleanly";
  const found = createHash("sha256").update(body).digest("hex");
  if (body.length > whole || found !== digest(node, body.length)) return "corrupted";
  if (exitCode !== 0) return "failedCleanly";
  return body.length === whole ? "finished" : "corrupted";
}

/** The client's users: loops of downloads, short requests and pings, from `start` to `stop`. */
export class ClientLoad {
  readonly downloads: Outcomes = { finished: 0, failedCleanly: 0, corrupted: 0 };
  readonly requests: Outcomes = { finished: 0, failedCleanly: 0, corrupted: 0 };
  readonly pings = { sent: 0, received: 0 };
  /** Downloads and requests that finished, by target. */
  readonly servedBy = new Map<string, number>();
  readonly #lab: Lab;
  readonly #loops: Promise<void>[];
  #stopping = false;

  private constructor(lab: Lab) {
    this.#lab = lab;
    this.#loops = [
      ...Array.from({ length: DOWNLOADERS }, (_, rank) => this.#repeat(() => this.#download(rank))),
      ...Array.from({ length: REQUESTERS }, () => this.#repeat(() => this.#request())),
      this.#repeat(() => this.#ping()),
    ];
  }

  static start(lab: Lab): ClientLoad {
    return new ClientLoad(lab);
  }

  /** Lets what runs come to its end and starts nothing more. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#loops);
  }

  async #repeat(once: () => Promise<void>): Promise<void> {
    while (!this.#stopping) {
      await once();
      await delay(PAUSE_MS);
    }
  }

  async #download(rank: number): Promise<void> {
    const path = join(this.#lab.directory, `fault-download-${rank}`);
    const pace = ["--limit-rate", String(DOWNLOAD_BYTES_PER_SECOND), "--output", path];
    const { exitCode, stdout } = await this.#curl(
      [...pace, "--write-out", "%header{x-node}"],
      DOWNLOAD_LIMIT_SECONDS,
      `/download?bytes=${DOWNLOAD_BYTES}`,
    );
    const body = await readFile(path).catch(() => Buffer.alloc(0));
    await rm(path, { force: true });
    const node = stdout.trim();
    const outcome = judgeTransfer({ exitCode, node, body }, DOWNLOAD_BYTES);
    this.downloads[outcome] += 1;
    if (outcome === "finished") this.#served(node);
  }

  async #request(): Promise<void> {
    const { exitCode, stdout } = await this.#curl([], REQUEST_LIMIT_SECONDS, "/name");
    const node = stdout.trim();
    const isTarget = this.#lab.targets.some((target) => target.node === node);
    const outcome = isTarget && exitCode === 0 ? "finished" : exitCode === 0 ? "corrupted" : "failedCleanly";
    this.requests[outcome] += 1;
    if (outcome === "finished") this.#served(node);
  }

  async #ping(): Promise<void> {
    const { sent, received } = await ping(this.#lab, PINGS_AT_ONCE).catch(() => ({ sent: 0, received: 0 }));
    this.pings.sent += sent;
    this.pings.received += received;
  }

  async #curl(
    options: readonly string[],
    limitSeconds: number,
    path: string,
  ): Promise<{ exitCode: number; stdout: string }> {
    const common = ["curl", "--silent", "--fail", "--http1.1", "--max-time", String(limitSeconds)];
    const command = [...common, ...options, `http://${DVIPA}${path}`];
    // It has no exit status when the lab is taken down under it.
    return this.#lab.network.try("client", command).catch(() => ({ exitCode: -1, stdout: "" }));
  }

  #served(node: string): void {
    this.servedBy.set(node, (this.servedBy.get(node) ?? 0) + 1);
  }
}
