import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EsplexError } from "../core/errors.ts";
import { kernelRefusal } from "./kernel-error.ts";

const PROC_SYS = "/proc/sys";

/** Path below /proc/sys, a segment each: interface names may hold dots (`["net", "ipv4", "conf", "eth0.7", "rp_filter"]`). */
export type SysctlName = readonly string[];

/** The value without its newline; `kernel.missing` when this kernel has no such setting. */
export function readSysctl(name: SysctlName, root = PROC_SYS): string {
  return access(name, root, (path) => readFileSync(path, "utf8").trimEnd());
}

/** `kernel.refused` when the value is not taken. */
function writeSysctl(name: SysctlName, value: string, root = PROC_SYS): void {
  access(name, root, (path) => writeFileSync(path, value));
}

/** Changes settings and remembers what they were, for SIGTERM. */
export class SysctlJournal {
  readonly #before = new Map<string, { readonly name: SysctlName; readonly value: string }>();
  readonly #root: string;

  /** `before`: first values that an earlier process recorded (see the getter) and did not put back. */
  constructor(root = PROC_SYS, before: SysctlJournal["before"] = []) {
    this.#root = root;
    for (const entry of [...before].reverse()) this.#before.set(entry.name.join("/"), entry);
  }

  set(name: SysctlName, value: string): void {
    const before = readSysctl(name, this.#root);
    if (before === value) return;
    writeSysctl(name, value, this.#root);
    const key = name.join("/");
    if (!this.#before.has(key)) this.#before.set(key, { name, value: before });
  }

  /** What to write back, in the order of restoring; for a record that outlives the process. */
  get before(): readonly { readonly name: SysctlName; readonly value: string }[] {
    return [...this.#before.values()].reverse();
  }

  /** Puts the first values back, last change first. A setting that is gone (its interface was removed) is left out. */
  restore(): void {
    for (const { name, value } of this.before) {
      try {
        writeSysctl(name, value, this.#root);
      } catch (error) {
        if (!(error instanceof EsplexError && error.code === "kernel.missing")) throw error;
      }
    }
    this.#before.clear();
  }
}

function access<T>(name: SysctlName, root: string, run: (path: string) => T): T {
  const text = name.join("/");
  if (name.length === 0 || name.some((segment) => !/^[\w.@-]+$/.test(segment) || /^\.+$/.test(segment))) {
    throw new EsplexError("config.invalid", `not a sysctl name: ${text}`);
  }
  try {
    return run(join(root, ...name));
  } catch (error) {
    const { errno = 0, code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new EsplexError("kernel.missing", `this kernel has no sysctl ${text}`, { name: text });
    throw kernelRefusal(`sysctl ${text}`, Math.abs(errno));
  }
}
