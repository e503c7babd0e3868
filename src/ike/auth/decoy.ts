import { Secret } from "../../core/secret.ts";
import { CertificateCache } from "../../x509/certificate-cache.ts";
import type { TrustStore } from "../../x509/chain.ts";
import type { IkeEnvironment } from "../environment.ts";
import { anchorsFor } from "../peers.ts";

/** As long as a good key. */
const DECOY_PSK_BYTES = 32;

/** What the answer to an unknown peer costs as much with, as that to a known one. */
export interface Decoy {
  readonly psk: Secret;
  readonly trust: TrustStore;
}

/** A PSK that nobody has, and the authorities that count for somebody at this address. */
export function decoyFor(environment: IkeEnvironment, remoteAddress: string): Decoy {
  return {
    psk: new Secret(environment.randomBytes(DECOY_PSK_BYTES)),
    trust: {
      anchors: anchorsFor(environment.peers(), remoteAddress),
      revocationLists: [],
      revocation: "relaxed",
      otherUsages: [],
      known: new CertificateCache(),
    },
  };
}
