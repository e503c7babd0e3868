/** What inbound states have received, many at a time. */
import { EsplexError } from "../core/errors.ts";
import { isErrno } from "../net/kernel-error.ts";
import { Attributes, MessageBuilder, type NetlinkRequest } from "../net/netlink-message.ts";
import type { NetlinkSocket } from "../net/netlink-socket.ts";
import type { StateReceived } from "../sa/received-numbers.ts";
import { LEGACY_WINDOW_MAX_PACKETS, XFRM_AE_RTHR, XFRM_MSG_GETAE, XFRMA_LTIME_VAL } from "./constants.ts";
import { decodeReplay, receivedNumbers } from "./replay.ts";
import { describe, idFields, type StateId } from "./states.ts";
import { xfrmAeventId, xfrmLifetimeCur } from "./structs.ts";

/** Reads the windows of these states; null for one that is not there. */
export async function readReceived(xfrm: NetlinkSocket, ids: readonly StateId[]): Promise<(StateReceived | null)[]> {
  const answers = await xfrm.getEach(ids.map(windowRequest), ({ body }) => decodeReceived(body));
  return answers.map((answer) => {
    if (!(answer instanceof EsplexError)) return answer;
    if (isErrno(answer, "ESRCH")) return null;
    throw answer;
  });
}

function windowRequest(id: StateId): NetlinkRequest {
  const zeros = xfrmAeventId.decode(new Uint8Array(xfrmAeventId.size));
  const head = xfrmAeventId.encode({ ...zeros, saId: idFields(id), flags: XFRM_AE_RTHR });
  return new MessageBuilder().head(head).request(XFRM_MSG_GETAE, 0, `read what ${describe(id)} has received`);
}

function decodeReceived(body: Uint8Array): StateReceived {
  const attributes = new Attributes(body, xfrmAeventId.size);
  // The answer does not have the window of the older struct; its bitmap has a bit for each number that there can be.
  const received = receivedNumbers(decodeReplay(attributes, LEGACY_WINDOW_MAX_PACKETS));
  const { addTime } = xfrmLifetimeCur.decode(attributes.bytes(XFRMA_LTIME_VAL) ?? new Uint8Array());
  return { ...received, bornSeconds: addTime };
}
