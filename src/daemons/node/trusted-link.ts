import { EsplexError } from "../../core/errors.ts";
import { ipToBytes } from "../../core/ip.ts";
import { listAddresses, type InterfaceAddress } from "../../net/addresses.ts";
import { ADDRESS_PROTOCOL } from "../../net/ids.ts";
import { AF_INET6, familyOf } from "../../net/inet-address.ts";
import { NETLINK_ROUTE, NetlinkSocket } from "../../net/netlink-socket.ts";

/**
 * A host's address on the trusted link of the IP version that the bus does not use: the next hop for packets of DVIPAs
 * of that version. Null when there is none. Rather one that is not link-local: a router that forwards over the interface
 * a packet came in by sends a redirect only for a link-local next hop (ndisc_send_redirect, RFC 4861 §8.2), and a client
 * that follows it passes the distributor by.
 */
export function otherAddressOnLink(addresses: readonly InterfaceAddress[], trustedAddress: string): string | null {
  const link = addresses.find(({ address }) => address === trustedAddress)?.interfaceIndex;
  const candidates = addresses.filter(
    ({ address, interfaceIndex, protocol, isPreferred }) =>
      interfaceIndex === link &&
      isPreferred &&
      protocol !== ADDRESS_PROTOCOL &&
      familyOf(address) !== familyOf(trustedAddress),
  );
  const best = candidates.find(({ address }) => !isLinkLocal(address)) ?? candidates[0];
  return best?.address ?? null;
}

/**
 * Throws `config.invalid` when a DVIPA is of an IP version that this host does not speak on the trusted link: says at once,
 * and in words, what would fail when the first target joins.
 */
export async function requireNextHops(
  trustedAddress: string,
  dvipas: readonly { readonly address: string }[],
): Promise<void> {
  const other = dvipas.find(({ address }) => familyOf(address) !== familyOf(trustedAddress));
  if (other === undefined) return;
  const route = NetlinkSocket.open(NETLINK_ROUTE);
  const addresses = await listAddresses(route).finally(() => route.close());
  if (otherAddressOnLink(addresses, trustedAddress) !== null) return;
  const isV6 = familyOf(other.address) === AF_INET6;
  const remedy = isV6 ? "enable IPv6 on it, here and on every target (link-local addresses are enough)" : "give it one";
  const version = isV6 ? "IPv6" : "IPv4";
  throw new EsplexError(
    "config.invalid",
    `dvipas: ${other.address} is ${version}, but the interface with ${trustedAddress} on the trusted link has no ` +
      `${version} address: ${remedy}`,
  );
}

/** fe80::/10 (RFC 4291 §2.5.6). */
export function isLinkLocal(address: string): boolean {
  const [first = 0, second = 0] = ipToBytes(address);
  return familyOf(address) === AF_INET6 && first === 0xfe && (second & 0xc0) === 0x80;
}
