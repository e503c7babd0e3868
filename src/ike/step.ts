import type { LogLevel } from "../core/log.ts";
import type { IkeEnvironment } from "./environment.ts";
import type { IkeEffect } from "./events.ts";
import type { IkeSettings } from "./settings.ts";

/** One call of the core: the moment it happens in, and the effects it collects. */
export class Step {
  readonly nowMs: number;
  readonly environment: IkeEnvironment;
  readonly settings: IkeSettings;
  readonly effects: IkeEffect[] = [];

  constructor(nowMs: number, environment: IkeEnvironment, settings: IkeSettings) {
    this.nowMs = nowMs;
    this.environment = environment;
    this.settings = settings;
  }

  emit(effect: IkeEffect): void {
    this.effects.push(effect);
  }

  /** Counts `ike.<reason>`. */
  count(reason: string): void {
    this.emit({ kind: "count", name: `ike.${reason}` });
  }

  log(level: LogLevel, message: string, fields: Readonly<Record<string, unknown>> = {}): void {
    this.emit({ kind: "log", level, message, fields });
  }
}
