/** SAs and states as they travel to a worker: test keys in plain bytes. */
import { Secret } from "../../../src/core/secret.ts";
import type { SaHalf, SharedSa } from "../../../src/sa/spec.ts";
import type { StateSpec } from "../../../src/xfrm/states.ts";

interface PlainHalf {
  readonly spi: number;
  readonly encryptionKey: Uint8Array;
  readonly integrityKey: Uint8Array | null;
}
export type PlainSa = Omit<SharedSa, "inbound" | "outbound"> & {
  readonly inbound: PlainHalf;
  readonly outbound: PlainHalf;
};
export type PlainState = Omit<StateSpec, "encryptionKey" | "integrityKey"> & Omit<PlainHalf, "spi">;

/** As `src` wants it. */
export function sharedSa(sa: PlainSa): SharedSa {
  const half = (plain: PlainHalf): SaHalf => ({ spi: plain.spi, ...secretKeys(plain) });
  return { ...sa, inbound: half(sa.inbound), outbound: half(sa.outbound) };
}

export function secretKeys({ encryptionKey, integrityKey }: Omit<PlainHalf, "spi">): Omit<SaHalf, "spi"> {
  return {
    encryptionKey: new Secret(encryptionKey),
    integrityKey: integrityKey === null ? null : new Secret(integrityKey),
  };
}
