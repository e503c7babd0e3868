import type { GeneralSubtree } from "@peculiar/asn1-x509";
import { EsplexError } from "../core/errors.ts";
import { ipToBytes } from "../core/ip.ts";
import type { Certificate } from "./certificate.ts";
import { DistinguishedName } from "./name.ts";

/** A subtree of one kind of name: whether a name of that kind is in it. */
type Subtree =
  | { readonly kind: "dns" | "email" | "ip"; readonly holds: (name: string) => boolean }
  | { readonly kind: "directory"; readonly holds: (name: DistinguishedName) => boolean }
  /** A kind that we cannot check. */
  | { readonly kind: "other" };

/**
 * Why `authority` may not stand above `certificate`: a name outside of its name constraints (RFC 5280 §4.2.1.10). Null when it
 * may. Throws `wire.malformed` for constraints that make no sense.
 */
export function constraintBroken(authority: Certificate, certificate: Certificate): string | null {
  const constraints = authority.nameConstraints;
  if (constraints === null) return null;
  const permitted = readSubtrees(constraints.permittedSubtrees);
  const excluded = readSubtrees(constraints.excludedSubtrees);
  if ([...permitted, ...excluded].some(({ kind }) => kind === "other") && certificate.names.others > 0) {
    return "a name of a kind that its constraints speak of and esplex does not read";
  }
  const { names, subject } = certificate;
  const directories = [...(subject.isEmpty ? [] : [subject]), ...names.directories];
  const outside = (kind: "dns" | "email" | "ip", list: readonly string[]): string | undefined =>
    list.find((name) => {
      const holds = (tree: Subtree): boolean => tree.kind === kind && tree.holds(name);
      return excluded.some(holds) || (permitted.some((tree) => tree.kind === kind) && !permitted.some(holds));
    });
  const holdsDirectory = (name: DistinguishedName) => (tree: Subtree) => tree.kind === "directory" && tree.holds(name);
  const found =
    outside("dns", names.dns) ??
    outside("email", names.emails) ??
    outside("ip", names.ips) ??
    directories
      .find(
        (name) =>
          excluded.some(holdsDirectory(name)) ||
          (permitted.some(({ kind }) => kind === "directory") && !permitted.some(holdsDirectory(name))),
      )
      ?.toString();
  return found === undefined ? null : `${found} is outside of its name constraints`;
}

function readSubtrees(subtrees: Iterable<GeneralSubtree> | undefined): Subtree[] {
  return subtrees === undefined ? [] : [...subtrees].map(readSubtree);
}

function readSubtree({ base, minimum, maximum }: GeneralSubtree): Subtree {
  if (minimum !== 0 || maximum !== undefined) {
    throw new EsplexError("wire.malformed", "name constraints: minimum and maximum are not of use (RFC 5280)");
  }
  const { dNSName, rfc822Name, iPAddress, directoryName } = base;
  if (dNSName !== undefined) return { kind: "dns", holds: inDomain(dNSName.toLowerCase()) };
  if (rfc822Name !== undefined) return { kind: "email", holds: inMailDomain(rfc822Name.toLowerCase()) };
  if (iPAddress !== undefined) return { kind: "ip", holds: inNetwork(iPAddress) };
  if (directoryName !== undefined) {
    const tree = DistinguishedName.of(directoryName);
    return { kind: "directory", holds: (name) => name.isBelow(tree) };
  }
  return { kind: "other" };
}

/** `example.com` holds itself and everything below it; a leading dot is what some authorities write for the same. */
function inDomain(domain: string): (name: string) => boolean {
  const bare = domain.replace(/^\./, "");
  return (name) => bare === "" || name === bare || name.endsWith(`.${bare}`);
}

/** A mailbox, a host, or with a leading dot every host below a domain. */
function inMailDomain(constraint: string): (name: string) => boolean {
  if (constraint.includes("@")) return (name) => name === constraint;
  return (name) => {
    const host = name.slice(name.lastIndexOf("@") + 1);
    return constraint.startsWith(".") ? host.endsWith(constraint) : host === constraint;
  };
}

/** `ADDRESS/PREFIX`, as the ASN.1 library prints address and mask. */
function inNetwork(text: string): (name: string) => boolean {
  const [address = "", prefix = ""] = text.split("/");
  const base = ipToBytes(address);
  const bits = Number(prefix);
  if (prefix === "" || !Number.isInteger(bits) || bits > base.length * 8) {
    throw new EsplexError("wire.malformed", `name constraints: ${text} is not a network`);
  }
  return (name) => {
    if (name === "") return false;
    const bytes = ipToBytes(name);
    return bytes.length === base.length && bitsOf(bytes).slice(0, bits) === bitsOf(base).slice(0, bits);
  };
}

function bitsOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(2).padStart(8, "0")).join("");
}
