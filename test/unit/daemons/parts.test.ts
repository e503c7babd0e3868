import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { describe, expect, it } from "vitest";

const PARTS = fileURLToPath(new URL("../../../src/daemons/parts.ts", import.meta.url));
const LOG = fileURLToPath(new URL("../../../src/core/log.ts", import.meta.url));

/** A daemon with one part, which is told to stop by the signal while it runs a command. */
const daemon = (signal: string): string => `
  import { execa } from "execa";
  import { runUntilSignal } from ${JSON.stringify(PARTS)};
  import { silentLog } from ${JSON.stringify(LOG)};
  const part = {
    name: "part",
    start: async () => {
      execa("sleep", ["60"], { reject: false });
      setTimeout(() => process.kill(process.pid, "${signal}"), 50);
    },
    stop: async () => {
      await new Promise((resolve) => setTimeout(resolve, 50));
      process.stdout.write("cleared up");
    },
  };
  await runUntilSignal([part], silentLog);
  process.exit(0);
`;

describe("a daemon that is told to stop", () => {
  it.each(["SIGTERM", "SIGINT"])("by %s while it runs a command stops its parts all the same", async (signal) => {
    const {
      exitCode,
      stdout,
      signal: killedBy,
    } = await execa(process.execPath, ["--input-type=module", "--eval", daemon(signal)], { reject: false });
    expect({ exitCode, stdout, killedBy }).toEqual({ exitCode: 0, stdout: "cleared up", killedBy: undefined });
  });
});
