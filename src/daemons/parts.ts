import { EsplexError, messageOf } from "../core/errors.ts";
import type { Log } from "../core/log.ts";

/** A piece of a daemon that is started and stopped as one. */
export interface Part {
  readonly name: string;
  /** Rejects when the daemon cannot run. */
  start(): Promise<void>;
  /** Called once, only after `start` has succeeded. Must not hang. */
  stop(): Promise<void>;
}

/** Starts `parts` in order; gives the function that stops them in reverse. When one fails, those before it are stopped and it rejects. */
export async function startParts(parts: readonly Part[], log: Log): Promise<() => Promise<void>> {
  const started: Part[] = [];
  const stop = async (): Promise<void> => {
    for (const part of started.reverse()) {
      try {
        await part.stop();
      } catch (error) {
        log.error("a part did not stop cleanly", { part: part.name, error: messageOf(error) });
      }
    }
    started.length = 0;
  };
  try {
    for (const part of parts) {
      await part.start();
      started.push(part);
    }
  } catch (error) {
    await stop();
    throw error;
  }
  return stop;
}

const SIGNALS = ["SIGTERM", "SIGINT"] as const;

/** Never settles: for a daemon that nothing but a signal ends. */
const NEVER = new Promise<never>(() => {});

/**
 * Runs a daemon until SIGTERM or SIGINT, then stops its parts. `failed` resolves with the reason why it cannot go on: it is
 * then stopped as well, and the call rejects with `cluster.notServing`.
 */
export async function runUntilSignal(parts: readonly Part[], log: Log, failed: Promise<string> = NEVER): Promise<void> {
  const { promise: signalled, resolve: onSignal } = Promise.withResolvers<null>();
  // They stay until the end. execa listens too while it runs a command: when it is the last to listen, it ends the process.
  const wanted = (): void => onSignal(null);
  for (const signal of SIGNALS) process.on(signal, wanted);
  try {
    const stop = await startParts(parts, log);
    log.info("started");
    const failure = await Promise.race([signalled, failed]);
    log.info("stopping", failure === null ? {} : { failure });
    await stop();
    log.info("stopped");
    if (failure !== null) throw new EsplexError("cluster.notServing", `stopped: ${failure}`);
  } finally {
    for (const signal of SIGNALS) process.off(signal, wanted);
  }
}
