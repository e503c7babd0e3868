import { execa } from "execa";

/** Longest time a command of the lab may take, ms. Our choice: an emulated guest starts Node in a second or two. */
const COMMAND_LIMIT_MS = 120_000;

/** What a finished command said. */
export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end and returns what it said, whatever its exit status. Fails only when it cannot start. */
export async function tryCommand(
  file: string,
  args: readonly string[],
  options: { readonly input?: string; readonly limitMs?: number } = {},
): Promise<CommandResult> {
  const result = await execa(file, [...args], {
    reject: false,
    timeout: options.limitMs ?? COMMAND_LIMIT_MS,
    ...(options.input === undefined ? { stdin: "ignore" } : { input: options.input }),
  });
  if (result.exitCode === undefined) {
    throw new Error(
      `${file} ${args.join(" ")}: ${result.timedOut ? "took too long" : result.shortMessage}\n${result.stderr}`,
    );
  }
  return { exitCode: result.exitCode, stdout: result.stdout, stderr: result.stderr };
}

/** Runs a command that has to succeed; returns its stdout. Fails with the command and its stderr. */
export async function runCommand(
  file: string,
  args: readonly string[],
  options: { readonly input?: string; readonly limitMs?: number } = {},
): Promise<string> {
  const { exitCode, stdout, stderr } = await tryCommand(file, args, options);
  if (exitCode !== 0) throw new Error(`${file} ${args.join(" ")}: exit status ${exitCode}\n${stderr || stdout}`);
  return stdout;
}
