import { parseEsp, type EspParseFailure } from "../sa/packet.ts";
import { createPeeker, type Peeker } from "../sa/peek.ts";
import type { SharedSa } from "../sa/spec.ts";
import { isFirstSyn, type ConnectionKey, type ConnectionTable } from "./connection-table.ts";

/** Why a packet was dropped; each is a counter `steer.drop.<reason>`. */
export type DropReason = EspParseFailure | "unknownSpi" | "wrongSource" | "noTarget";
/** Why a packet is left to the distributor's own kernel; each is a counter `steer.local.<reason>`. */
export type LocalReason = "notTcp" | "notDistributed" | "noConnection" | "unreadable";

/** What happens to one inbound packet, and why. */
export type Verdict =
  | { readonly kind: "forward"; readonly target: string; readonly sa: SharedSa; readonly isNew: boolean }
  | { readonly kind: "local"; readonly reason: LocalReason; readonly sa: SharedSa }
  | { readonly kind: "drop"; readonly reason: DropReason };

/** The inbound look-up: SAs by SPI, each with its keyed peeker. ESP to a DVIPA only, so the protocol is implied. */
export class InboundSas {
  readonly #bySpi = new Map<string, { readonly sa: SharedSa; readonly peeker: Peeker }>();

  add(sa: SharedSa): void {
    this.#bySpi.set(inboundKey(sa.inbound.spi, sa.dvipa), { sa, peeker: createPeeker(sa) });
  }

  remove(sa: SharedSa): void {
    this.#bySpi.delete(inboundKey(sa.inbound.spi, sa.dvipa));
  }

  find(spi: number, dvipa: string): { readonly sa: SharedSa; readonly peeker: Peeker } | null {
    return this.#bySpi.get(inboundKey(spi, dvipa)) ?? null;
  }
}

function inboundKey(spi: number, dvipa: string): string {
  return `${spi} ${dvipa}`;
}

/** What the decision looks at, besides the packet. */
export interface SteeringTables {
  readonly sas: InboundSas;
  readonly connections: ConnectionTable;
  /** True when TCP connections to this port of the DVIPA are distributed. */
  isDistributed(dvipa: string, port: number): boolean;
  /** The target for a new connection; null when none can take it. */
  chooseTarget(connection: ConnectionKey): string | null;
}

/**
 * Decides about one whole IP packet with ESP to a DVIPA: forward it to a target, leave it to the distributor's own
 * kernel, or drop it (seeds, figure 8; R12–R14). Only the connection table changes. Fail closed: what belongs to no SA
 * of a DVIPA is dropped.
 */
export function decide(packet: Uint8Array, tables: SteeringTables, nowMs: number): Verdict {
  const esp = parseEsp(packet);
  if (typeof esp === "string") return { kind: "drop", reason: esp };
  const found = tables.sas.find(esp.spi, esp.outer.destination);
  if (found === null) return { kind: "drop", reason: "unknownSpi" };
  const { sa, peeker } = found;
  if (esp.outer.source !== sa.peer) return { kind: "drop", reason: "wrongSource" };

  const peeked = peeker.peek(esp.payload, esp.outer.source, esp.outer.destination);
  if (peeked.kind === "unreadable") {
    return peeked.reason === "tooShort" || peeked.reason === "badLength"
      ? { kind: "drop", reason: "tooShort" }
      : { kind: "local", reason: "unreadable", sa };
  }
  if (peeked.kind === "other") return { kind: "local", reason: "notTcp", sa };

  const { tcp } = peeked;
  if (peeked.destination !== sa.dvipa || !tables.isDistributed(sa.dvipa, tcp.destinationPort)) {
    return { kind: "local", reason: "notDistributed", sa };
  }
  const key: ConnectionKey = {
    client: peeked.source,
    clientPort: tcp.sourcePort,
    dvipa: sa.dvipa,
    port: tcp.destinationPort,
  };
  const known = tables.connections.follow(key, tcp, nowMs);
  if (known !== null) return { kind: "forward", target: known.target, sa, isNew: false };
  if (!isFirstSyn(tcp)) return { kind: "local", reason: "noConnection", sa };
  const target = tables.chooseTarget(key);
  if (target === null) return { kind: "drop", reason: "noTarget" };
  tables.connections.add(key, target, nowMs);
  return { kind: "forward", target, sa, isNew: true };
}
