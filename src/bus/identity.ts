import { EsplexError } from "../core/errors.ts";

/** Who stands behind a certificate: its only subject alternative name, a URI. */
export type Identity =
  | { readonly kind: "node"; readonly cluster: string; readonly name: string }
  | { readonly kind: "coupling"; readonly cluster: string };

const URI = /^esplex:\/\/([a-z0-9][a-z0-9-]{0,31})\/(?:node\/([a-z0-9][a-z0-9-]{0,31})|(coupling))$/;

/** `esplex://lab/node/t1`, `esplex://lab/coupling`. */
export function identityUri(identity: Identity): string {
  return identity.kind === "node"
    ? `esplex://${identity.cluster}/node/${identity.name}`
    : `esplex://${identity.cluster}/coupling`;
}

/** The name that stands in the sender field of messages and in logs. */
export function identityName(identity: Identity): string {
  return identity.kind === "node" ? identity.name : "coupling";
}

/**
 * Reads the identity from `subjectAltName` as Node prints it. Exactly one name, a URI of ours, of this cluster: anything
 * else throws `bus.unauthorised`.
 */
export function identityOf(subjectAltName: string | undefined, cluster: string): Identity {
  const text = subjectAltName ?? "";
  const [, found, name] = URI.exec(text.startsWith("URI:") ? text.slice("URI:".length) : "") ?? [];
  if (found === undefined) {
    throw new EsplexError("bus.unauthorised", "the certificate does not carry one URI esplex://CLUSTER/…", {
      subjectAltName: text.slice(0, 200),
    });
  }
  if (found !== cluster) {
    throw new EsplexError("bus.unauthorised", `the certificate is for cluster ${found}, not ${cluster}`);
  }
  return name === undefined ? { kind: "coupling", cluster } : { kind: "node", cluster, name };
}
