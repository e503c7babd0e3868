import { setTimeout as delay } from "node:timers/promises";

const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 400;

/**
 * Probes until the result is neither `false` nor `undefined`, and returns it. After `limitMs` it fails, naming `what`
 * and the last error that the probe threw. The only way the lab waits for anything.
 */
export async function until<T>(
  what: string,
  limitMs: number,
  probe: () => Promise<T | false | undefined> | T | false | undefined,
): Promise<T> {
  const end = performance.now() + limitMs;
  let lastError: unknown;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 1.5, LONGEST_PAUSE_MS)) {
    try {
      const result = await probe();
      if (result !== false && result !== undefined) return result;
      lastError = undefined;
    } catch (error) {
      lastError = error;
    }
    if (performance.now() > end) throw new Error(`waited ${limitMs} ms in vain: ${what}`, { cause: lastError });
    await delay(pauseMs);
  }
}
