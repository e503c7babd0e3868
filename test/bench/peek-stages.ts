/** The parts of a verdict one by one, over the same packets; beside them a full decrypt. */
import { parseEsp, type EspPacket, type TcpSummary } from "../../src/sa/packet.ts";
import type { Peeker } from "../../src/sa/peek.ts";
import { ConnectionTable, type ConnectionKey } from "../../src/steer/connection-table.ts";
import { decide, InboundSas, type SteeringTables } from "../../src/steer/verdict.ts";
import { fullDecrypt, type FullDecrypt } from "./full-decrypt.ts";
import { benchPacket, benchSa, CONNECTIONS_PER_SA, PORT, SAS, type Shape } from "./steer-traffic.ts";

export const STAGES = ["parse", "lookup", "peek", "dct", "verdict", "decrypt"] as const;
export type Stage = (typeof STAGES)[number];

const NS_PER_US = 1000;
const TARGETS = ["t1", "t2", "t3"];

/** One packet, and what each stage makes of it: the input of the next. */
interface Prepared {
  readonly bytes: Uint8Array;
  readonly esp: EspPacket;
  readonly wholeEsp: Uint8Array;
  readonly peeker: Peeker;
  readonly tcp: TcpSummary;
  readonly key: ConnectionKey;
  readonly open: FullDecrypt;
}

/** Packets of established connections, of one suite, mode and length, with tables of their own. */
export class PeekStages {
  readonly #tables = emptyTables();
  readonly #prepared: readonly Prepared[];
  /** Every stage leaves something here: none can be optimised away. */
  #seen = 0;

  constructor(shape: Shape) {
    const sas = Array.from({ length: SAS }, (_, index) => benchSa(shape, index));
    for (const sa of sas) this.#tables.sas.add(sa);
    this.#prepared = Array.from({ length: CONNECTIONS_PER_SA }, (_, connection) => connection).flatMap((connection) =>
      sas.map((sa): Prepared => {
        decided(benchPacket(sa, connection, { syn: true }, shape.plainBytes), this.#tables);
        const bytes = benchPacket(sa, connection, { ack: true }, shape.plainBytes);
        decided(bytes, this.#tables);
        return this.#prepare(bytes, fullDecrypt(sa));
      }),
    );
  }

  /**
   * Microseconds per packet, over all packets once. That is short beside the time slice of a program: the fastest of some measurements
   * is one that nothing interrupted. (The processor time of a thread is told in steps of a tick.)
   */
  measure(stage: Stage): number {
    const run = this.#stages[stage];
    const startNs = process.hrtime.bigint();
    for (const packet of this.#prepared) this.#seen += run(packet);
    return Number(process.hrtime.bigint() - startNs) / NS_PER_US / this.#prepared.length;
  }

  get seen(): number {
    return this.#seen;
  }

  readonly #stages: Readonly<Record<Stage, (packet: Prepared) => number>> = {
    parse: ({ bytes }) => {
      const esp = parseEsp(bytes);
      return typeof esp === "string" ? NaN : esp.sequence;
    },
    lookup: ({ esp }) => {
      const found = this.#tables.sas.find(esp);
      return found !== null && esp.outer.source === found.sa.peer ? found.sa.reqid : NaN;
    },
    peek: ({ esp, peeker }) => {
      const peeked = peeker.peek(esp.payload, esp.outer.source, esp.outer.destination);
      return peeked.kind === "tcp" ? peeked.tcp.sourcePort : NaN;
    },
    dct: ({ key, tcp }) => this.#tables.connections.follow(key, tcp, 0)?.port ?? NaN,
    verdict: ({ bytes }) => decide(bytes, this.#tables, 0).kind.length,
    decrypt: ({ wholeEsp, open }) => open(wholeEsp).length,
  };

  /** Throws when a stage does not say what it should. */
  #prepare(bytes: Uint8Array, open: FullDecrypt): Prepared {
    const esp = parseEsp(bytes);
    if (typeof esp === "string") throw new Error(`a packet of our own is not parsed: ${esp}`);
    const found = this.#tables.sas.find(esp);
    const peeked = found?.peeker.peek(esp.payload, esp.outer.source, esp.outer.destination);
    if (found === null || peeked?.kind !== "tcp") throw new Error("a packet of our own cannot be read");
    const { source: client, destination: dvipa, tcp } = peeked;
    const wholeEsp = bytes.subarray(esp.outer.headerBytes);
    const plain = open(wholeEsp);
    const port = found.sa.mode === "tunnel" ? plain.readUInt16BE(20) : plain.readUInt16BE(0);
    if (port !== tcp.sourcePort) throw new Error("peek and full decrypt do not agree");
    const key = { client, clientPort: tcp.sourcePort, dvipa, port: tcp.destinationPort };
    return { bytes, esp, wholeEsp, peeker: found.peeker, tcp, key, open };
  }
}

function emptyTables(): SteeringTables {
  let turn = 0;
  return {
    sas: new InboundSas(),
    connections: new ConnectionTable(),
    isDistributed: (_dvipa, port) => port === PORT,
    chooseTarget: () => ({ target: TARGETS[turn++ % TARGETS.length] ?? "" }),
  };
}

function decided(packet: Uint8Array, tables: SteeringTables): void {
  const { kind } = decide(packet, tables, 0);
  if (kind !== "forward") throw new Error(`a packet of our own gets the verdict ${kind}`);
}
