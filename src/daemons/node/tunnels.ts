import { tunnelReqid } from "../../net/ids.ts";
import { localEndOf, type SharedSa } from "../../sa/spec.ts";
import { protocolOf } from "../../sa/suite.ts";

/**
 * The reqids of tunnels. A tunnel is what its SAs have in common: both ends, mode, protocol (ESP or AH) and selectors. All its SAs have one
 * reqid, so that a rekeyed or doubled SA serves the same policies.
 */
export class Tunnels {
  readonly #reqids = new Map<string, { readonly reqid: number; users: Set<string> }>();
  readonly #used = new Set<number>();
  #last = 0;

  /** The reqid of the SA's tunnel, kept until every SA that asked for it was released. */
  take(sa: SharedSa): number {
    const key = tunnelKey(sa);
    const known = this.#reqids.get(key);
    if (known !== undefined) {
      known.users.add(sa.id);
      return known.reqid;
    }
    do this.#last += 1;
    while (this.#used.has(tunnelReqid(this.#last)));
    const reqid = tunnelReqid(this.#last);
    this.#used.add(reqid);
    this.#reqids.set(key, { reqid, users: new Set([sa.id]) });
    return reqid;
  }

  /** The SA is gone. Returns the reqid when its tunnel went with it, else null. */
  release(sa: SharedSa): number | null {
    const key = tunnelKey(sa);
    const known = this.#reqids.get(key);
    known?.users.delete(sa.id);
    if (known === undefined || known.users.size > 0) return null;
    this.#reqids.delete(key);
    this.#used.delete(known.reqid);
    return known.reqid;
  }
}

function tunnelKey(sa: SharedSa): string {
  const { peer, mode, suite, localSelectors, remoteSelectors } = sa;
  return JSON.stringify([localEndOf(sa), peer, mode, protocolOf(suite), localSelectors, remoteSelectors]);
}
