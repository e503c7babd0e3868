import { randomBytes } from "node:crypto";
import { Secret } from "../../src/core/secret.ts";
import type { SharedSa } from "../../src/sa/spec.ts";
import type { EspSuite } from "../../src/sa/suite.ts";
import type { IkeCredential, IkeEnvironment, IkePeerConfig } from "../../src/ike/environment.ts";
import type { IkeCommand, IkeEffect, IkeEvent, Path } from "../../src/ike/events.ts";
import { IkeCore } from "../../src/ike/core.ts";
import { DEFAULT_IKE_SETTINGS, type IkeLimits, type IkeSettings } from "../../src/ike/settings.ts";
import type { IkeSuite } from "../../src/ike/suite.ts";
import { childWish, Initiator, type ChildWish, type InitiatorChild, type InitiatorOptions } from "./initiator.ts";

export const DVIPA = "192.0.2.10";
export const CLIENT = "198.51.100.7";
/** As the responder sees it. */
export const PATH: Path = { local: { address: DVIPA, port: 500 }, remote: { address: CLIENT, port: 500 } };
/** After the peer has moved to the NAT-T port. */
export const PATH_4500: Path = { local: { address: DVIPA, port: 4500 }, remote: { address: CLIENT, port: 4500 } };

export const psk = (text = "a shared key for tests"): Secret => new Secret(new TextEncoder().encode(text));

export const CBC_SUITE: IkeSuite = {
  cipher: { kind: "aes-cbc", keyBits: 128, integrity: "hmac-sha2-256" },
  prf: "hmac-sha2-256",
  group: 31,
};
export const GCM_SUITE: IkeSuite = { cipher: { kind: "aes-gcm-16", keyBits: 256 }, prf: "hmac-sha2-384", group: 19 };
export const MODP_SUITE: IkeSuite = {
  cipher: { kind: "aes-cbc", keyBits: 256, integrity: "hmac-sha2-512" },
  prf: "hmac-sha2-512",
  group: 14,
};

export const ESP_GCM: EspSuite = { kind: "aes-gcm-16", keyBits: 128 };
export const ESP_CBC: EspSuite = { kind: "aes-cbc", keyBits: 256, integrity: "hmac-sha2-384" };

export function peerConfig(changes: Partial<IkePeerConfig> = {}): IkePeerConfig {
  return {
    name: "client",
    address: CLIENT,
    remoteIdentity: "moon.lab",
    localIdentity: "sun.lab",
    auth: { kind: "psk", psk: psk() },
    modes: ["transport", "tunnel"],
    remoteSubnets: [],
    replayWindowPackets: 32,
    inboundWindowPackets: 1024,
    ikeSuites: null,
    espSuites: null,
    esn: "allow",
    childLifetime: { timeMs: null, bytes: null, packets: null },
    ikeLifetimeMs: null,
    initiate: { start: "none", dvipa: null, mode: "transport" },
    ...changes,
  };
}

interface LabOptions {
  readonly peers?: readonly IkePeerConfig[];
  readonly limits?: Partial<IkeLimits>;
  readonly credentials?: readonly IkeCredential[];
  readonly wallClockMs?: number;
  /** Reports installations by itself: `ok` by default; `silent` reports nothing. */
  readonly install?: "ok" | "fail" | "silent";
  /** Addresses at which SAs for the DVIPA end, with that. */
  readonly gateways?: ReadonlyMap<string, string>;
}

/** A responder with everything around it in memory: its clock is `nowMs`, its kernel says yes at once. */
export class Lab {
  readonly responder: IkeCore;
  nowMs = 1_000_000;
  install: "ok" | "fail" | "silent";
  wakeAtMs: number | null = null;
  /** Every effect so far, in order; `send` included. */
  readonly effects: IkeEffect[] = [];
  #nextSpi = 0x1000;
  #nextReqid = 1;

  constructor(options: LabOptions = {}) {
    const peers = options.peers ?? [peerConfig()];
    const environment: IkeEnvironment = {
      randomBytes: (lengthBytes) => new Uint8Array(randomBytes(lengthBytes)),
      newSpi: () => this.#nextSpi++,
      newReqid: () => this.#nextReqid++,
      dvipas: () => [DVIPA],
      ...(options.gateways === undefined ? {} : { gateways: () => options.gateways ?? new Map() }),
      peers: () => peers,
      credentials: () => options.credentials ?? [],
      wallClockMs: () => options.wallClockMs ?? Date.now(),
    };
    const settings: IkeSettings = {
      ...DEFAULT_IKE_SETTINGS,
      limits: { ...DEFAULT_IKE_SETTINGS.limits, ...options.limits },
    };
    this.install = options.install ?? "ok";
    this.responder = new IkeCore(environment, settings);
  }

  /** Delivers a datagram; returns what was sent back. */
  deliver(bytes: Uint8Array, path: Path = PATH): Uint8Array[] {
    return sent(this.step({ kind: "datagram", nowMs: this.nowMs, bytes, ...path }));
  }

  /** Delivers a datagram that must have exactly one answer. */
  answer(bytes: Uint8Array, path: Path = PATH): Uint8Array {
    const [answer, ...others] = this.deliver(bytes, path);
    if (answer === undefined || others.length > 0) throw new Error(`${others.length + (answer ? 1 : 0)} answers`);
    return answer;
  }

  /** Lets time pass, with a timer event whenever the responder asked for one; returns what was sent. */
  pass(durationMs: number): Uint8Array[] {
    const endMs = this.nowMs + durationMs;
    const effects: IkeEffect[] = [];
    while (this.wakeAtMs !== null && this.wakeAtMs <= endMs) {
      this.nowMs = Math.max(this.nowMs, this.wakeAtMs);
      effects.push(...this.step({ kind: "timer", nowMs: this.nowMs }));
    }
    this.nowMs = endMs;
    return sent(effects);
  }

  command(command: IkeCommand): Uint8Array[] {
    return sent(this.step({ kind: "command", nowMs: this.nowMs, command }));
  }

  /** One event; installations are reported as `install` says, within it. */
  step(event: IkeEvent): IkeEffect[] {
    const effects = this.responder.step(event);
    this.effects.push(...effects);
    for (const effect of effects) {
      if (effect.kind === "wakeAt") this.wakeAtMs = effect.atMs;
      if (effect.kind !== "installChild" || this.install === "silent") continue;
      const about = { nowMs: this.nowMs, saId: effect.sa.id };
      const report: IkeEvent =
        this.install === "ok"
          ? { kind: "childInstalled", ...about }
          : { kind: "childInstallFailed", ...about, reason: "planted" };
      effects.push(...this.step(report));
    }
    const due = this.responder.snapshot().wakeAtMs;
    if (due !== this.wakeAtMs) throw new Error(`wants to be woken at ${this.wakeAtMs}, not at ${due}`);
    return effects;
  }

  count(reason: string): number {
    return this.effects.filter((effect) => effect.kind === "count" && effect.name === `ike.${reason}`).length;
  }

  get installed(): SharedSa[] {
    return this.effects.flatMap((effect) => (effect.kind === "installChild" ? [effect.sa] : []));
  }

  /** SA effects in order, as `install:N:now`, `use:N`, `remove:N`; N counts installations from 0. */
  get saLog(): string[] {
    const numberOf = (saId: string): number => this.installed.findIndex(({ id }) => id === saId);
    return this.effects.flatMap((effect) => {
      if (effect.kind === "installChild") return [`install:${numberOf(effect.sa.id)}:${effect.outbound}`];
      if (effect.kind === "useOutbound") return [`use:${numberOf(effect.saId)}`];
      return effect.kind === "removeChild" ? [`remove:${numberOf(effect.saId)}`] : [];
    });
  }

  get states(): string[] {
    return this.responder.snapshot().ikeSas.map(({ state }) => state);
  }
}

function sent(effects: readonly IkeEffect[]): Uint8Array[] {
  return effects.flatMap((effect) => (effect.kind === "send" ? [effect.bytes] : []));
}

export function initiator(changes: Partial<InitiatorOptions> = {}): Initiator {
  const suites = changes.suites ?? [CBC_SUITE];
  return new Initiator({
    path: PATH,
    suites,
    group: suites[0]?.group ?? 31,
    psk: psk(),
    identity: "moon.lab",
    peerIdentity: "sun.lab",
    ...changes,
  });
}

/** IKE_SA_INIT and IKE_AUTH, all well. */
export function connect(
  lab: Lab,
  changes: Partial<InitiatorOptions> = {},
  wish: Partial<ChildWish> = {},
): { client: Initiator; child: InitiatorChild } {
  const client = initiator(changes);
  client.readInit(lab.answer(client.initRequest()));
  const request = client.authRequest(childWish(CLIENT, DVIPA, wish));
  const child = client.readAuth(lab.answer(request.bytes, PATH_4500), request);
  return { client, child };
}
