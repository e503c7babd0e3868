import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Lab } from "../../netns/lab.ts";
import type { Forgery } from "./forged-frames.ts";

const WORKER = fileURLToPath(new URL("replayer-worker.ts", import.meta.url));

/** An ESP packet to the DVIPA that was seen on the client's link. */
export interface Recorded {
  readonly spi: number;
  readonly sequence: number;
}

/** A port of the lab's bridges, and the MAC address that the frames get; null: the one that they had. */
export interface Way {
  readonly port: string;
  readonly mac: string | null;
}

/** What is forged, and how many packets: so many a second, or for each real one, which loads a slow machine as much as a fast one. */
export interface Forging {
  readonly kind: Forgery;
  readonly pace: { readonly perSecond: number } | { readonly perPacket: number };
}

type Command =
  | { readonly do: "record"; readonly port: string; readonly destination: string }
  | { readonly do: "list" }
  | (Way & { readonly do: "replay"; readonly first: number; readonly end: number; readonly spi: number | null })
  | { readonly do: "forge"; readonly port: string; readonly forging: Forging | null }
  | { readonly do: "follow"; readonly port: string; readonly delaysMs: readonly number[] | null };
export type Order = Command & { readonly id: number };
export interface Reply {
  readonly id: number;
  readonly recorded?: readonly Recorded[];
  readonly sent?: number;
  readonly error?: string;
}

/**
 * An attacker on the client network: records each ESP packet to the DVIPA (whole frames, from the client's bridge port) and sends
 * them again, byte by byte the same, to whomever it likes.
 */
export class Replayer implements AsyncDisposable {
  readonly #worker: ChildProcess;
  readonly #lab: Lab;
  readonly #waiting = new Map<number, { resolve: (reply: Reply) => void; reject: (error: Error) => void }>();
  #orders = 0;

  private constructor(lab: Lab, worker: ChildProcess) {
    this.#lab = lab;
    this.#worker = worker;
    worker.on("message", (reply: Reply) => {
      const waiting = this.#waiting.get(reply.id);
      this.#waiting.delete(reply.id);
      if (reply.error === undefined) waiting?.resolve(reply);
      else waiting?.reject(new Error(`the replayer: ${reply.error}`));
    });
    worker.on("exit", (code) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`the replayer ended: ${code ?? "killed"}`));
    });
  }

  /** Starts to record. */
  static async start(lab: Lab): Promise<Replayer> {
    const [file, ...args] = lab.network.inside("net", [process.execPath, WORKER]);
    const worker = spawn(file, args, { stdio: ["ignore", "inherit", "inherit", "ipc"], serialization: "advanced" });
    const replayer = new Replayer(lab, worker);
    await replayer.#order({
      do: "record",
      port: lab.network.interfaceOf("client", "client").port,
      destination: lab.network.dvipa,
    });
    return replayer;
  }

  /** What the client has sent so far, in order. */
  async recorded(): Promise<readonly Recorded[]> {
    return (await this.#order({ do: "list" })).recorded ?? [];
  }

  /** To the distributor, as the client's own packets go. */
  get toDistributor(): Way {
    return { port: this.#lab.network.interfaceOf("d1", "client").port, mac: null };
  }

  /** Past the distributor, straight to a target: over the client network, or as the distributor would, over the trusted link. */
  pastDistributor(target: string, network: "client" | "trust"): Way {
    const { port, mac } = this.#lab.network.interfaceOf(target, network);
    return { port, mac };
  }

  /** Sends recorded packets `[first, end)` again, those of one SPI when it is named; returns how many. */
  async replay({ port, mac }: Way, { first = 0, end = Infinity, spi = null as number | null } = {}): Promise<number> {
    return (await this.#order({ do: "replay", port, mac, first, end, spi })).sent ?? 0;
  }

  /** From now on every packet is sent to the distributor again, so much later each time; null: no more. Returns how many were so far. */
  async follow(delaysMs: readonly number[] | null): Promise<number> {
    return (await this.#order({ do: "follow", port: this.toDistributor.port, delaysMs })).sent ?? 0;
  }

  /** From now on sends the distributor forged packets, made from the newest real ones. Returns how many were so far. */
  forge(kind: Forgery, pace: Forging["pace"]): Promise<number> {
    return this.#forge({ kind, pace });
  }

  /** Forges no more. Returns how many were so far. */
  endForging(): Promise<number> {
    return this.#forge(null);
  }

  async #forge(forging: Forging | null): Promise<number> {
    return (await this.#order({ do: "forge", port: this.toDistributor.port, forging })).sent ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#worker.exitCode !== null) return;
    const ended = once(this.#worker, "exit");
    this.#worker.disconnect();
    await ended;
  }

  async #order(command: Command): Promise<Reply> {
    const id = ++this.#orders;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.send({ ...command, id });
    });
  }
}

/** One inbound state of a node's kernel. */
export interface InboundState {
  readonly node: string;
  readonly spi: number;
  /** What it has decrypted and authenticated: the kernel's own counter. */
  readonly packets: number;
}

/** The inbound states of all nodes of the cluster, as their kernels show them. */
export async function inboundStates(lab: Lab): Promise<readonly InboundState[]> {
  const all = await Promise.all(lab.nodes.map(({ node }) => statesOf(lab, node)));
  return all.flat();
}

async function statesOf(lab: Lab, node: string): Promise<readonly InboundState[]> {
  const text = await lab.network.run(node, ["ip", "-s", "xfrm", "state", "list", "nokeys"]);
  return text
    .split(/^(?=src )/m)
    .filter((block) => block.split("\n", 1)[0]?.includes(`dst ${lab.network.dvipa}`) === true)
    .map((block) => {
      const spi = /spi 0x([0-9a-f]+)/.exec(block)?.[1];
      const packets = /lifetime current:\s+\d+\(bytes\), (\d+)\(packets\)/.exec(block)?.[1];
      if (spi === undefined || packets === undefined) throw new Error(`${node}: ip shows something else:\n${block}`);
      return { node, spi: parseInt(spi, 16), packets: Number(packets) };
    });
}

/** What all kernels have accepted on the states that they have now. */
export async function acceptedPackets(lab: Lab): Promise<number> {
  return (await inboundStates(lab)).reduce((sum, { packets }) => sum + packets, 0);
}
