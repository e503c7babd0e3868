// runs: anywhere
/**
 * `npm run bench -- ike-sas [--sas N] [--rest SECONDS]`: one responder (runner and core, no kernel) with N IKE SAs, one Child SA
 * each, every peer with an address, an identity and a key of its own. Processor time of a negotiation with none and with N of
 * them (in the same process, one after the other), memory of one, and processor time at rest while liveness checks go on.
 */
import { setTimeout as delay } from "node:timers/promises";
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { NOW_MS, TestCertificate } from "../support/certificates.ts";
import { round } from "./closed-loop.ts";
import { IkeClient } from "./ike-client.ts";
import { clientAddress, OUR_ADDRESS, RESPONDER } from "./ike-lab.ts";
import { AskedProgram } from "./asked-program.ts";

const SAS = 10_000;
const REST_SECONDS = 60;
/** Negotiations of each measurement, at the start and at the end. */
const SAMPLE = 500;
const AT_ONCE = 16;

const { values } = parseArgs({
  options: { sas: { type: "string" }, rest: { type: "string" }, help: { type: "boolean" } },
});
const sas = Number(values.sas ?? SAS);
const restSeconds = Number(values.rest ?? REST_SECONDS);
if (values.help === true || !(sas >= 3 * SAMPLE) || !(restSeconds >= 0)) {
  process.stdout.write(`Usage: scripts/bench ike-sas [--sas N] [--rest SECONDS]

  --sas N         IKE SAs (default ${SAS}, at least ${3 * SAMPLE})
  --rest SECONDS  how long it is looked at rest (default ${REST_SECONDS})
`);
  process.exit(values.help === true ? 0 : 2);
}

const root = TestCertificate.root("CN=Bench");
const own = root.leaf("CN=sun", { dns: [RESPONDER] });
const hex = (certificate: TestCertificate): string => Buffer.from(certificate.certificate.der).toString("hex");
const order = {
  clients: sas,
  kernel: false,
  authority: hex(root),
  certificate: hex(own),
  key: own.privatePem,
  wallClockMs: NOW_MS,
};
await using responder = await AskedProgram.start(process.execPath, [
  "test/bench/ike-responder.ts",
  JSON.stringify(order),
]);
const clients: IkeClient[] = [];

await negotiateTo(SAMPLE); // Until the code is compiled.
const before = await memory();
const firstMs = await costOf(2 * SAMPLE);
await negotiateTo(sas - SAMPLE);
const lastMs = await costOf(sas);
const after = await memory();
if (after.up !== sas) throw new Error(`${after.up} of ${sas} IKE SAs are up`);
const restCpu = await responder.cpuUs();
await delay(restSeconds * 1000);
const restUs = (await responder.cpuUs()) - restCpu;
const still = await memory();
if (still.up !== sas) throw new Error(`at rest ${sas - still.up} of ${sas} IKE SAs were lost`);
console.log(
  JSON.stringify({
    sas,
    kbPerSa: round((after.rssKb - before.rssKb) / (sas - SAMPLE), 100),
    rssMb: round(after.rssKb / 1024),
    cpuMsEach: { first: firstMs, last: lastMs, ratio: round(lastMs / firstMs, 100) },
    rest: {
      seconds: restSeconds,
      cpuSeconds: round(restUs / 1_000_000, 100),
      livenessChecks: clients.reduce((sum, { answered }) => sum + answered, 0),
    },
    load: loadavg()[0],
  }),
);
for (const client of clients) client.close();

/** Processor time of the responder for each negotiation up to this many, in ms. */
async function costOf(total: number): Promise<number> {
  const [startUs, count] = [await responder.cpuUs(), total - clients.length];
  await negotiateTo(total);
  return round(((await responder.cpuUs()) - startUs) / 1000 / count, 1000);
}

async function negotiateTo(total: number): Promise<void> {
  const loop = async (): Promise<void> => {
    while (clients.length < total) {
      const address = clientAddress(clients.length);
      const opened = IkeClient.open(address, { address: OUR_ADDRESS, port: 500 });
      const place = clients.length;
      clients.length += 1;
      const client = await opened;
      clients[place] = client;
      await client.negotiate({ identity: address, certificate: null });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, loop));
  process.stderr.write(`${total} IKE SAs\n`);
}

async function memory(): Promise<{ rssKb: number; up: number }> {
  return (await responder.ask("memory")) as { rssKb: number; up: number };
}
