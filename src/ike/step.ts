import type { LogLevel } from "../core/log.ts";
import type { IkeEnvironment } from "./environment.ts";
import type { IkeEffect } from "./events.ts";
import type { TargetOutcome } from "./initiation.ts";
import type { IkeSettings } from "./settings.ts";

/** One call of the core: the moment it happens in, and the effects it collects. */
export class Step {
  readonly nowMs: number;
  readonly environment: IkeEnvironment;
  readonly settings: IkeSettings;
  readonly effects: IkeEffect[] = [];
  /** What became of attempts to reach peers. */
  readonly outcomes: TargetOutcome[] = [];

  constructor(nowMs: number, environment: IkeEnvironment, settings: IkeSettings) {
    this.nowMs = nowMs;
    this.environment = environment;
    this.settings = settings;
  }

  emit(effect: IkeEffect): void {
    this.effects.push(effect);
  }

  /** Uniform in [0, 1): jitter, and nothing that must be secret. */
  random(): number {
    const [a = 0, b = 0, c = 0] = this.environment.randomBytes(3);
    return (a * 0x10000 + b * 0x100 + c) / 0x1000000;
  }

  /** Counts `ike.<reason>`. */
  count(reason: string): void {
    this.emit({ kind: "count", name: `ike.${reason}` });
  }

  log(level: LogLevel, message: string, fields: Readonly<Record<string, unknown>> = {}): void {
    this.emit({ kind: "log", level, message, fields });
  }
}
