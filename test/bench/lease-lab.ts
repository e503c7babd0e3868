import { mkdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { initPki, issueCertificate } from "../../src/cli/pki.ts";
import { examineCapture, type WireEvidence } from "../../netns/evidence.ts";
import { until } from "../../netns/until.ts";
import { verifyLedger, type LedgerEvidence } from "../fault/ledger-evidence.ts";
import { Namespace, veth } from "../netns/support/namespace.ts";
import type { Program } from "../netns/support/program.ts";
import { Worker } from "../netns/support/worker.ts";
import type { AgentHandlers } from "./lease-agent.ts";
import type { SenderHandlers } from "./lease-sender.ts";

/**
 *   sender: DVIPA 192.0.2.100, 192.0.2.101 (no DVIPA, for the baseline)      receiver: 192.0.2.10
 *   esplex coupling (127.0.0.1), agent, sending program  ── veth ──  tcpdump; no SA, so that it costs little
 */
export const DVIPA = "192.0.2.100";
export const UNLEASED_SOURCE = "192.0.2.101";
export const RECEIVER = "192.0.2.10";
/** Discard (RFC 863). */
export const PORT = 9;

const CLUSTER = "bench";
const NODE = "n0";
const BUS = { host: "127.0.0.1", port: 7600 };
const RECEIVER_MAC = "02:e5:00:00:00:0a";
const DEVICE = "link0";
const ESPLEX = new URL("../../src/cli/main.ts", import.meta.url).pathname;
const AGENT = new URL("lease-agent.ts", import.meta.url).pathname;
const SENDER = new URL("lease-sender.ts", import.meta.url).pathname;
/** Ethernet, IPv4, ESP header and IV. */
const SNAPSHOT_BYTES = 64;
/** Of the capture, KiB: a second of packets while tcpdump waits for a processor. */
const BUFFER_KIB = 65_536;
/** libpcap hands a block that is not full over after a second: by then all is in the file. */
const CAPTURE_SETTLES_MS = 3_000;
/** An emulated machine on a busy one takes minutes to start a daemon. Our choice. */
const START_LIMIT_MS = 240_000;

/** What can be said against, or for, the numbers that left. */
export interface Evidence {
  readonly wire: WireEvidence;
  readonly ledger: LedgerEvidence;
}

/** The two namespaces with everything that runs in them. */
export class LeaseLab implements AsyncDisposable {
  readonly agent: Worker<AgentHandlers>;
  readonly sender: Worker<SenderHandlers>;
  readonly #parts: AsyncDisposableStack;
  readonly #directory: string;
  readonly #coupling: Program;
  readonly #tcpdump: Program;

  private constructor(
    parts: AsyncDisposableStack,
    directory: string,
    [coupling, tcpdump]: readonly [Program, Program],
    [agent, sender]: readonly [Worker<AgentHandlers>, Worker<SenderHandlers>],
  ) {
    this.#parts = parts;
    this.#directory = directory;
    this.#coupling = coupling;
    this.#tcpdump = tcpdump;
    this.agent = agent;
    this.sender = sender;
  }

  /** Files go to `directory`; with `profileTo` the agent and the service leave processor profiles there. */
  static async start(directory: string, profileTo: string | null): Promise<LeaseLab> {
    await using parts = new AsyncDisposableStack();
    const sending = parts.use(await Namespace.create("send"));
    const receiving = parts.use(await Namespace.create("recv"));
    await join2(sending, receiving);
    const profile = profileTo === null ? [] : ["--cpu-prof", `--cpu-prof-dir=${profileTo}`];
    const coupling = await startCoupling(sending, directory, profile);
    const tcpdump = await startCapture(receiving, directory);
    const sender = parts.use(new Worker<SenderHandlers>(sending.spawn(process.execPath, [SENDER])));
    const agent = parts.use(new Worker<AgentHandlers>(sending.spawn(process.execPath, [...profile, AGENT])));
    await Promise.all([sender.ready(), agent.ready()]);
    const credentials = filesOf(directory, NODE);
    await agent.call("connect", { cluster: CLUSTER, node: NODE, ...BUS, credentials, dvipa: DVIPA });
    return new LeaseLab(parts.move(), directory, [coupling, tcpdump], [agent, sender]);
  }

  /** Ends the service and the capture, and has the product's own verifier compare them. Nothing can be sent after it. */
  async evidence(): Promise<Evidence> {
    const capture = captureOf(this.#directory);
    await settled(capture);
    this.#tcpdump.kill("SIGINT");
    await this.#tcpdump.ended;
    const dropped = /(\d+) packets? dropped by kernel/.exec(this.#tcpdump.stderr)?.[1];
    if (dropped !== "0") throw new Error(`tcpdump lost packets: ${this.#tcpdump.stderr}`);
    this.#coupling.kill("SIGTERM");
    await this.#coupling.ended;
    const ledger = await verifyLedger(join(this.#directory, "state", "ledger"), capture);
    return { wire: await examineCapture(capture, DVIPA), ledger };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.disposeAsync();
  }
}

async function join2(sending: Namespace, receiving: Namespace): Promise<void> {
  await veth(
    { namespace: sending, name: DEVICE, addresses: [`${DVIPA}/24`, `${UNLEASED_SOURCE}/24`] },
    { namespace: receiving, name: DEVICE, addresses: [] },
  );
  await receiving.ip(`link set ${DEVICE} address ${RECEIVER_MAC}`);
  await receiving.ip(`address add ${RECEIVER}/24 dev ${DEVICE}`);
  // No packet waits for an address resolution, and none of it is in the capture.
  await sending.ip(`neighbour replace ${RECEIVER} lladdr ${RECEIVER_MAC} dev ${DEVICE} nud permanent`);
}

async function startCoupling(namespace: Namespace, directory: string, profile: readonly string[]): Promise<Program> {
  const pki = join(directory, "pki");
  await mkdir(pki, { recursive: true });
  await initPki(pki, CLUSTER);
  await issueCertificate(pki, { kind: "coupling", cluster: CLUSTER });
  await issueCertificate(pki, { kind: "node", cluster: CLUSTER, name: NODE });
  const clusterFile = join(directory, "cluster.yaml");
  await writeFile(
    clusterFile,
    `cluster: ${CLUSTER}
bus: { coupling: "${BUS.host}:${BUS.port}" }
dvipas:
  - { address: "${DVIPA}", distributor: ${NODE}, targets: ALL, ports: ALL }
`,
  );
  const { certificate, key, ca } = filesOf(directory, "coupling");
  const coupling = namespace.spawn(process.execPath, [
    ...profile,
    ...[ESPLEX, "coupling", "--cluster", clusterFile, "--state", join(directory, "state")],
    ...["--certificate", certificate, "--key", key, "--ca", ca],
  ]);
  let end: number | string | null = null;
  void coupling.ended.then((how) => (end = how));
  await until("the coupling service has started", START_LIMIT_MS, () => {
    if (end !== null) throw new Error(`esplex coupling ended with ${end}: ${coupling.stderr}${coupling.stdout}`);
    return `${coupling.stdout}${coupling.stderr}`.includes('"started"');
  });
  return coupling;
}

async function startCapture(namespace: Namespace, directory: string): Promise<Program> {
  const capture = captureOf(directory);
  // Without `-U` and immediate mode: a wake-up and a write for each packet would take the processor from what is measured.
  const tcpdump = namespace.spawn("tcpdump", [
    ...["-Z", "root", "-n", "-p", "-s", `${SNAPSHOT_BYTES}`, "-B", `${BUFFER_KIB}`, "-Q", "in", "-i", DEVICE],
    ...["-w", capture, "ip"],
  ]);
  await until("tcpdump captures", START_LIMIT_MS, () => tcpdump.stderr.includes("listening on"));
  return tcpdump;
}

/** Waits until tcpdump has had the time to read what is there. */
async function settled(capture: string): Promise<void> {
  let size = -1;
  let sinceMs = performance.now();
  await until("tcpdump has read everything", START_LIMIT_MS, async () => {
    const now = await stat(capture);
    if (now.size !== size) sinceMs = performance.now();
    size = now.size;
    return performance.now() - sinceMs > CAPTURE_SETTLES_MS;
  });
}

const captureOf = (directory: string): string => join(directory, "packets.pcap");

function filesOf(directory: string, name: string): { certificate: string; key: string; ca: string } {
  const at = (file: string): string => join(directory, "pki", file);
  return { certificate: at(`${name}.crt`), key: at(`${name}.key`), ca: at("ca.crt") };
}
