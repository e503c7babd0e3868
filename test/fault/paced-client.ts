/**
 * `node test/fault/paced-client.ts WEIGHTS LOAD SECONDS`, run inside the client: one standing connection to each target
 * (connections are distributed in turn), each asked at its own rate. Prints {"served":{TARGET:requests}}; fails when the
 * connections are not on as many targets as there are weights.
 */
import { Agent, get } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { DVIPA } from "../../netns/layout.ts";

/** All targets together: bytes in each period of a bulk load, small requests in each second of the other. Our choice. */
const BULK_BYTES = 1_000_000;
const BULK_PERIOD_MS = 500;
const SMALL_BYTES = 2_000;
const SMALL_PER_SECOND = 100;
const REQUEST_LIMIT_MS = 20_000;

interface Pace {
  readonly bytes: number;
  readonly periodMs: number;
}

/** What the connection of one target asks for, when it has this share of the whole load. */
function paceOf(load: string, share: number): Pace {
  if (load === "bulk") return { bytes: Math.max(1, Math.round(BULK_BYTES * share)), periodMs: BULK_PERIOD_MS };
  return { bytes: SMALL_BYTES, periodMs: 1000 / (SMALL_PER_SECOND * share) };
}

/** Asks over the agent's connection; gives the name of the target that answered with all the bytes. */
async function ask(agent: Agent, path: string, bytes: number | null): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get({ host: DVIPA, path, agent, timeout: REQUEST_LIMIT_MS }, (response) => {
      let received = 0;
      response.on("data", (chunk: Buffer) => (received += chunk.length));
      response.on("error", reject);
      response.on("end", () => {
        if (bytes === null || received === bytes) resolve(String(response.headers["x-node"]));
        else reject(new Error(`${received} of ${bytes} bytes came`));
      });
    });
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
    request.on("error", reject);
  });
}

async function keepAsking(agent: Agent, { bytes, periodMs }: Pace, endMs: number): Promise<number> {
  let count = 0;
  for (let nextMs = performance.now(); nextMs < endMs; nextMs = Math.max(nextMs + periodMs, performance.now())) {
    await delay(nextMs - performance.now());
    await ask(agent, `/download?bytes=${bytes}`, bytes);
    count += 1;
  }
  return count;
}

const [weights = "", load = "", seconds = ""] = process.argv.slice(2);
const parts = weights.split(":").map(Number);
const sum = parts.reduce((total, weight) => total + weight, 0);
const agents = parts.map(() => new Agent({ keepAlive: true, maxSockets: 1 }));
const names: string[] = [];
for (const agent of agents) names.push(await ask(agent, "/name", null));
if (new Set(names).size < parts.length) throw new Error(`not one connection to each target: ${names.join(" ")}`);
const endMs = performance.now() + Number(seconds) * 1000;
const counts = await Promise.all(
  agents.map((agent, rank) => keepAsking(agent, paceOf(load, (parts[rank] ?? 0) / sum), endMs)),
);
for (const agent of agents) agent.destroy();
process.stdout.write(
  `${JSON.stringify({ served: Object.fromEntries(names.map((name, rank) => [name, counts[rank]])) })}\n`,
);
