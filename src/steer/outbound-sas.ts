import type { IcmpError } from "../sa/icmp-error.ts";
import { localEndOf, type SharedSa } from "../sa/spec.ts";
import { protocolOf } from "../sa/suite.ts";

/** SAs by what a packet of ours shows of them on its way to the peer. */
export class OutboundSas {
  /** Peers choose these SPIs: several may have chosen one. */
  readonly #bySpi = new Map<number, readonly SharedSa[]>();

  add(sa: SharedSa): void {
    this.#bySpi.set(sa.outbound.spi, [...this.#others(sa), sa]);
  }

  remove(sa: SharedSa): void {
    const others = this.#others(sa);
    if (others.length > 0) this.#bySpi.set(sa.outbound.spi, others);
    else this.#bySpi.delete(sa.outbound.spi);
  }

  /** The SA of the packet that an ICMP error is about. */
  find({ dvipa: source, peer, protocol, isInUdp, spi }: IcmpError): SharedSa | null {
    for (const sa of this.#bySpi.get(spi) ?? []) {
      const isSame = localEndOf(sa) === source && sa.peer === peer && protocolOf(sa.suite) === protocol;
      if (isSame && (sa.peerUdpPort !== null) === isInUdp) return sa;
    }
    return null;
  }

  #others({ id, outbound: { spi } }: SharedSa): readonly SharedSa[] {
    return (this.#bySpi.get(spi) ?? []).filter((sa) => sa.id !== id);
  }
}
