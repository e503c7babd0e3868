import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import { ipToBytes } from "../../core/ip.ts";
import type { Log } from "../../core/log.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import { openPacketLog, type LoggedPacket } from "../../net/nflog.ts";
import { packetBytes, parseIp } from "../../sa/ip-header.ts";
import { IP_PROTOCOL } from "../../sa/packet.ts";
import type { DvipaFilter } from "../../sa/filter.ts";
import type { SharedSa } from "../../sa/spec.ts";
import { FILTER_LOG_GROUP, FILTER_LOG_SNAP_BYTES } from "./filter-ruleset.ts";

/** Lines of all rules together, in each second: each is some hundred bytes on a disk. Our choice. */
const LINES_PER_SECOND = 50;
const SCTP = 132;
/** Protocols whose header begins with two ports. */
const WITH_PORTS: readonly number[] = [IP_PROTOCOL.tcp, IP_PROTOCOL.udp, SCTP];

type Peer = Pick<SharedSa, "peer" | "peerName" | "peerIdentity">;

export interface FilterLogContext {
  /** The filter of a DVIPA as it stands. */
  readonly filterOf: (dvipa: string) => DvipaFilter | undefined;
  readonly sas: () => Iterable<SharedSa>;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/** Writes a line for each packet that a rule wants logged (R27): rule, connection and peer, nothing that it carries. */
export class FilterLog {
  readonly #context: FilterLogContext;
  readonly #lines = new RateLimit(LINES_PER_SECOND);
  #socket: Promise<NetlinkSocket> | null = null;

  constructor(context: FilterLogContext) {
    this.#context = context;
  }

  /** Resolves once lines are written, or cannot be: then it is said, and the next call tries again. */
  async open(): Promise<void> {
    this.#socket ??= openPacketLog({
      group: FILTER_LOG_GROUP,
      copyRangeBytes: FILTER_LOG_SNAP_BYTES,
      onPacket: (packet) => this.#write(packet),
      onOverrun: () => this.#context.counters.add("filter.logLost"),
      onFault: (error) =>
        this.#context.log.error("a filtered packet could not be logged", { reason: messageOf(error) }),
    });
    try {
      await this.#socket;
    } catch (error) {
      this.#socket = null;
      this.#context.counters.add("filter.logUnavailable");
      this.#context.log.error("packets of filter rules cannot be logged", { reason: messageOf(error) });
    }
  }

  close(): void {
    this.#socket?.then(
      (socket) => socket.close(),
      () => {},
    );
    this.#socket = null;
  }

  #write({ prefix, payload }: LoggedPacket): void {
    const { clock, counters, log } = this.#context;
    const line = this.#describe(prefix, payload);
    if (line === null) return;
    if (this.#lines.take(clock.nowMs())) log.info("packet of a filter rule", line);
    else counters.add("filter.logSuppressed");
  }

  #describe(prefix: string, payload: Uint8Array): Readonly<Record<string, unknown>> | null {
    const [dvipa = "", place = ""] = prefix.split(" ");
    const filter = this.#context.filterOf(dvipa);
    const header = parseIp(packetBytes(payload), { whole: false });
    if (filter === undefined || typeof header === "string") return null;
    const decided = decision(filter, place);
    if (decided === null) return null;
    const { source, destination, protocol } = header;
    // A packet of a wrong tunnel says nothing of who has sent it: its source is somebody else's.
    const peer = place === "wrong_tunnel" ? null : peerOf(this.#context.sas(), dvipa, source);
    return {
      ...decided,
      ...{ dvipa, protocol },
      ...endsOf(source, destination, protocol, payload.subarray(header.headerBytes)),
      ...(peer === null ? {} : { peer: peer.peerName, peerAddress: peer.peer, identity: peer.peerIdentity }),
    };
  }
}

function decision({ rules, policy }: DvipaFilter, place: string): { rule: string; action: string } | null {
  if (place === "wrong_tunnel") return { rule: "tunnel check", action: "drop" };
  if (place === "unmatched") return { rule: "policy", action: policy };
  const rule = rules[Number(place.slice(1))];
  return rule === undefined ? null : { rule: rule.name, action: rule.action };
}

function endsOf(source: string, destination: string, protocol: number, rest: Uint8Array): object {
  if (!WITH_PORTS.includes(protocol) || rest.length < 4) return { source, destination };
  const view = new DataView(rest.buffer, rest.byteOffset, rest.length);
  return { source, sourcePort: view.getUint16(0), destination, destinationPort: view.getUint16(2) };
}

/** Who may have this address inside: the packet has passed the tunnel check, so it came from one of them. */
function peerOf(sas: Iterable<SharedSa>, dvipa: string, source: string): Peer | null {
  const bytes = ipToBytes(source);
  for (const sa of sas) {
    if (sa.dvipa !== dvipa) continue;
    const isIn = sa.remoteSelectors.some(({ startAddress, endAddress }) => {
      const [first, last] = [ipToBytes(startAddress), ipToBytes(endAddress)];
      return first.length === bytes.length && Buffer.compare(first, bytes) <= 0 && Buffer.compare(bytes, last) <= 0;
    });
    if (isIn) return sa;
  }
  return null;
}
