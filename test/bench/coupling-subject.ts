import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { BusClient } from "../../src/bus/client.ts";
import type { BusConnection } from "../../src/bus/connection.ts";
import { loadCredentials } from "../../src/bus/credentials.ts";
import { initPki, issueCertificate } from "../../src/cli/pki.ts";
import { systemClock } from "../../src/core/clock.ts";
import { Counters } from "../../src/core/counters.ts";
import { silentLog } from "../../src/core/log.ts";
import { readJournal } from "../../src/sequence/journal-record.ts";
import { Blocks } from "./blocks.ts";
import { LOOPBACK, Program, freePort } from "./programs.ts";
import { COUNT_NUMBERS, LINES, type Session, type Subject, WINDOW_PACKETS } from "./subject.ts";

const ESPLEX = new URL("../../bin/esplex", import.meta.url).pathname;
const CLUSTER = "bench";
const DVIPA = "2001:db8::100";
const PKI = "pki";
const STATE = "state";

const nodeName = (index: number): string => `n${index}`;
/** A node keeps the id of an SA as text; so do the callers here. */
const SA_IDS = Array.from({ length: LINES }, (_, line) => line.toString(16).padStart(32, "0"));
const saOf = (line: number): string => SA_IDS[line] ?? "";

/** What the journal holds: each record is one write and one fdatasync; each raise is one SA's ceiling in it. */
export interface JournalCounts {
  readonly records: number;
  readonly raises: number;
}

/** `esplex coupling` with its state in `directory` and `LINES` SAs. Nodes n0, n1, … have certificates; n0 owns the DVIPA. */
export class CouplingSubject implements Subject {
  readonly name = "ours";
  readonly program: Program;
  readonly #directory: string;
  readonly #port: number;
  readonly #blocks = new Blocks();
  #epoch = 0n;

  private constructor(program: Program, directory: string, port: number) {
    this.program = program;
    this.#directory = directory;
    this.#port = port;
  }

  static async start(directory: string, nodes: number): Promise<CouplingSubject> {
    await mkdir(directory);
    const pki = join(directory, PKI);
    await initPki(pki, CLUSTER);
    await issueCertificate(pki, { kind: "coupling", cluster: CLUSTER });
    for (let i = 0; i < nodes; i++) await issueCertificate(pki, { kind: "node", cluster: CLUSTER, name: nodeName(i) });
    const port = await freePort();
    const clusterFile = join(directory, "cluster.yaml");
    await writeFile(
      clusterFile,
      `cluster: ${CLUSTER}
bus: { coupling: "${LOOPBACK}:${port}" }
dvipas:
  - { address: "${DVIPA}", distributor: ${nodeName(0)}, targets: ALL, ports: ALL }
`,
    );
    const { certificate, key, ca } = filesOf(directory, "coupling");
    const program = await Program.start(
      ESPLEX,
      [
        ...["coupling", "--cluster", clusterFile, "--state", join(directory, STATE), "--run", join(directory, "run")],
        ...["--certificate", certificate, "--key", key, "--ca", ca],
      ],
      '"started"',
    );
    const subject = new CouplingSubject(program, directory, port);
    try {
      await subject.#register();
      return subject;
    } catch (error) {
      await program[Symbol.asyncDispose]();
      throw error;
    }
  }

  async open(callers: number, isShared: boolean): Promise<Session> {
    const nodes = Array.from({ length: isShared ? 1 : callers }, (_, index) => nodeName(index));
    const dialled = await Promise.all(nodes.map((node) => this.#dial(node)));
    const epoch = this.#epoch;
    const line = Array.from({ length: callers }, (_, caller) => caller);
    const ends: bigint[] = [];
    const connectionOf = (caller: number): BusConnection => {
      const found = dialled[isShared ? 0 : caller];
      if (found === undefined) throw new Error(`no caller ${caller}`);
      return found.connection;
    };
    return {
      call: async (caller) => {
        const at = line[caller] ?? 0;
        line[caller] = (at + callers) % LINES;
        // As after a lease that was used up: what was granted last has been sent.
        const request = { sa: saOf(at), epoch, count: COUNT_NUMBERS, nextUnsent: ends[at] ?? 0n };
        const { first, end } = await connectionOf(caller).request("reserve", request);
        ends[at] = end;
        this.#blocks.add(at, Number(first), Number(end));
      },
      close: async () => {
        const release = (at: number): Promise<unknown> =>
          connectionOf(at % callers).request("release", { sa: saOf(at), epoch, nextUnsent: 0n });
        await Promise.all(ends.map((_, at) => release(at)));
        for (const { client } of dialled) client.close();
      },
    };
  }

  async journalCounts(): Promise<JournalCounts> {
    const path = join(this.#directory, STATE, "journal");
    const bytes = await readFile(path);
    const raises = readJournal(bytes, path).changes.filter(({ kind }) => kind === "raise").length;
    return { records: bytes.filter((byte) => byte === 0x0a).length, raises };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.program[Symbol.asyncDispose]();
  }

  async #register(): Promise<void> {
    const { client, connection } = await this.#dial(nodeName(0));
    const { epoch } = await connection.request("own", { dvipa: DVIPA });
    this.#epoch = epoch;
    const register = (line: number): Promise<unknown> =>
      connection.request("registerSa", {
        ...{ sa: saOf(line), dvipa: DVIPA, epoch, firstNumber: 1n },
        ...{ windowPackets: WINDOW_PACKETS, esn: true, counterNonce: false },
      });
    await Promise.all(Array.from({ length: LINES }, (_, line) => register(line)));
    client.close();
  }

  async #dial(node: string): Promise<{ client: BusClient; connection: BusConnection }> {
    const credentials = await loadCredentials(filesOf(this.#directory, node));
    return new Promise((resolve) => {
      const client: BusClient = new BusClient({
        ...{ host: LOOPBACK, port: this.#port, cluster: CLUSTER, self: node, credentials },
        ...{ clock: systemClock, counters: new Counters(), log: silentLog },
        expect: { kind: "coupling", cluster: CLUSTER },
        handlers: () => ({ notices: { members: () => {}, recall: () => {}, fenced: () => {}, rekeySoon: () => {} } }),
        onOpen: async (connection) => {
          await connection.request("hello", { node, instance: "1", listen: null, distributes: [] });
          resolve({ client, connection });
        },
      });
    });
  }
}

function filesOf(directory: string, name: string): { certificate: string; key: string; ca: string } {
  const at = (file: string): string => join(directory, PKI, file);
  return { certificate: at(`${name}.crt`), key: at(`${name}.key`), ca: at("ca.crt") };
}
