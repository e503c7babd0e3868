import { createHash } from "node:crypto";
import { GRE_KEY, GRE_NAME_PREFIX } from "../../net/ids.ts";
import { addGreLink, deleteLink, listLinks, type Link } from "../../net/links.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";

/** What a client's packets have at most: those that do not fit with GRE travel in fragments over the trusted link. */
const MTU_BYTES = 1500;

/** Name of our GRE interface between two addresses of the trusted link; at most 15 characters. */
export function greName(local: string, remote: string): string {
  const hash = createHash("sha256").update(`${local} ${remote}`).digest("hex");
  return `${GRE_NAME_PREFIX}${hash.slice(0, 8)}`;
}

/** Makes the GRE interfaces to these nodes where they are missing, or down; returns their indexes by remote address. */
export async function addGreLinks(
  route: NetlinkSocket,
  local: string,
  remotes: ReadonlySet<string>,
): Promise<ReadonlyMap<string, number>> {
  if (remotes.size === 0) return new Map();
  const present = await linksByName(route);
  for (const remote of remotes) {
    const name = greName(local, remote);
    const link = present.get(name);
    if (link?.up === true) continue;
    // One that somebody took down has lost its routes: a new one is as good.
    if (link !== undefined) await deleteLink(route, link);
    await addGreLink(route, { name, local, remote, key: GRE_KEY, mtuBytes: MTU_BYTES });
  }
  return greLinks(route, local, remotes);
}

/** The indexes of our GRE interfaces to these nodes, by remote address: of those that are there, and up. */
export async function greLinks(
  route: NetlinkSocket,
  local: string,
  remotes: ReadonlySet<string>,
): Promise<ReadonlyMap<string, number>> {
  if (remotes.size === 0) return new Map();
  const present = await linksByName(route);
  return new Map(
    [...remotes].flatMap((remote) => {
      const link = present.get(greName(local, remote));
      return link?.up === true ? [[remote, link.index] as const] : [];
    }),
  );
}

async function linksByName(route: NetlinkSocket): Promise<ReadonlyMap<string, Link>> {
  return new Map((await listLinks(route)).map((link) => [link.name, link]));
}

/** Removes our GRE interfaces to all other nodes. */
export async function removeOtherGreLinks(
  route: NetlinkSocket,
  local: string,
  remotes: ReadonlySet<string>,
): Promise<void> {
  const wanted = new Set([...remotes].map((remote) => greName(local, remote)));
  for (const link of await listLinks(route)) {
    if (link.name.startsWith(GRE_NAME_PREFIX) && !wanted.has(link.name)) await deleteLink(route, link);
  }
}
