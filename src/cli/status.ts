import type { ArgumentsCamelCase, CommandModule } from "yargs";
import type { FilterStatus, LeaseStatus, NodeStatus } from "../daemons/node/status.ts";
import { askDaemon, jsonOption, runOption, type RunArgument } from "./options.ts";
import { formatTable } from "./table.ts";

interface StatusArguments extends RunArgument {
  readonly brief: boolean;
  readonly json: boolean;
}

/** `esplex status`: what a daemon on this machine holds and does now. */
export const statusCommand: CommandModule<object, StatusArguments> = {
  command: "status",
  describe: "Show what a daemon on this machine holds and does",
  builder: (args) =>
    args
      .option("run", runOption("daemon"))
      .option("brief", { type: "boolean", default: false, describe: "of SAs and connections how many, not each" })
      .option("json", jsonOption("tables")),
  handler: async (args: ArgumentsCamelCase<StatusArguments>) => {
    const status = await askDaemon(args, "status", { brief: args.brief });
    const text = args.json
      ? `${JSON.stringify(status)}\n`
      : isNodeStatus(status)
        ? describeNode(status, args.brief)
        : indented(status);
    process.stdout.write(text);
  },
};

function isNodeStatus(status: unknown): status is NodeStatus {
  return typeof status === "object" && status !== null && "daemon" in status && status.daemon === "node";
}

function describeRefill({ refill }: LeaseStatus): string {
  return refill === null || refill.samples === 0 ? "-" : `${refill.p50us ?? "?"}/${refill.p99us ?? "?"} us`;
}

function describeFilter({ dvipa, rules, unmatched, wrongTunnel }: FilterStatus): string[][] {
  const counts = ({ packets, bytes }: { packets: number; bytes: number }): string[] => [String(packets), String(bytes)];
  return [
    ...rules.map((rule) => [dvipa, rule.name, rule.action, rule.log ? "yes" : "no", ...counts(rule)]),
    [dvipa, "(policy)", unmatched.action, "-", ...counts(unmatched)],
    [dvipa, "(tunnel check)", "drop", "yes", ...counts(wrongTunnel)],
  ];
}

function indented(status: unknown): string {
  return `${JSON.stringify(status, null, 2)}\n`;
}

function describeTotals({ totals: { sas, leases, windowRuleBroken, connections } }: NodeStatus): string {
  const states = Object.entries(leases).map(([state, count]) => `${state} ${count}`);
  const rule = windowRuleBroken === 0 ? "" : `; the window rule is not kept on ${windowRuleBroken}`;
  return `${sas} SAs (lease: ${states.join(", ") || "-"})${rule}; ${connections} connections\n`;
}

function describeSas({ sas }: NodeStatus): string {
  return formatTable(
    "SAs",
    ["peer", "address", "mode", "suite", "SPI in", "SPI out", "lease", "numbers", "refill p50/p99"],
    sas.map((sa) => [
      sa.peerName,
      sa.peer,
      sa.mode,
      sa.suite,
      sa.spiIn,
      sa.spiOut,
      sa.lease.state,
      sa.lease.first === null ? "-" : `[${sa.lease.first}, ${sa.lease.end ?? "?"}) next ${sa.lease.next ?? "?"}`,
      describeRefill(sa.lease),
    ]),
  );
}

function describeConnections({ connections }: NodeStatus): string {
  return formatTable(
    "connections",
    ["client", "DVIPA", "target", "state"],
    connections.map((c) => [`${c.client}:${c.clientPort}`, `${c.dvipa}:${c.port}`, c.target, c.state]),
  );
}

function describeNode(status: NodeStatus, isBrief: boolean): string {
  const state = status.ready ? "ready" : `waiting for ${status.waitingFor.join(", ")}`;
  return [
    `node ${status.node}: ${state}\n`,
    formatTable(
      "DVIPAs",
      ["address", "role", "epoch"],
      status.dvipas.map((d) => [d.address, d.role, d.epoch]),
    ),
    formatTable(
      "targets",
      ["name", "connected", "drains", "listens on", "connections"],
      status.targets.map((t) => [
        t.name,
        t.connected ? "yes" : "no",
        t.draining ? "yes" : "no",
        t.listening.map(({ dvipa, port }) => `${dvipa}:${port}`).join(" ") || "-",
        String(t.connections),
      ]),
    ),
    describeTotals(status),
    ...(isBrief ? [] : [describeSas(status)]),
    ...status.sas
      .filter(({ lease }) => !lease.windowRule.kept)
      .map(
        ({ peerName, spiOut, lease }) =>
          `window rule not kept for ${peerName} (${spiOut}): ${lease.windowRule.advice}\n`,
      ),
    formatTable(
      "filters",
      ["DVIPA", "rule", "action", "logs", "packets", "bytes"],
      status.filters.flatMap(describeFilter),
    ),
    ...(isBrief ? [] : [describeConnections(status)]),
    formatTable(
      "counters",
      ["name", "count"],
      Object.entries(status.counters).map(([name, count]) => [name, String(count)]),
    ),
  ].join("\n");
}
