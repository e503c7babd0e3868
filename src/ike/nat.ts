import { sha1 } from "../crypto/hash.ts";
import { equalBytes, u16be } from "../core/bytes.ts";
import { ipToBytes } from "../core/ip.ts";
import type { Endpoint, Path } from "./events.ts";
import { NOTIFY } from "./wire/constants.ts";
import { notify, type NotifyPayload } from "./wire/notify.ts";
import type { Payload } from "./wire/payload.ts";

interface SpiPair {
  readonly spiI: Uint8Array;
  readonly spiR: Uint8Array;
}

/** SHA-1(SPIi | SPIr | address | port), RFC 7296 §2.23. */
function natDetectionHash(spis: SpiPair, endpoint: Endpoint): Uint8Array {
  return sha1(spis.spiI, spis.spiR, ipToBytes(endpoint.address), u16be(endpoint.port));
}

/** The notifies of a message that travels from `from` to `to`. */
export function natDetectionNotifies(spis: SpiPair, from: Endpoint, to: Endpoint): NotifyPayload[] {
  return [
    notify(NOTIFY.NAT_DETECTION_SOURCE_IP, natDetectionHash(spis, from)),
    notify(NOTIFY.NAT_DETECTION_DESTINATION_IP, natDetectionHash(spis, to)),
  ];
}

/** Who is behind a NAT. */
export interface NatFinding {
  readonly peer: boolean;
  readonly us: boolean;
}

export const NO_NAT: NatFinding = { peer: false, us: false };

/** True when ESP has to travel in UDP. */
export function isNatted({ peer, us }: NatFinding): boolean {
  return peer || us;
}

/**
 * What the peer's notifies say (RFC 7296 §2.23): it is behind a NAT when none of its sources is where the message came from, we
 * are when its destination is not where it arrived. Null without notifies: the peer knows no NAT traversal.
 */
export function detectNat(payloads: readonly Payload[], spis: SpiPair, path: Path): NatFinding | null {
  const hashes = (type: number): Uint8Array[] =>
    payloads.flatMap((payload) => (payload.kind === "notify" && payload.type === type ? [payload.data] : []));
  const sources = hashes(NOTIFY.NAT_DETECTION_SOURCE_IP);
  const destinations = hashes(NOTIFY.NAT_DETECTION_DESTINATION_IP);
  if (sources.length === 0 || destinations.length === 0) return null;
  const seen = (found: readonly Uint8Array[], endpoint: Endpoint): boolean => {
    const wanted = natDetectionHash(spis, endpoint);
    return found.some((hash) => equalBytes(hash, wanted));
  };
  return { peer: !seen(sources, path.remote), us: !seen(destinations, path.local) };
}
