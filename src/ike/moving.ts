import type { Path } from "./events.ts";
import type { Child, IkeSession } from "./session.ts";
import { isEstablished } from "./session-table.ts";
import type { Step } from "./step.ts";

/**
 * Follows a peer whose NAT has given it another port, to where a fresh, authentic message of it came from (RFC 7296 §2.23):
 * our own requests and what is sent on its Child SAs go there. Not from behind a NAT of our own: there it would let an attacker
 * with a single packet break the connection. Another address never comes here: the kernel names states by it.
 */
export function follow(step: Step, session: IkeSession, path: Path): void {
  const before = session.path;
  if (before.remote.port === path.remote.port && before.local.port === path.local.port) return;
  if (!isEstablished(session)) {
    session.path = path;
    return;
  }
  if (session.nat.us) {
    step.count("peerMoveIgnored");
    return;
  }
  session.path = path;
  step.count("peerMoved");
  step.log("info", "the peer sends from another port", { ...session.facts(), port: path.remote.port });
  for (const child of session.state.children.values()) alignPort(step, session, child);
}

/** Lets a Child SA in UDP be sent to where its peer is now. */
export function alignPort(step: Step, { path }: IkeSession, child: Child): void {
  const { sa } = child;
  const { port } = path.remote;
  if (sa.peerUdpPort === null || sa.peerUdpPort === port) return;
  child.sa = { ...sa, peerUdpPort: port };
  step.emit({ kind: "moveChild", saId: sa.id, peerUdpPort: port });
}
