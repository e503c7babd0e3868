import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import type { Clock, Timer } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { equalBytes } from "../../core/bytes.ts";
import { messageOf, unreachable } from "../../core/errors.ts";
import { ipFromBytes, ipToBytes, ipVersion } from "../../core/ip.ts";
import type { Log } from "../../core/log.ts";
import type { IkeCommand, IkeEffect, IkeEvent, IkeSaSummary, Path } from "../../ike/events.ts";
import { NAT_T_PORT, type SharedSa } from "../../sa/spec.ts";
import type { UnknownIpsec } from "./steering.ts";

/** RFC 7296 §2. */
const IKE_PORT = 500;
/** RFC 3948 §2.2: stands before IKE on port 4500, where an ESP packet would have its SPI. */
const NON_ESP_MARKER = new Uint8Array(4);
/** RFC 3948 §2.3. */
const NAT_KEEPALIVE = new Uint8Array([0xff]);
/** How long a stopping node waits for its peers to answer the DELETEs; our choice. */
const GOODBYE_MS = 1_500;
const GOODBYE_POLL_MS = 50;

/** The IKE core as the runner drives it. */
export interface DrivenCore {
  step(event: IkeEvent): IkeEffect[];
  snapshot(): { readonly ikeSas: readonly IkeSaSummary[] };
}

/** What the node does with negotiated SAs. */
export interface ChildSaActions {
  /** Resolves once the SA is in the kernels of the distributor and its targets. */
  install(sa: SharedSa, outbound: "now" | "hold"): Promise<void>;
  useOutbound(saId: string): Promise<void>;
  /** Resolves once no switch between this SA and others of its tunnel is under way. */
  untilSwitched(saId: string): Promise<void>;
  /** An SA in UDP goes to another port of its peer. */
  movePeer(saId: string, peerUdpPort: number): Promise<void>;
  remove(saId: string, reason: string): Promise<void>;
}

/**
 * Gives the IKE core its sockets, its clock and its effects: the only place of IKE that waits. Effects of one event
 * happen in order; an installation is reported back as an event, so it holds nothing up.
 */
export class IkeRunner {
  readonly #core: DrivenCore;
  readonly #actions: ChildSaActions;
  readonly #clock: Clock;
  readonly #counters: Counters;
  readonly #log: Log;
  /** By `address port`. */
  readonly #sockets = new Map<string, Socket>();
  #wake: Timer | null = null;

  constructor(core: DrivenCore, actions: ChildSaActions, clock: Clock, counters: Counters, log: Log) {
    this.#core = core;
    this.#actions = actions;
    this.#clock = clock;
    this.#counters = counters;
    this.#log = log;
  }

  get isOpen(): boolean {
    return this.#sockets.size > 0;
  }

  /** Listens on ports 500 and 4500 of each address, which must be on this host. A second call opens what is missing. */
  async start(addresses: readonly string[]): Promise<void> {
    for (const address of addresses) {
      for (const port of [IKE_PORT, NAT_T_PORT]) {
        const key = socketKey(address, port);
        if (!this.#sockets.has(key)) this.#sockets.set(key, await this.#open(address, port));
      }
    }
  }

  /** Says goodbye to every peer (DELETE), waits a moment for the answers, and closes. */
  async stop(): Promise<void> {
    if (this.isOpen) {
      this.command({ kind: "deleteAll" });
      const untilMs = this.#clock.nowMs() + GOODBYE_MS;
      while (this.summaries().some((sa) => sa.state !== "closed") && this.#clock.nowMs() < untilMs) {
        await new Promise((resolve) => setTimeout(resolve, GOODBYE_POLL_MS));
      }
    }
    this.#wake?.cancel();
    for (const socket of this.#sockets.values()) socket.close();
    this.#sockets.clear();
  }

  command(command: IkeCommand): void {
    this.#dispatch({ kind: "command", nowMs: this.#clock.nowMs(), command });
  }

  unknownEsp(esp: UnknownIpsec): void {
    this.#dispatch({ kind: "unknownEsp", nowMs: this.#clock.nowMs(), ...esp });
  }

  /** What all nodes together have used of an SA, in the direction that has more. */
  childUsed(saId: string, { bytes, packets }: { readonly bytes: bigint; readonly packets: bigint }): void {
    this.#dispatch({ kind: "childUsed", nowMs: this.#clock.nowMs(), saId, bytes, packets });
  }

  /** An authentic packet came on an SA; resolves when what IKE makes of it is done. */
  childHeard(saId: string): Promise<void> {
    return this.#handle({ kind: "childHeard", nowMs: this.#clock.nowMs(), saId });
  }

  summaries(): readonly IkeSaSummary[] {
    return this.#core.snapshot().ikeSas;
  }

  #open(address: string, port: number): Promise<Socket> {
    const socket = createSocket(ipVersion(address) === 4 ? { type: "udp4" } : { type: "udp6", ipv6Only: true });
    socket.on("message", (bytes, remote) => this.#received(address, port, bytes, remote));
    return new Promise((resolve, reject) => {
      socket.once("error", reject);
      socket.bind({ address, port }, () => {
        socket.off("error", reject);
        socket.on("error", (error) => {
          this.#counters.add("ike.socketError");
          this.#log.warn("IKE socket error", { address, port, reason: error.message });
        });
        resolve(socket);
      });
    });
  }

  #received(address: string, port: number, datagram: Uint8Array, remote: RemoteInfo): void {
    // A link-local peer is nobody without its interface, which neither an SA nor the cluster file can name.
    if (remote.address.includes("%")) {
      this.#counters.add("ike.drop.linkLocal");
      return;
    }
    let bytes = datagram;
    if (port === NAT_T_PORT) {
      const reason = notIkeBecause(datagram);
      if (reason !== null) {
        this.#counters.add(reason);
        return;
      }
      bytes = datagram.subarray(NON_ESP_MARKER.length);
    }
    this.#dispatch({
      kind: "datagram",
      nowMs: this.#clock.nowMs(),
      local: { address, port },
      // In canonical text, as in the cluster file: addresses are compared as text.
      remote: { address: ipFromBytes(ipToBytes(remote.address)), port: remote.port },
      bytes,
    });
  }

  #dispatch(event: IkeEvent): void {
    void this.#handle(event);
  }

  /** Resolves when every effect has happened; never rejects. */
  async #handle(event: IkeEvent): Promise<void> {
    const effects = this.#core.step(event);
    // At once, not in turn: an effect that waits must not let an old alarm replace a newer one.
    for (const effect of effects) if (effect.kind === "wakeAt") this.#wakeAt(effect.atMs);
    try {
      await this.#perform(effects);
    } catch (error) {
      this.#counters.add("ike.effectFailed");
      this.#log.error("an IKE effect failed", { event: event.kind, reason: messageOf(error) });
    }
  }

  async #perform(effects: readonly IkeEffect[]): Promise<void> {
    for (const effect of effects) {
      switch (effect.kind) {
        case "send":
          this.#send(effect, effect.local.port === NAT_T_PORT ? [NON_ESP_MARKER, effect.bytes] : effect.bytes);
          break;
        case "installChild":
          this.#install(effect.sa, effect.outbound);
          break;
        case "useOutbound":
          // Awaited: the answer that follows lets the peer drop the old SA, so nobody may send on it any more.
          await this.#actions.useOutbound(effect.saId);
          break;
        case "moveChild":
          this.#move(effect.saId, effect.peerUdpPort);
          break;
        case "keepalive":
          this.#send(effect, NAT_KEEPALIVE);
          break;
        case "removeChild":
          // Likewise: the switch may have begun with the peer's first packet on the other one.
          if (effect.afterMs > 0) await this.#actions.untilSwitched(effect.saId);
          this.#remove(effect.saId, effect.reason, effect.afterMs);
          break;
        case "count":
          this.#counters.add(effect.name);
          break;
        case "log":
          this.#log[effect.level](effect.message, effect.fields);
          break;
        case "wakeAt":
          break;
        default:
          unreachable(effect);
      }
    }
  }

  #install(sa: SharedSa, outbound: "now" | "hold"): void {
    this.#actions.install(sa, outbound).then(
      () => this.#dispatch({ kind: "childInstalled", nowMs: this.#clock.nowMs(), saId: sa.id }),
      (error: unknown) => {
        this.#counters.add("ike.installFailed");
        const reason = messageOf(error);
        this.#log.error("an SA could not be installed; the peer is refused", { sa: sa.id, peer: sa.peerName, reason });
        this.#dispatch({ kind: "childInstallFailed", nowMs: this.#clock.nowMs(), saId: sa.id, reason });
      },
    );
  }

  #move(saId: string, peerUdpPort: number): void {
    this.#actions.movePeer(saId, peerUdpPort).catch((error: unknown) => {
      this.#counters.add("ike.moveFailed");
      this.#log.error("an SA could not be sent to its peer's new port", { sa: saId, reason: messageOf(error) });
    });
  }

  #remove(saId: string, reason: string, afterMs: number): void {
    if (afterMs > 0) {
      this.#clock.after(afterMs, () => this.#remove(saId, reason, 0));
      return;
    }
    this.#actions.remove(saId, reason).catch((error: unknown) => {
      this.#counters.add("ike.removeFailed");
      this.#log.error("an SA could not be removed", { sa: saId, reason: messageOf(error) });
    });
  }

  #send({ local, remote }: Path, datagram: Uint8Array | readonly Uint8Array[]): void {
    const socket = this.#sockets.get(socketKey(local.address, local.port));
    if (socket === undefined) return;
    socket.send(datagram, remote.port, remote.address, (error) => {
      if (error !== null) this.#counters.add("ike.sendFailed");
    });
  }

  #wakeAt(atMs: number | null): void {
    this.#wake?.cancel();
    this.#wake = null;
    if (atMs === null) return;
    const delayMs = Math.max(0, atMs - this.#clock.nowMs());
    this.#wake = this.#clock.after(delayMs, () => this.#dispatch({ kind: "timer", nowMs: this.#clock.nowMs() }));
  }
}

/** What a datagram on port 4500 is counted as when it is no IKE; null when it may be. ESP comes here only if nobody steers it. */
function notIkeBecause(datagram: Uint8Array): string | null {
  if (equalBytes(datagram, NAT_KEEPALIVE)) return "ike.natKeepalive";
  if (datagram.length < NON_ESP_MARKER.length) return "ike.drop.shortDatagram";
  return equalBytes(datagram.subarray(0, NON_ESP_MARKER.length), NON_ESP_MARKER) ? null : "ike.drop.udpEncapsulatedEsp";
}

function socketKey(address: string, port: number): string {
  return `${address} ${port}`;
}
