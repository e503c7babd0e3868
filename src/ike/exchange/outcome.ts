import type { PeerInstall } from "../session.ts";
import type { Payload } from "../wire/payload.ts";

/** What becomes of one authentic request. */
export type Outcome =
  | {
      readonly kind: "respond";
      readonly payloads: readonly Payload[];
      /** Why the IKE SA ends once the response is on its way; null when it lives on. */
      readonly closeReason: string | null;
    }
  /** The response waits until the kernels have the new Child SA. */
  | { readonly kind: "install"; readonly pending: PeerInstall };

/** Answers, and the IKE SA lives on. */
export function respond(payloads: readonly Payload[]): Outcome {
  return { kind: "respond", payloads, closeReason: null };
}

/** Answers, and ends the IKE SA. */
export function respondAndClose(payloads: readonly Payload[], closeReason: string): Outcome {
  return { kind: "respond", payloads, closeReason };
}
