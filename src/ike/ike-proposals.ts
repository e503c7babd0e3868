import { ikeTransforms } from "./proposal.ts";
import type { IkeSuite } from "./suite.ts";
import { PROTOCOL, TRANSFORM } from "./wire/constants.ts";
import { WIRE_LIMITS } from "./wire/limits.ts";
import type { Proposal, Transform } from "./wire/security-association.ts";

/** In the order in which proposals carry them. */
const TYPES = [TRANSFORM.ENCRYPTION, TRANSFORM.PRF, TRANSFORM.INTEGRITY, TRANSFORM.DH] as const;

/** The transforms of one proposal by type: it offers all of their combinations (RFC 7296 §3.3). */
type Product = ReadonlyMap<number, readonly Transform[]>;

/**
 * Our proposals for these suites, exactly them, in as few proposals as that takes: IKE_SA_INIT cannot be fragmented by IKE
 * (RFC 7383 §2.5), and fragments of IP are lost in many networks. Two products that differ in one type alone become one.
 */
export function ikeProposals(suites: readonly IkeSuite[]): Proposal[] {
  let products: readonly Product[] = suites.map(productOf);
  for (const type of [TRANSFORM.DH, TRANSFORM.PRF, TRANSFORM.INTEGRITY, TRANSFORM.ENCRYPTION]) {
    products = mergeAlong(products, type);
  }
  return products.slice(0, WIRE_LIMITS.proposals).map((product, i) => ({
    number: i + 1,
    protocol: PROTOCOL.IKE,
    spi: new Uint8Array(0),
    transforms: TYPES.flatMap((type) => product.get(type) ?? []),
  }));
}

function productOf(suite: IkeSuite): Product {
  const transforms = ikeTransforms(suite);
  return new Map(TYPES.map((type) => [type, transforms.filter((found) => found.type === type)]));
}

/** The first of those that become one keeps its place, and within it the order in which they came. */
function mergeAlong(products: readonly Product[], type: number): Product[] {
  const merged = new Map<string, Product>();
  for (const product of products) {
    const key = JSON.stringify(
      TYPES.filter((other) => other !== type).map((other) => (product.get(other) ?? []).map(nameOf)),
    );
    const known = merged.get(key);
    merged.set(key, known === undefined ? product : withMore(known, product, type));
  }
  return [...merged.values()];
}

function withMore(known: Product, product: Product, type: number): Product {
  const both = [...(known.get(type) ?? []), ...(product.get(type) ?? [])];
  const once = new Map(both.map((found) => [nameOf(found), found]));
  return new Map([...known, [type, [...once.values()]]]);
}

function nameOf({ id, attributes }: Transform): string {
  return `${id} ${attributes.map((attribute) => JSON.stringify(attribute)).join()}`;
}
