import { pino } from "pino";

export type LogLevel = "debug" | "info" | "warn" | "error";

/** What a part may say. `fields` are facts for programs; `Secret` values in them print as `[secret]`. */
export type Log = Readonly<Record<LogLevel, (message: string, fields?: Readonly<Record<string, unknown>>) => void>>;

/** One JSON line per event on stderr: stdout stays free for data. `daemon` and `node` stand on every line. */
export function createLog(daemon: string, node: string, level: LogLevel): Log {
  const logger = pino({ level, base: { daemon, node }, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination(2));
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
