import { readFileSync } from "node:fs";
import {
  findConnections,
  listConnections,
  listListeners,
  openSocketDiagnostics,
  watchDestroyed,
  type DestroyedOptions,
  type TcpEnds,
  type TcpListener,
  type TcpPresence,
} from "../../net/socket-diagnostics.ts";

/** What a target sees of its own TCP sockets; tests have their own. */
export interface HostSockets {
  listeners(): Promise<readonly TcpListener[]>;
  connections(locals: ReadonlySet<string>): Promise<readonly TcpEnds[]>;
  find(connections: readonly TcpEnds[]): Promise<readonly TcpPresence[]>;
  /** Part of the time since the last call that the CPUs worked, from 0 to 1. */
  cpuLoad(): number;
  close(): void;
}

/** Those of the kernel. Throws `kernel.refused` where it has no `tcp_diag`. */
export function openKernelSockets(onDestroyed: DestroyedOptions): HostSockets {
  const diagnostics = openSocketDiagnostics();
  const destroyed = watchDestroyed(onDestroyed);
  let before = cpuTimes();
  return {
    listeners: () => listListeners(diagnostics),
    connections: (locals) => listConnections(diagnostics, locals),
    find: (connections) => findConnections(diagnostics, connections),
    cpuLoad: () => {
      const now = cpuTimes();
      const total = now.total - before.total;
      const busy = now.busy - before.busy;
      before = now;
      return total <= 0 ? 0 : Math.min(1, Math.max(0, busy / total));
    },
    close: () => {
      diagnostics.close();
      destroyed.close();
    },
  };
}

/** The line `cpu` of `/proc/stat`, proc_stat(5), in ticks: user nice system idle iowait irq softirq steal. */
function cpuTimes(): { readonly busy: number; readonly total: number } {
  const [line = ""] = readFileSync("/proc/stat", "utf8").split("\n", 1);
  const ticks = line.trim().split(/\s+/).slice(1, 9).map(Number);
  const total = ticks.reduce((sum, value) => sum + value, 0);
  const [, , , idle = 0, iowait = 0] = ticks;
  return { busy: total - idle - iowait, total };
}
