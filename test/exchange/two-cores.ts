import { randomBytes } from "node:crypto";
import { toHex } from "../../src/core/bytes.ts";
import type { SaHalf, SharedSa } from "../../src/sa/spec.ts";
import type { IkeEnvironment, IkePeerConfig } from "../../src/ike/environment.ts";
import type { Endpoint, IkeCommand, IkeEvent, IkeSaSummary } from "../../src/ike/events.ts";
import { IkeCore } from "../../src/ike/core.ts";
import { DEFAULT_IKE_SETTINGS, type IkeLimits } from "../../src/ike/settings.ts";
import { CLIENT, DVIPA, peerConfig } from "./lab.ts";

/** A datagram under way. */
interface Flying {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly bytes: Uint8Array;
}

/** One of the two cores, with a kernel that is a list. */
export class End {
  readonly address: string;
  readonly core: IkeCore;
  wakeAtMs: number | null = null;
  /** What the kernel has, by ID. */
  readonly kernel = new Map<string, { sa: SharedSa; outbound: "now" | "hold" }>();
  /** Installations that are not reported yet. */
  readonly installing: string[] = [];
  readonly counts = new Map<string, number>();
  keepalives = 0;
  #nextSpi: number;

  constructor(address: string, peer: IkePeerConfig, firstSpi: number, limits: Partial<IkeLimits> = {}) {
    this.address = address;
    this.#nextSpi = firstSpi;
    const environment: IkeEnvironment = {
      randomBytes: (lengthBytes) => new Uint8Array(randomBytes(lengthBytes)),
      newSpi: () => this.#nextSpi++,
      newReqid: () => 1,
      dvipas: () => [address],
      peers: () => [peer],
      credentials: () => [],
      wallClockMs: () => 0,
    };
    this.core = new IkeCore(environment, {
      ...DEFAULT_IKE_SETTINGS,
      limits: { ...DEFAULT_IKE_SETTINGS.limits, ...limits },
    });
  }

  get up(): IkeSaSummary[] {
    return this.core.snapshot().ikeSas.filter(({ state }) => state === "established");
  }

  /** The Child SAs that stay, as `inbound outbound` SPIs. */
  children(): { saId: string; inbound: number; outbound: number }[] {
    return this.up.flatMap(({ children }) =>
      children.map(({ saId, inboundSpi, outboundSpi }) => ({ saId, inbound: inboundSpi, outbound: outboundSpi })),
    );
  }
}

/** Two cores on one wire that does what it is told with their datagrams. */
export class World {
  nowMs = 0;
  readonly wire: Flying[] = [];
  readonly a: End;
  readonly b: End;
  /** What the NAT before `a` adds to its port; 0: there is none. */
  natPorts = 0;
  /** Report installations at once. */
  isPrompt = true;

  constructor(changes: { a?: Partial<IkePeerConfig>; b?: Partial<IkePeerConfig>; limits?: Partial<IkeLimits> } = {}) {
    const asB = { address: CLIENT, remoteIdentity: "moon.lab", localIdentity: "sun.lab" };
    const asA = { address: DVIPA, remoteIdentity: "sun.lab", localIdentity: "moon.lab" };
    this.a = new End(DVIPA, peerConfig({ name: "b", ...asB, ...changes.a }), 0x1000, changes.limits);
    this.b = new End(CLIENT, peerConfig({ name: "a", ...asA, ...changes.b }), 0x900000, changes.limits);
  }

  step(end: End, event: IkeEvent): void {
    for (const effect of end.core.step(event)) {
      switch (effect.kind) {
        case "send":
          this.wire.push({ from: effect.local, to: effect.remote, bytes: effect.bytes });
          break;
        case "installChild":
          end.kernel.set(effect.sa.id, { sa: effect.sa, outbound: effect.outbound });
          end.installing.push(effect.sa.id);
          break;
        case "useOutbound": {
          const entry = end.kernel.get(effect.saId);
          if (entry !== undefined) entry.outbound = "now";
          break;
        }
        case "removeChild":
          end.kernel.delete(effect.saId);
          break;
        case "wakeAt":
          end.wakeAtMs = effect.atMs;
          break;
        case "moveChild": {
          const entry = end.kernel.get(effect.saId);
          if (entry !== undefined) entry.sa = { ...entry.sa, peerUdpPort: effect.peerUdpPort };
          break;
        }
        case "keepalive":
          end.keepalives += 1;
          break;
        case "count":
          end.counts.set(effect.name, (end.counts.get(effect.name) ?? 0) + 1);
          break;
        case "log":
          break;
      }
    }
    const due = end.core.snapshot().wakeAtMs;
    if (due !== end.wakeAtMs) throw new Error(`${end.address} wants to be woken at ${end.wakeAtMs}, not at ${due}`);
    if (this.isPrompt) this.report(end);
  }

  /** Reports every installation that waits for it. */
  report(end: End): void {
    for (const saId of end.installing.splice(0)) this.step(end, { kind: "childInstalled", nowMs: this.nowMs, saId });
  }

  /** Tells `end` of a packet on each SA that the other end sends on. */
  hear(end: End): void {
    const sending = [...(end === this.a ? this.b : this.a).kernel.values()].filter(
      ({ outbound }) => outbound === "now",
    );
    const spis = new Set(sending.map(({ sa }) => sa.outbound.spi));
    const heard = [...end.kernel.values()].filter(({ sa }) => spis.has(sa.inbound.spi));
    for (const { sa } of heard) this.step(end, { kind: "childHeard", nowMs: this.nowMs, saId: sa.id });
  }

  command(end: End, command: IkeCommand): void {
    this.step(end, { kind: "command", nowMs: this.nowMs, command });
  }

  /** Delivers the datagram at this place; it stays there when it is to come twice. */
  deliver(index: number, twice = false): void {
    const flying = this.wire[index];
    if (flying === undefined) return;
    if (!twice) this.wire.splice(index, 1);
    const isToA = flying.to.address === this.a.address;
    const end = isToA ? this.a : this.b;
    const { bytes, from, to } = flying;
    const remote = isToA ? from : { ...from, port: from.port + this.natPorts };
    const local = isToA ? { ...to, port: to.port - this.natPorts } : to;
    this.step(end, { kind: "datagram", nowMs: this.nowMs, local, remote, bytes: bytes.slice() });
  }

  /** Delivers everything in order, until nothing flies. */
  flush(): void {
    for (let i = 0; this.wire.length > 0; i++) {
      if (i > 10_000) throw new Error("the two cores talk for ever");
      this.deliver(0);
    }
  }

  /** Lets time pass; `isDeaf`: what is sent meanwhile stays on the wire. */
  pass(durationMs: number, isDeaf = false): void {
    const endMs = this.nowMs + durationMs;
    for (let i = 0; ; i++) {
      if (i > 100_000) throw new Error("the timers never rest");
      if (!isDeaf) this.flush();
      const next = [this.a, this.b]
        .filter(({ wakeAtMs }) => wakeAtMs !== null && wakeAtMs <= endMs)
        .sort((x, y) => (x.wakeAtMs ?? 0) - (y.wakeAtMs ?? 0))[0];
      if (next === undefined) break;
      this.nowMs = Math.max(this.nowMs, next.wakeAtMs ?? 0);
      this.step(next, { kind: "timer", nowMs: this.nowMs });
    }
    this.nowMs = endMs;
  }

  /** What both ends must agree on, in words; empty when they do. */
  disagreements(): string[] {
    const found: string[] = [];
    const say = (isWrong: boolean, what: string): void => {
      if (isWrong) found.push(what);
    };
    const ids = (end: End): string =>
      end.up
        .map(({ id }) => id)
        .sort()
        .join(" ");
    say(ids(this.a) !== ids(this.b), `IKE SAs: ${ids(this.a)} | ${ids(this.b)}`);
    const ofA = this.a.children().map(({ inbound, outbound }) => `${inbound}/${outbound}`);
    const ofB = this.b.children().map(({ inbound, outbound }) => `${outbound}/${inbound}`);
    say(ofA.sort().join(" ") !== ofB.sort().join(" "), `Child SAs: ${ofA.join(" ")} | ${ofB.join(" ")}`);
    for (const end of [this.a, this.b]) {
      const kept = end.children().map(({ saId }) => saId);
      const had = [...end.kernel.keys()];
      say(kept.sort().join() !== had.sort().join(), `${end.address}: kernel has ${had.length} SAs, IKE ${kept.length}`);
      say(
        end.up.some(({ children }) => children.some(({ state }) => state !== "active")),
        `${end.address}: not at rest`,
      );
      say(
        end.kernel.size > 0 && [...end.kernel.values()].every(({ outbound }) => outbound === "hold"),
        "nothing sends",
      );
    }
    for (const { sa } of this.a.kernel.values()) {
      const other = [...this.b.kernel.values()].find(({ sa: theirs }) => theirs.inbound.spi === sa.outbound.spi)?.sa;
      const same = other !== undefined && keysOf(other.inbound) === keysOf(sa.outbound);
      say(!same, `keys of ${sa.id} differ`);
    }
    return found;
  }
}

/** For comparing: encryption and integrity key. */
function keysOf({ encryptionKey, integrityKey }: SaHalf): string {
  return `${toHex(encryptionKey.expose())} ${integrityKey === null ? "-" : toHex(integrityKey.expose())}`;
}
