import type { Log } from "../../core/log.ts";
import type { IkePeerConfig } from "../../ike/environment.ts";
import { DEFAULT_ESP_SUITES, protocolOf, sameSuite, suiteName, type ChildSuite } from "../../sa/suite.ts";
import { missingSuites, refuseEspOffload } from "../../xfrm/probe.ts";
import { openXfrm } from "../../xfrm/reconciler.ts";

/**
 * Says at once, and in words, what would fail at the first SA. Returns the suites of ESP and AH that peers may have and this kernel cannot
 * do, one log line each. Throws `kernel.offload` and `kernel.missing`.
 */
export async function probeKernel(peers: readonly IkePeerConfig[], log: Log): Promise<readonly ChildSuite[]> {
  refuseEspOffload();
  for (const { name } of peers.filter(({ espSuites }) => espSuites?.some(({ kind }) => kind === "null"))) {
    log.warn("a peer may have ESP without encryption: its espProposals list null", { peer: name });
  }
  for (const { name } of peers.filter(({ espSuites }) => espSuites?.some((suite) => protocolOf(suite) === "ah"))) {
    log.warn("a peer may have AH, which hides nothing: it has ahProposals", { peer: name });
  }
  const xfrm = openXfrm();
  try {
    const missing = await missingSuites(xfrm, wantedSuites(peers));
    for (const { suite, reason } of missing) {
      log.warn("this kernel cannot do a suite: no peer gets it here", { suite: suiteName(suite), reason });
    }
    return missing.map(({ suite }) => suite);
  } finally {
    xfrm.close();
  }
}

/** Every suite that a peer may have, once. A node without peers of its own has those that peers have by default. */
export function wantedSuites(peers: readonly Pick<IkePeerConfig, "espSuites">[]): ChildSuite[] {
  const lists = peers.length === 0 ? [DEFAULT_ESP_SUITES] : peers.map(allowedSuites);
  const all = lists.flat();
  return all.filter((suite, i) => all.findIndex((other) => sameSuite(other, suite)) === i);
}

/** Peers as IKE shall see them: what this kernel cannot do is no part of their suites, and so is never negotiated. */
export function withoutSuites<P extends Pick<IkePeerConfig, "espSuites">>(
  peers: readonly P[],
  missing: readonly ChildSuite[],
): P[] {
  return peers.map((peer) => ({
    ...peer,
    espSuites: allowedSuites(peer).filter((suite) => !missing.some((other) => sameSuite(other, suite))),
  }));
}

function allowedSuites({ espSuites }: Pick<IkePeerConfig, "espSuites">): readonly ChildSuite[] {
  return espSuites ?? DEFAULT_ESP_SUITES;
}
