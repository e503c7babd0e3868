import { icvMark, isAuthentic } from "../sa/authenticity.ts";
import { distributionOf } from "../sa/combinations.ts";
import { IP_PROTOCOL, parseEsp, type EspPacket, type EspParseFailure } from "../sa/packet.ts";
import { createPeeker, type Peeker } from "../sa/peek.ts";
import { localEndOf, type SharedSa } from "../sa/spec.ts";
import { protocolOf, type IpsecProtocol } from "../sa/suite.ts";
import { stripUdp, type StripFailure } from "../sa/udp-encapsulation.ts";
import { isFirstSyn, type ConnectionKey, type ConnectionTable } from "./connection-table.ts";
import { InboundReplay } from "./inbound-replay.ts";

/** Why a packet was dropped; each is a counter `steer.drop.<reason>`. */
export type DropReason =
  | EspParseFailure
  | StripFailure
  | "unknownSpi"
  | "wrongSource"
  | "unexpectedUdp"
  | "missingUdp"
  | "nested"
  | "replayed"
  | "tooOld"
  | "forged"
  | "noTarget"
  | "noListener"
  | "tableFull"
  | "tooManyHalfOpen";
/** Why a packet is left to the distributor's own kernel; each is a counter `steer.local.<reason>`. */
export type LocalReason = "notTcp" | "notDistributed" | "noConnection" | "unreadable";

const IPSEC_PROTOCOLS: readonly number[] = [IP_PROTOCOL.esp, IP_PROTOCOL.ah];

/** A packet that goes on; `stripped` takes its place when it came in UDP. */
interface Passing {
  readonly sa: SharedSa;
  readonly esp: EspPacket;
  /** Whoever passes it on tells the SA's replay protection the node. */
  readonly replay: InboundReplay;
  readonly stripped: Uint8Array | null;
}
/** `opened`: it goes there decrypted, by this host's own kernel. */
type Forward = {
  readonly kind: "forward";
  readonly target: string;
  readonly isNew: boolean;
  readonly opened: boolean;
};
type Local = { readonly kind: "local"; readonly reason: LocalReason };
/** `unknown`: names the SA that is not there, where that is the reason. */
type Drop = { readonly kind: "drop"; readonly reason: DropReason; readonly unknown?: EspPacket };

/** What happens to one inbound packet, and why. */
export type Verdict = (Forward & Passing) | (Local & Passing) | Drop;

interface InboundSa {
  readonly sa: SharedSa;
  readonly protocol: IpsecProtocol;
  readonly peeker: Peeker;
  readonly replay: InboundReplay;
}

/** The inbound look-up: SAs by protocol, SPI and local end (RFC 4301 §4.1), each with its keyed peeker. */
export class InboundSas {
  /** Every packet looks here, so no key is put together for it: an SPI has one SA, or one for each protocol and local end. */
  readonly #bySpi = new Map<number, readonly InboundSa[]>();

  add(sa: SharedSa): void {
    const replay = new InboundReplay(sa.inboundWindowPackets, sa.esn);
    const inbound: InboundSa = { sa, protocol: protocolOf(sa.suite), peeker: createPeeker(sa), replay };
    this.#bySpi.set(sa.inbound.spi, [...this.#others(sa), inbound]);
  }

  remove(sa: SharedSa): void {
    const others = this.#others(sa);
    if (others.length > 0) this.#bySpi.set(sa.inbound.spi, others);
    else this.#bySpi.delete(sa.inbound.spi);
  }

  find({ protocol, spi, outer }: EspPacket): InboundSa | null {
    const found = this.#bySpi.get(spi);
    if (found === undefined) return null;
    for (const inbound of found) {
      if (inbound.protocol === protocol && localEndOf(inbound.sa) === outer.destination) return inbound;
    }
    return null;
  }

  hasSpi(spi: number): boolean {
    return this.#bySpi.has(spi);
  }

  /** Null for one that is not there. */
  replayOf({ id, inbound: { spi } }: SharedSa): InboundReplay | null {
    return this.#bySpi.get(spi)?.find(({ sa }) => sa.id === id)?.replay ?? null;
  }

  /** All of them, with their replay protection. */
  *[Symbol.iterator](): Generator<{ readonly sa: SharedSa; readonly replay: InboundReplay }> {
    for (const found of this.#bySpi.values()) yield* found;
  }

  #others(own: SharedSa): readonly InboundSa[] {
    const isThis = ({ sa, protocol }: InboundSa): boolean =>
      localEndOf(sa) === localEndOf(own) && protocol === protocolOf(own.suite);
    return (this.#bySpi.get(own.inbound.spi) ?? []).filter((inbound) => !isThis(inbound));
  }
}

/** What the decision looks at, besides the packet. */
export interface SteeringTables {
  readonly sas: InboundSas;
  readonly connections: ConnectionTable;
  /** True when TCP connections to this port of the DVIPA are distributed. */
  isDistributed(dvipa: string, port: number): boolean;
  /** True when the distributor decrypts and filters what goes to the DVIPA's targets; absent: never. */
  isOpenedHere?(dvipa: string): boolean;
  /** The target for a new connection, or why there is none: no target can be reached, or none has a listener. */
  chooseTarget(connection: ConnectionKey, nowMs: number): { readonly target: string } | "noTarget" | "noListener";
}

/**
 * Decides about one whole IP packet with ESP (bare or in UDP) or AH to a DVIPA, or to an address of this node's at which SAs for
 * one end: forward it to a target, leave it to the
 * distributor's own kernel, or drop it (seeds, figure 8; R12–R14). Only the connection table changes. Fail closed: what belongs
 * to no SA of a DVIPA is dropped, and what is in UDP for an SA that is not, or the other way round.
 */
export function decide(packet: Uint8Array, tables: SteeringTables, nowMs: number): Verdict {
  const stripped = stripUdp(packet);
  if (typeof stripped === "string") return { kind: "drop", reason: stripped };
  const esp = parseEsp(stripped ?? packet);
  if (typeof esp === "string") return { kind: "drop", reason: esp };
  const found = tables.sas.find(esp);
  if (found === null) return { kind: "drop", reason: "unknownSpi", unknown: esp };
  const { sa, peeker, replay } = found;
  if (esp.outer.source !== sa.peer) return { kind: "drop", reason: "wrongSource" };
  // Whatever port it comes from: a NAT may have given its peer another one, and the ICV tells who it is.
  if (stripped !== null && sa.peerUdpPort === null) return { kind: "drop", reason: "unexpectedUdp" };
  if (stripped === null && sa.peerUdpPort !== null) return { kind: "drop", reason: "missingUdp" };
  const refusal = replayRefusal(sa, replay, stripped ?? packet, esp);
  if (refusal !== null) return { kind: "drop", reason: refusal };
  const way = steer(esp, sa, peeker, tables, nowMs);
  return way.kind === "drop" ? way : { ...way, sa, esp, replay, stripped };
}

/** What replay protection has against a packet (without UDP); null when it may pass. Nothing is changed. */
export function replayRefusal(
  sa: SharedSa,
  replay: InboundReplay,
  packet: Uint8Array,
  esp: EspPacket,
): "replayed" | "tooOld" | "forged" | null {
  const { sequence } = esp;
  const admission = replay.admit(sequence);
  if (admission === "fresh") return null;
  if (admission !== "doubled") return admission;
  if (!isAuthentic(sa, packet, esp, replay.highHalfOf(sequence))) return "forged";
  return replay.isTwin(sequence, icvMark(esp)) ? "replayed" : null;
}

function steer(
  esp: EspPacket,
  sa: SharedSa,
  peeker: Peeker,
  tables: SteeringTables,
  nowMs: number,
): Forward | Local | Drop {
  const peeked = peeker.peek(esp.payload, esp.outer.source, esp.outer.destination);
  if (peeked.kind === "unreadable") {
    return peeked.reason === "tooShort" || peeked.reason === "badLength"
      ? { kind: "drop", reason: "tooShort" }
      : { kind: "local", reason: "unreadable" };
  }
  // Nobody negotiates this with us (docs/cluster-file.md): what stands behind such a header belongs to no connection of ours.
  if (peeked.kind === "other" && esp.protocol === "ah" && IPSEC_PROTOCOLS.includes(peeked.protocol)) {
    return { kind: "drop", reason: "nested" };
  }
  if (peeked.kind === "other") return { kind: "local", reason: "notTcp" };

  const { tcp } = peeked;
  const { connection, crypto } = distributionOf({
    ...{ protocols: esp.protocol, mode: sa.mode, payload: "tcp", isOuterDvipa: sa.gateway === undefined },
    isInnerDvipa: sa.mode === "tunnel" ? peeked.destination === sa.dvipa : null,
    isNullEncrypted: sa.suite.kind === "null",
  });
  if (!connection) return { kind: "local", reason: "notDistributed" };
  const key: ConnectionKey = {
    client: peeked.source,
    clientPort: tcp.sourcePort,
    dvipa: sa.dvipa,
    port: tcp.destinationPort,
  };
  const known = tables.connections.follow(key, tcp, nowMs);
  const opened = !crypto || (tables.isOpenedHere?.(sa.dvipa) ?? false);
  if (known !== null) return { kind: "forward", target: known.target, isNew: false, opened };
  // Behind the table: a target may have opened a connection itself, from any port.
  if (!tables.isDistributed(sa.dvipa, tcp.destinationPort)) return { kind: "local", reason: "notDistributed" };
  if (!isFirstSyn(tcp)) return { kind: "local", reason: "noConnection" };
  const choice = tables.chooseTarget(key, nowMs);
  if (typeof choice === "string") return { kind: "drop", reason: choice };
  const { target } = choice;
  const admission = tables.connections.add(key, target, sa.peer, nowMs);
  if (admission !== "added") return { kind: "drop", reason: admission };
  return { kind: "forward", target, isNew: true, opened };
}
