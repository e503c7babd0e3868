/**
 * Complete negotiations (IKE_SA_INIT and IKE_AUTH, X25519, AES-CBC with HMAC-SHA-256, one Child SA in transport mode with AES-GCM)
 * as responder: ours beside Debian's strongSwan, in one run, on one kernel, with the same initiator (ours, another process).
 *
 * - Both install states and policies in the kernel before they answer. Ours: runner, core and reconciler of the product, in one
 *   process, without the rest of the node (no targets, no numbers). Theirs: charon with its 16 threads. Neither writes a log.
 * - A round is a number of negotiations, a few at a time, at each of the two in turning order; processor time is that of the
 *   responder's process alone. Everything that was negotiated stays. Medians over the rounds; the first one is not counted.
 * - `ratio`: negotiations per second of processor time, ours over theirs; above 1 ours needs less.
 */
import { createPrivateKey } from "node:crypto";
import { availableParallelism, loadavg } from "node:os";
import { parseArgs } from "node:util";
import { NOW_MS, TestCertificate } from "../support/certificates.ts";
import { AskedProgram } from "./asked-program.ts";
import { median, round, spread } from "./closed-loop.ts";
import { IkeClient, type ClientProof } from "./ike-client.ts";
import {
  CERTIFICATE_CLIENT,
  clientAddress,
  OUR_ADDRESS,
  PSK_CLIENT,
  RESPONDER,
  STRONGSWAN_ADDRESS,
  STRONGSWAN_PORT,
} from "./ike-lab.ts";
import { StrongSwanResponder } from "./ike-strongswan.ts";

const ROUNDS = 5;
const NEGOTIATIONS = 200;
const AT_ONCE = 8;
const DAY_MS = 86_400_000;

const { values } = parseArgs({
  options: {
    rounds: { type: "string" },
    negotiations: { type: "string" },
    help: { type: "boolean" },
  },
});
const rounds = Number(values.rounds ?? ROUNDS);
const negotiations = Number(values.negotiations ?? NEGOTIATIONS);
const isCount = (value: number): boolean => Number.isInteger(value) && value >= 1;
if (values.help === true || !isCount(rounds) || !isCount(negotiations)) {
  process.stdout.write(`Usage: scripts/bench ike [--rounds N] [--negotiations N]

  --rounds N        rounds that count, each with both responders and both proofs (default ${ROUNDS})
  --negotiations N  in each of them (default ${NEGOTIATIONS})
`);
  process.exit(values.help === true ? 0 : 2);
}

type Name = "ours" | "strongswan";
type Proof = "psk" | "ecdsa";
interface Sample {
  readonly perSecond: number;
  readonly cpuMsEach: number;
  readonly kbPerSa: number;
}
interface Subject {
  readonly responder: { readonly address: string; readonly port: number };
  cpuUs(): Promise<number>;
  rssKb(): Promise<number>;
}

// In date by the clock of this machine, which strongSwan goes by.
const dates = { notBeforeMs: Date.now() - DAY_MS, notAfterMs: Date.now() + DAY_MS };
const root = TestCertificate.root("CN=Bench", dates);
const own = root.leaf("CN=sun", { dns: [RESPONDER], ...dates });
const client = root.leaf("CN=star", { dns: [CERTIFICATE_CLIENT], ...dates });
const proofs: Record<Proof, ClientProof> = {
  psk: { identity: PSK_CLIENT, certificate: null },
  ecdsa: {
    identity: CERTIFICATE_CLIENT,
    certificate: { der: client.certificate.der, key: createPrivateKey(client.privatePem) },
  },
};
const hex = (certificate: TestCertificate): string => Buffer.from(certificate.certificate.der).toString("hex");
const order = {
  ...{ clients: 0, kernel: true, wallClockMs: Math.max(NOW_MS, Date.now()) },
  ...{ authority: hex(root), certificate: hex(own), key: own.privatePem },
};
await using ours = await AskedProgram.start(process.execPath, ["test/bench/ike-responder.ts", JSON.stringify(order)]);
await using strongswan = await StrongSwanResponder.start(root, own);
const subjects: Record<Name, Subject> = {
  ours: {
    responder: { address: OUR_ADDRESS, port: 500 },
    cpuUs: () => ours.cpuUs(),
    rssKb: async () => ((await ours.ask("memory")) as { rssKb: number }).rssKb,
  },
  strongswan: {
    responder: { address: STRONGSWAN_ADDRESS, port: STRONGSWAN_PORT },
    cpuUs: () => strongswan.cpuUs(),
    rssKb: () => strongswan.rssKb(),
  },
};

const samples: Record<Name, Record<Proof, Sample[]>> = {
  ours: { psk: [], ecdsa: [] },
  strongswan: { psk: [], ecdsa: [] },
};
for (let at = 0; at <= rounds; at++) {
  const names: readonly Name[] = at % 2 === 0 ? ["ours", "strongswan"] : ["strongswan", "ours"];
  for (const proof of ["psk", "ecdsa"] as const) {
    for (const name of names) {
      const sample = await measure(subjects[name], proofs[proof]);
      process.stderr.write(`round ${at} of ${rounds}: ${name} ${proof} ${JSON.stringify(sample)}\n`);
      if (at > 0) samples[name][proof].push(sample);
    }
  }
}
console.log(
  JSON.stringify({
    ours: { psk: summary("ours", "psk"), ecdsa: summary("ours", "ecdsa") },
    strongswan: { psk: summary("strongswan", "psk"), ecdsa: summary("strongswan", "ecdsa") },
    ratio: { psk: ratio("psk"), ecdsa: ratio("ecdsa") },
    ...{ rounds, negotiations },
    machine: { processors: availableParallelism(), load: loadavg()[0] },
  }),
);

async function measure(subject: Subject, proof: ClientProof): Promise<Sample> {
  const clients = await Promise.all(
    Array.from({ length: AT_ONCE }, (_, i) => IkeClient.open(clientAddress(i), subject.responder)),
  );
  let left = negotiations;
  const loop = async (one: IkeClient): Promise<void> => {
    while (left-- > 0) await one.negotiate(proof);
  };
  const rssBefore = await subject.rssKb();
  const [cpuBefore, startMs] = [await subject.cpuUs(), performance.now()];
  await Promise.all(clients.map(loop));
  const seconds = (performance.now() - startMs) / 1000;
  const cpuMs = ((await subject.cpuUs()) - cpuBefore) / 1000;
  const rssAfter = await subject.rssKb();
  for (const one of clients) one.close();
  return {
    perSecond: round(negotiations / seconds),
    cpuMsEach: round(cpuMs / negotiations, 1000),
    kbPerSa: round((rssAfter - rssBefore) / negotiations),
  };
}

function summary(name: Name, proof: Proof): Record<string, number> {
  const of = (key: keyof Sample): number[] => samples[name][proof].map((sample) => sample[key]);
  return {
    perSecond: median(of("perSecond")),
    cpuMsEach: median(of("cpuMsEach")),
    cpuSpread: spread(of("cpuMsEach")),
    kbPerSa: median(of("kbPerSa")),
  };
}

function ratio(proof: Proof): number {
  const theirs = samples.strongswan[proof];
  return round(median(samples.ours[proof].map(({ cpuMsEach }, i) => (theirs[i]?.cpuMsEach ?? NaN) / cpuMsEach)), 100);
}
