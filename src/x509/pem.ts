import { EsplexError } from "../core/errors.ts";

/** The first byte of DER: SEQUENCE. */
const SEQUENCE = 0x30;

/**
 * The DER of every block of this label in a file in PEM (RFC 7468), in their order; a file in DER is one block. Other blocks and
 * text between them are skipped. Throws `config.invalid` for a block that is not closed or not base64.
 */
export function pemBlocks(content: Uint8Array, label: "CERTIFICATE" | "X509 CRL"): Uint8Array[] {
  if (content[0] === SEQUENCE) return [content];
  const text = Buffer.from(content).toString("latin1");
  const begin = `-----BEGIN ${label}-----`;
  const end = `-----END ${label}-----`;
  const parts = text.split(begin).slice(1);
  return parts.map((part) => {
    const [body, rest] = part.split(end);
    const digits = body?.replaceAll(/\s/g, "") ?? "";
    if (rest === undefined || !/^[A-Za-z0-9+/]+={0,2}$/.test(digits)) {
      throw new EsplexError("config.invalid", `PEM: a ${label} that is not closed, or not base64`);
    }
    return new Uint8Array(Buffer.from(digits, "base64"));
  });
}
