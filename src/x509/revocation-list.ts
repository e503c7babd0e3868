import {
  CertificateList,
  id_ce_authorityKeyIdentifier,
  id_ce_cRLNumber,
  type RevokedCertificate,
} from "@peculiar/asn1-x509";
import { schemeOfAlgorithm } from "../crypto/signature-algorithm.ts";
import { verifySignature } from "../crypto/signature.ts";
import { toHex } from "../core/bytes.ts";
import { EsplexError } from "../core/errors.ts";
import { readAsn, writeAsn } from "./asn.ts";
import { indexExtensions, type Certificate } from "./certificate.ts";
import { DistinguishedName } from "./name.ts";

/** A certificate revocation list (RFC 5280 §5): whole ones of one authority, no deltas, no parts. */
export interface RevocationList {
  readonly issuer: DistinguishedName;
  readonly thisUpdateMs: number;
  /** Null: the authority does not say when the next one comes. */
  readonly nextUpdateMs: number | null;
  /** Serial numbers in hex. */
  readonly revoked: ReadonlySet<string>;
  /** True when this authority has signed it; asked again, the answer is remembered. */
  isSignedBy(authority: Certificate): boolean;
}

/** Critical extensions of a list that say nothing we must act on. All others make the list unfit (RFC 5280 §5.2). */
const HARMLESS: ReadonlySet<string> = new Set([id_ce_cRLNumber, id_ce_authorityKeyIdentifier]);

/** Reads a list in DER. Throws `wire.malformed`, or `wire.unsupported` for a partial or delta list and for SHA-1. */
export function parseRevocationList(der: Uint8Array): RevocationList {
  const list = readAsn(der, CertificateList, "CRL");
  const { tbsCertList: tbs, tbsCertListRaw: signed } = list;
  if (signed === undefined) throw new EsplexError("wire.malformed", "CRL: nothing is signed");
  refuseCritical([...indexExtensions(tbs.crlExtensions ?? []).values()]);
  const entries: readonly RevokedCertificate[] = tbs.revokedCertificates ?? [];
  for (const { crlEntryExtensions } of entries) refuseCritical(crlEntryExtensions ?? []);
  const scheme = schemeOfAlgorithm(writeAsn(list.signatureAlgorithm));
  if (scheme === undefined)
    throw new EsplexError("wire.unsupported", "CRL: signed with an algorithm that is not taken");
  const signature = new Uint8Array(list.signature);
  const verdicts = new Map<string, boolean>();
  return {
    issuer: DistinguishedName.of(tbs.issuer),
    thisUpdateMs: tbs.thisUpdate.getTime().getTime(),
    nextUpdateMs: tbs.nextUpdate?.getTime().getTime() ?? null,
    revoked: new Set(entries.map(({ userCertificate }) => toHex(new Uint8Array(userCertificate)))),
    isSignedBy: (authority) => {
      const known = verdicts.get(authority.fingerprint);
      if (known !== undefined) return known;
      const verdict = verifySignature(scheme, authority.publicKey, new Uint8Array(signed), signature);
      if (verdicts.size < MAX_REMEMBERED) verdicts.set(authority.fingerprint, verdict);
      return verdict;
    },
  };
}

/** Authorities of one name are few; the bound is for those that a stranger makes up. Our choice. */
const MAX_REMEMBERED = 64;

function refuseCritical(extensions: readonly { readonly critical: boolean; readonly extnID: string }[]): void {
  const unfit = extensions.find(({ critical, extnID }) => critical && !HARMLESS.has(extnID));
  if (unfit === undefined) return;
  throw new EsplexError(
    "wire.unsupported",
    `CRL: critical extension ${unfit.extnID} (deltas and partial lists are not read)`,
  );
}
