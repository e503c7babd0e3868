import { randomBytes } from "node:crypto";
import { open, readFile } from "node:fs/promises";
import type { LabNetwork } from "./network.ts";
import { Program } from "./program.ts";
import { until } from "./until.ts";

/** Enough for Ethernet, IPv4 with options and the ESP or UDP header. */
const SNAPSHOT_BYTES = 96;
/** Kernel buffer of the capture, KiB: holds a burst while tcpdump waits for a CPU. Our choice. */
const BUFFER_KIB = 65_536;
const START_LIMIT_MS = 30_000;
const FLUSH_LIMIT_MS = 30_000;
/** The most that `ping -p` takes. */
const MARKER_BYTES = 16;

/** A running capture of the client's link (of its NAT's on the client network, where there is one), taken on the bridge port: it sees what is on the wire and nothing else. */
export class Capture {
  readonly path: string;
  readonly #network: LabNetwork;
  readonly #tcpdump: Program;

  /** An address that answers a ping in clear: d1's own. */
  readonly #neighbour: string;

  private constructor(path: string, network: LabNetwork, tcpdump: Program, neighbour: string) {
    this.#neighbour = neighbour;
    this.path = path;
    this.#network = network;
    this.#tcpdump = tcpdump;
  }

  /** Starts tcpdump and waits until it captures. `path` must not exist; its log goes beside it. */
  static async start(network: LabNetwork, path: string): Promise<Capture> {
    const tap = network.natAddress === null ? "client" : "nat";
    const tcpdump = Program.start({
      network,
      node: "net",
      label: "tcpdump",
      // `-Z root`: Debian's tcpdump would give up root before it opens the file. `-U`: each packet is written at once.
      command: [
        ...["tcpdump", "-i", network.interfaceOf(tap, "client").port, "-w", path, "-U", "-n", "-Z", "root"],
        ...["-s", String(SNAPSHOT_BYTES), "-B", String(BUFFER_KIB)],
      ],
      logFile: `${path}.log`,
    });
    await until("tcpdump captures", START_LIMIT_MS, async () => {
      await tcpdump.assertRunning();
      return (await readFile(tcpdump.logFile, "utf8")).includes("listening on");
    });
    return new Capture(path, network, tcpdump, network.interfaceOf("d1", "client").address);
  }

  /**
   * Waits until everything sent so far is in the file (a marker packet shows it), then ends tcpdump. Returns how many
   * packets the kernel dropped before tcpdump saw them: unless it is zero, the capture proves nothing.
   */
  async stop(): Promise<{ readonly droppedByKernel: number }> {
    const marker = randomBytes(MARKER_BYTES);
    const ping = ["ping", "-c", "1", "-W", "1", "-p", marker.toString("hex"), this.#neighbour];
    await until("the marker packet is in the capture", FLUSH_LIMIT_MS, async () => {
      await this.#tcpdump.assertRunning();
      await this.#network.try("client", ping);
      return (await fileEnd(this.path)).includes(marker);
    });
    await this.#tcpdump.stop("SIGINT");
    const log = await readFile(this.#tcpdump.logFile, "utf8");
    const dropped = /^(\d+) packets? dropped by kernel$/m.exec(log)?.[1];
    if (dropped === undefined) throw new Error(`tcpdump did not say how many packets it lost:\n${log}`);
    return { droppedByKernel: Number(dropped) };
  }
}

const TAIL_BYTES = 65_536;

async function fileEnd(path: string): Promise<Buffer> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const start = Math.max(0, size - TAIL_BYTES);
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(size - start), position: start });
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
