/** The kernel's own counters of states, many at a time and without their keys. */
import { EsplexError } from "../core/errors.ts";
import { isErrno } from "../net/kernel-error.ts";
import { Attributes, MessageBuilder, type NetlinkRequest } from "../net/netlink-message.ts";
import type { NetlinkSocket } from "../net/netlink-socket.ts";
import { XFRM_AE_RTHR, XFRM_MSG_GETAE, XFRMA_LTIME_VAL } from "./constants.ts";
import { describe, idFields, type StateId } from "./states.ts";
import { xfrmAeventId, xfrmLifetimeCur } from "./structs.ts";

/** What a state has carried since it was made. */
export interface Carried {
  readonly bytes: bigint;
  readonly packets: bigint;
}

/**
 * Reads the counters of these states; null for one that is not there. Of an outbound state on leases neither number means
 * anything (`outbound-use.ts`).
 */
export async function readCarried(xfrm: NetlinkSocket, ids: readonly StateId[]): Promise<(Carried | null)[]> {
  const answers = await xfrm.getEach(ids.map(carriedRequest), ({ body }) => decodeCarried(body));
  return answers.map((answer) => {
    if (!(answer instanceof EsplexError)) return answer;
    if (isErrno(answer, "ESRCH")) return null;
    throw answer;
  });
}

function carriedRequest(id: StateId): NetlinkRequest {
  const zeros = xfrmAeventId.decode(new Uint8Array(xfrmAeventId.size));
  const head = xfrmAeventId.encode({ ...zeros, saId: idFields(id), flags: XFRM_AE_RTHR });
  return new MessageBuilder().head(head).request(XFRM_MSG_GETAE, 0, `read what ${describe(id)} has carried`);
}

function decodeCarried(body: Uint8Array): Carried {
  const lifetime = new Attributes(body, xfrmAeventId.size).bytes(XFRMA_LTIME_VAL) ?? new Uint8Array();
  const { bytes, packets } = xfrmLifetimeCur.decode(lifetime);
  return { bytes, packets };
}
