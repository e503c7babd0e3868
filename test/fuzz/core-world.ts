import type { Secret } from "../../src/core/secret.ts";
import { IkeCore } from "../../src/ike/core.ts";
import type { IkeEnvironment, IkePeerConfig } from "../../src/ike/environment.ts";
import type { IkeCommand, IkeEvent, Path } from "../../src/ike/events.ts";
import { DEFAULT_IKE_SETTINGS, type IkeSettings } from "../../src/ike/settings.ts";
import { DVIPA } from "../exchange/lab.ts";
import { SeededRandom } from "../fault/random.ts";

/** Small ones: roomy limits would never be reached in an episode. */
const SETTINGS: IkeSettings = {
  timing: DEFAULT_IKE_SETTINGS.timing,
  limits: {
    ...DEFAULT_IKE_SETTINGS.limits,
    ...{ cookieThreshold: 4, cookieThresholdPerSource: 4, halfOpen: 6, halfOpenPerSource: 5 },
    ...{ ikeSasPerPeer: 3, childSasPerIkeSa: 3, closed: 2, initiating: 2 },
  },
};
/** Longer than everything that the core waits for by itself. */
const SILENCE_MS = 15 * 60_000;
const TIMERS_MAX = 20_000;

export type InstallMode = "ok" | "fail" | "never";

/** One core for many episodes, with a kernel that is a set. */
export class CoreWorld {
  readonly core: IkeCore;
  nowMs = 1_000_000;
  install: InstallMode = "ok";
  /** Names of the counters of this episode, in order. */
  counts: string[] = [];
  /** What was sent since it was last taken. */
  sent: (Path & { readonly bytes: Uint8Array })[] = [];
  #random = new SeededRandom(0);
  #wakeAtMs: number | null = null;
  readonly #kernel = new Map<string, Secret>();
  #nextSpi = 0x1000;
  #nextReqid = 1;

  constructor(peers: readonly IkePeerConfig[], wallClockMs: number) {
    const environment: IkeEnvironment = {
      randomBytes: (lengthBytes) => Uint8Array.from({ length: lengthBytes }, () => this.#random.between(0, 256)),
      newSpi: () => this.#nextSpi++,
      newReqid: () => this.#nextReqid++,
      dvipas: () => [DVIPA],
      peers: () => peers,
      credentials: () => [],
      wallClockMs: () => wallClockMs,
    };
    this.core = new IkeCore(environment, SETTINGS);
  }

  /** A new episode: what is random in it depends on it alone. */
  begin(seed: number): void {
    this.#random = new SeededRandom(seed);
    this.install = "ok";
    this.counts = [];
    this.sent = [];
  }

  step(event: IkeEvent): void {
    const installed: string[] = [];
    for (const effect of this.core.step(event)) {
      if (effect.kind === "send") this.sent.push(effect);
      else if (effect.kind === "wakeAt") this.#wakeAtMs = effect.atMs;
      else if (effect.kind === "count") this.#count(effect.name);
      else if (effect.kind === "removeChild") this.#kernel.delete(effect.saId);
      else if (effect.kind === "installChild") {
        if (this.#kernel.has(effect.sa.id)) throw new Error(`installed twice: ${effect.sa.id}`);
        this.#kernel.set(effect.sa.id, effect.sa.inbound.encryptionKey);
        installed.push(effect.sa.id);
      }
    }
    if (this.install === "never") return;
    for (const saId of installed) {
      const about = { nowMs: this.nowMs, saId };
      this.step(
        this.install === "ok"
          ? { kind: "childInstalled", ...about }
          : { kind: "childInstallFailed", ...about, reason: "planted" },
      );
    }
  }

  /** Counters stay for ever: no peer may choose their names. */
  #count(name: string): void {
    if (/[^A-Za-z._]/.test(name)) throw new Error(`a counter by the name of ${name}`);
    this.counts.push(name);
  }

  deliver(path: Path, bytes: Uint8Array): void {
    this.step({ kind: "datagram", nowMs: this.nowMs, ...path, bytes });
  }

  command(command: IkeCommand): void {
    this.step({ kind: "command", nowMs: this.nowMs, command });
  }

  /** Some SA in the kernel, to report about. */
  get anySa(): string {
    return this.#kernel.keys().next().value ?? "no SA";
  }

  takeSent(): Uint8Array[] {
    return this.sent.splice(0).map(({ bytes }) => bytes);
  }

  pass(durationMs: number): void {
    const endMs = this.nowMs + durationMs;
    for (let fired = 0; this.#wakeAtMs !== null && this.#wakeAtMs <= endMs; fired++) {
      if (fired > TIMERS_MAX) throw new Error("the timers never rest");
      this.nowMs = Math.max(this.nowMs, this.#wakeAtMs);
      this.step({ kind: "timer", nowMs: this.nowMs });
    }
    this.nowMs = endMs;
  }

  /** No limit is passed, at any moment. */
  checkBounds(): void {
    const { unproven, ikeSas, wakeAtMs } = this.core.snapshot();
    if (wakeAtMs !== this.#wakeAtMs) throw new Error(`told to be woken at ${this.#wakeAtMs}, due at ${wakeAtMs}`);
    const { limits } = SETTINGS;
    const up = ikeSas.filter(({ state }) => state === "established");
    const sizes: readonly [string, number, number][] = [
      ["half-open IKE SAs", unproven, limits.halfOpen],
      ["closed IKE SAs", ikeSas.filter(({ state }) => state === "closed").length, limits.closed],
      ["IKE SAs of one peer", Math.max(0, ...countsBy(up, ({ peerName }) => peerName)), limits.ikeSasPerPeer + 1],
      ["Child SAs", Math.max(0, ...up.map(({ children }) => children.length)), 2 * limits.childSasPerIkeSa],
      ["SAs in the kernel", this.#kernel.size, limits.ikeSasPerPeer * 4 * limits.childSasPerIkeSa],
    ];
    for (const [what, size, limit] of sizes) {
      if (size > limit) throw new Error(`${size} ${what}, ${limit} are allowed`);
    }
  }

  /** Nobody says anything any more: in the end nothing may be left, in the core or in the kernel. */
  end(): void {
    this.install = "ok";
    this.command({ kind: "deleteAll" });
    this.pass(SILENCE_MS);
    const { unproven, ikeSas } = this.core.snapshot();
    const left = [unproven, ikeSas.length, this.#kernel.size];
    if (left.some((count) => count > 0)) throw new Error(`left over (half-open, IKE SAs, kernel): ${left.join(", ")}`);
    if (this.#wakeAtMs !== null) throw new Error(`nothing is there, but it wants to be woken at ${this.#wakeAtMs}`);
  }
}

function countsBy<T>(items: readonly T[], key: (item: T) => unknown): number[] {
  return [...Map.groupBy(items, key).values()].map(({ length }) => length);
}
