/**
 * Which IPsec packets to a DVIPA are shared out among the targets, and where their cryptography happens: the table of the seeds
 * (18 rows), as a function. R6.
 */

/** What the table looks at. Addresses are the local ones, as an inbound packet carries them. */
export interface IpsecCombination {
  readonly protocols: "ah" | "esp" | "ah+esp";
  readonly mode: "transport" | "tunnel";
  /** What lies behind the last IPsec header and, in tunnel mode, the inner IP header. */
  readonly payload: "tcp" | "other";
  readonly isOuterDvipa: boolean;
  /** Null in transport mode, which has one header only. */
  readonly isInnerDvipa: boolean | null;
  /** ESP without encryption (RFC 2410). False for AH alone. */
  readonly isNullEncrypted: boolean;
}

export interface Distribution {
  /** The connection may live on a target. */
  readonly connection: boolean;
  /** The target's own kernel does the IPsec processing: the packet goes there untouched. */
  readonly crypto: boolean;
  /** The ports can only be read by decrypting. */
  readonly peek: boolean;
}

/**
 * Only TCP is shared out. The cryptography goes along when the SA ends at a DVIPA, which is the address that all targets have; an
 * SA that ends at an address of the distributor is processed there, and the connection inside may still be passed on.
 *
 * The seeds' row for AH and ESP together in transport mode says that TCP needs no peek: TCP's ports are encrypted there as
 * in every other ESP row, so it does; read as a slip of the table. Their note 1: null encryption needs none.
 */
export function distributionOf(combination: IpsecCombination): Distribution {
  const { protocols, payload, isOuterDvipa, isNullEncrypted } = combination;
  const isLastHeaderDvipa = combination.isInnerDvipa ?? isOuterDvipa;
  const connection = payload === "tcp" && isLastHeaderDvipa;
  return { connection, crypto: connection && isOuterDvipa, peek: protocols !== "ah" && !isNullEncrypted };
}
