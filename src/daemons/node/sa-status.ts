import { suiteName } from "../../sa/suite.ts";
import type { UseCounts } from "../../sa/use.ts";
import { windowRule } from "../../sequence/size.ts";
import type { Entry } from "./sa-table.ts";
import type { LeaseStatus, SaStatus, SaTotals } from "./status.ts";

/** What `esplex status` says of an SA: reads the kernel's numbers, never a key. */
export async function statusOf({ sa, runner, outbound, instances }: Entry, use: UseCounts | null): Promise<SaStatus> {
  const reading = (await runner?.reading()) ?? null;
  const rule = windowRule(sa.peerWindowPackets, 1);
  const held = runner?.status() ?? { state: "none", first: null, end: null, windowRule: rule, refill: null };
  const lease: LeaseStatus = {
    state: held.state,
    first: held.first?.toString() ?? null,
    end: held.end?.toString() ?? null,
    next: reading === null ? null : (reading.oseq + 1n).toString(),
    kernelInstances: instances,
    windowRule: held.windowRule,
    refill: held.refill,
  };
  const { id, dvipa, gateway = null, peer, peerName, mode, reqid } = sa;
  return {
    id,
    dvipa,
    gateway,
    peer,
    peerName,
    mode,
    suite: suiteName(sa.suite),
    reqid,
    spiIn: spiText(sa.inbound.spi),
    spiOut: spiText(sa.outbound.spi),
    outbound,
    lease,
    use: use && {
      inBytes: use.inBytes.toString(),
      inPackets: use.inPackets.toString(),
      outBytes: use.outBytes.toString(),
      outPackets: use.outPackets.toString(),
    },
  };
}

/** How many there are, without a look at the kernel. */
export function totalsOf(entries: Iterable<Pick<Entry, "runner">>): SaTotals {
  const leases: Record<string, number> = {};
  let [sas, windowRuleBroken] = [0, 0];
  for (const { runner } of entries) {
    const { state, windowRule: rule } = runner?.status() ?? { state: "none", windowRule: null };
    sas += 1;
    leases[state] = (leases[state] ?? 0) + 1;
    if (rule?.kept === false) windowRuleBroken += 1;
  }
  return { sas, leases, windowRuleBroken };
}

function spiText(spi: number): string {
  return `0x${spi.toString(16).padStart(8, "0")}`;
}
