import { execa } from "execa";
import { eventually } from "./eventually.ts";

export const OFFLOAD_MODULES = ["esp4_offload", "esp6_offload"] as const;

/**
 * Whether tests load the real modules. QEMU's kernel is Debian's and nobody else's: there they must load. User-mode Linux
 * is built without them, and on a machine's own kernel (`native`) they would change everybody's IPsec.
 */
export const LOADS_OFFLOAD = process.env["ESPLEX_GUEST_KERNEL"] === "qemu";

export async function modprobe(...args: readonly string[]): Promise<{ failed: boolean; message: string }> {
  const env = { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` };
  const { failed, stderr } = await execa("modprobe", args, { reject: false, env });
  return { failed, message: stderr };
}

/** Throws when a module is not there. */
export async function loadOffload(): Promise<void> {
  const { failed, message } = await modprobe("--all", ...OFFLOAD_MODULES);
  if (failed) throw new Error(`this kernel must have ${OFFLOAD_MODULES.join(" and ")}: ${message}`);
}

/** The kernel frees deleted states, which hold the modules, a moment later. */
export async function unloadOffload(): Promise<void> {
  await eventually("the end of the offload modules", async () => !(await modprobe("-r", ...OFFLOAD_MODULES)).failed);
}
