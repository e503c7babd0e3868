import { fileURLToPath } from "node:url";
import { tryCommand } from "../../netns/command.ts";

const ESPLEX = fileURLToPath(new URL("../../bin/esplex", import.meta.url));
/** A capture of minutes takes a slow emulated machine a while, ms. */
const VERIFY_LIMIT_MS = 600_000;

/** What of `esplex ledger verify --json` is used here; numbers as the ledger counts them. */
export interface LedgerEvidence {
  readonly proven: boolean;
  readonly violations: number;
  readonly duplicates: number;
  readonly duplicateIvs: number;
  readonly outsideLease: number;
  readonly unrecorded: number;
  readonly packets: number;
  readonly granted: number;
  readonly used: number;
  readonly outstanding: number;
  readonly burnt: Readonly<Record<string, number>>;
  readonly named: readonly string[];
}

/** Has the product's own verifier compare the ledger with a capture. */
export async function verifyLedger(ledger: string, capture: string): Promise<LedgerEvidence> {
  const args = ["ledger", "verify", "--ledger", ledger, "--pcap", capture, "--json"];
  const { stdout, stderr } = await tryCommand(ESPLEX, args, { limitMs: VERIFY_LIMIT_MS });
  const line = stdout.trimEnd().split("\n").at(-1) ?? "";
  if (!line.startsWith("{")) throw new Error(`esplex ledger verify gave no verdict:\n${stdout}${stderr}`);
  return JSON.parse(line) as LedgerEvidence;
}
