import { DefaultStrongSwan } from "./default-strongswan.ts";
import type { IpsecPeer, PeerKind, PeerOptions } from "./ipsec-peer.ts";
import { Libreswan } from "./libreswan.ts";
import { OpenIked } from "./openiked.ts";

/** Starts a peer of this kind; the lab's network takes it down. */
export async function startPeer(kind: PeerKind, options: PeerOptions): Promise<IpsecPeer> {
  switch (kind) {
    case "strongswan":
      return DefaultStrongSwan.start(options);
    case "libreswan":
      return Libreswan.start(options);
    case "openiked":
      return OpenIked.start(options);
  }
}
