import { pino } from "pino";
import type { Counters } from "./counters.ts";
import { stderrOutput } from "./log-output.ts";

export type LogLevel = "debug" | "info" | "warn" | "error";

/** What a part may say. `fields` are facts for programs; `Secret` values in them print as `[secret]`. */
export type Log = Readonly<Record<LogLevel, (message: string, fields?: Readonly<Record<string, unknown>>) => void>>;

/**
 * One JSON line per event on stderr: stdout stays free for data. `daemon` and `node` stand on every line. A line that cannot be
 * written (disk full, nobody reads) is lost and counted as `log.lostLines`; the daemon goes on.
 */
export function createLog(daemon: string, node: string, level: LogLevel, counters: Counters): Log {
  const output = stderrOutput((lines) => counters.add("log.lostLines", lines));
  const logger = pino({ level, base: { daemon, node }, timestamp: pino.stdTimeFunctions.isoTime }, output);
  const at =
    (name: LogLevel) =>
    (message: string, fields: Readonly<Record<string, unknown>> = {}): void =>
      logger[name](printable(fields), message);
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

/** A log that says nothing, for tests. */
export const silentLog: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function printable(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([key, value]) => [key, typeof value === "bigint" ? value.toString() : value]),
  );
}
