import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { SysctlJournal, type SysctlName } from "../../net/sysctl.ts";

type SysctlRecord = SysctlJournal["before"];

/** Sysctls of this host whose first values are kept in a file, so that they come back after a crash too. */
export class RecordedSysctls {
  readonly #journal: SysctlJournal;
  readonly #path: string;

  constructor(path: string, log: Log) {
    this.#path = path;
    this.#journal = new SysctlJournal(undefined, loadRecord(path, log));
  }

  set(name: SysctlName, value: string): void {
    const { length } = this.#journal.before;
    this.#journal.set(name, value);
    if (this.#journal.before.length > length) saveRecord(this.#path, this.#journal.before);
  }

  /** Puts the first values back, and forgets them. */
  restore(): void {
    this.#journal.restore();
    rmSync(this.#path, { force: true });
  }
}

/** The first values of an earlier run that did not get to put them back. */
function loadRecord(path: string, log: Log): SysctlRecord {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return [];
  }
  try {
    return (JSON.parse(text) as { name: string[]; value: string }[]).map(({ name, value }) => ({ name, value }));
  } catch (error) {
    log.warn("the record of sysctl values is not readable: they stay as they are when this node stops", {
      path,
      reason: messageOf(error),
    });
    return [];
  }
}

function saveRecord(path: string, record: SysctlRecord): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(`${path}.new`, JSON.stringify(record));
  renameSync(`${path}.new`, path);
}
