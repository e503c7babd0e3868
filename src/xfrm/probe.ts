import { existsSync } from "node:fs";
import { randomBytes, randomInt } from "node:crypto";
import { join } from "node:path";
import { EsplexError, messageOf } from "../core/errors.ts";
import { Secret } from "../core/secret.ts";
import type { NetlinkSocket } from "../net/netlink-socket.ts";
import { suiteLengths, suiteName, type ChildSuite } from "../sa/suite.ts";
import { ipProtocolOf } from "./shadow.ts";
import { addState, deleteState, type StateSpec } from "./states.ts";

const SYS_MODULE = "/sys/module";
const OFFLOAD_MODULES = ["esp4_offload", "esp6_offload"] as const;

/**
 * Throws `kernel.offload` when ESP offload is loaded: an aggregate then counts as one packet and uses up to 122
 * numbers, so a lease would be passed (measured). Before any state that runs on leases.
 */
export function refuseEspOffload(sysModule = SYS_MODULE): void {
  const loaded = OFFLOAD_MODULES.filter((module) => existsSync(join(sysModule, module)));
  if (loaded.length === 0) return;
  const unload = `modprobe -r ${loaded.join(" ")}`;
  const prevent = loaded.map((module) => `install ${module} /bin/false`).join("\n");
  const message =
    `${loaded.join(" and ")} is loaded: it breaks the count of sequence numbers. ` +
    `Run: ${unload}; and keep it out with this in /etc/modprobe.d/esplex.conf: ${prevent.replace("\n", "; ")}`;
  throw new EsplexError("kernel.offload", message, { loaded, unload, modprobeConf: prevent });
}

/** Throws `kernel.missing` when this kernel cannot do ESP or AH with `suite`: found by trying, in this namespace. */
export async function requireSuite(xfrm: NetlinkSocket, suite: ChildSuite): Promise<void> {
  const { encryptionKeyBytes, integrityKeyBytes } = suiteLengths(suite);
  const spec: StateSpec = {
    // 192.0.2.0/24 is nobody's (RFC 5737): no packet meets the trial state.
    id: { destination: "192.0.2.255", spi: randomInt(0x10000, 0x7fffffff), protocol: ipProtocolOf(suite) },
    source: "192.0.2.254",
    mode: "transport",
    reqid: 0,
    suite,
    encryptionKey: new Secret(randomBytes(encryptionKeyBytes)),
    integrityKey: integrityKeyBytes === 0 ? null : new Secret(randomBytes(integrityKeyBytes)),
    esn: false,
    replayWindowPackets: 0,
    encapsulation: null,
    allowance: { kind: "parked" },
    eventThresholdPackets: 0,
  };
  try {
    await addState(xfrm, spec);
    await deleteState(xfrm, spec.id);
  } catch (error) {
    const what = `this kernel cannot do IPsec with ${suiteName(suite)}`;
    throw new EsplexError("kernel.missing", `${what}: ${messageOf(error)}`, { suite: suiteName(suite) }, error);
  }
}

/** A suite that this kernel cannot do, and why. */
export interface MissingSuite {
  readonly suite: ChildSuite;
  readonly reason: string;
}

/** Which of `suites` this kernel lacks, found by trying each. Throws `kernel.missing` when it lacks all of them. */
export async function missingSuites(xfrm: NetlinkSocket, suites: readonly ChildSuite[]): Promise<MissingSuite[]> {
  const missing: MissingSuite[] = [];
  for (const suite of suites) {
    try {
      await requireSuite(xfrm, suite);
    } catch (error) {
      missing.push({ suite, reason: messageOf(error) });
    }
  }
  const [first] = missing;
  if (first === undefined || missing.length < suites.length) return missing;
  const message = `this kernel can do none of the suites that are needed; the first: ${first.reason}`;
  throw new EsplexError("kernel.missing", message, { suites: suites.map(suiteName) });
}
