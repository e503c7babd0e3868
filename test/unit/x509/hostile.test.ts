import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EsplexError } from "../../../src/core/errors.ts";
import { parseCertificate } from "../../../src/x509/certificate.ts";
import { DistinguishedName } from "../../../src/x509/name.ts";
import { parseRevocationList } from "../../../src/x509/revocation-list.ts";
import { TestCertificate } from "../../support/certificates.ts";

/** Properties on a machine that is busy with other things. */
const SLOW_MACHINE_MS = 60_000;

const root = TestCertificate.root("CN=Root");

/** One element in another, in another…, about this long. */
function nestedDer(tag: number, lengthBytes: number): Uint8Array {
  const heads: number[][] = [];
  let inside = 0;
  while (inside < lengthBytes) {
    const head = inside < 128 ? [tag, inside] : [tag, 0x82, inside >>> 8, inside & 0xff];
    heads.push(head);
    inside += head.length;
  }
  return Uint8Array.from(heads.reverse().flat());
}

describe("hostile bytes", () => {
  const onlyOurError = (run: () => unknown): void => {
    try {
      run();
    } catch (error) {
      if (!(error instanceof EsplexError)) throw error;
    }
  };
  const certificate = root.leaf("CN=moon", { dns: ["a.example"], ips: ["10.0.0.1"] }).certificate.der;
  const list = root.revocationListDer([root.leaf("CN=x")]);
  const changes = fc.array(fc.record({ at: fc.nat(2000), value: fc.integer({ min: 0, max: 255 }) }), { maxLength: 4 });

  test(
    "changed and cut certificates and lists throw only our error",
    () => {
      fc.assert(
        fc.property(changes, fc.option(fc.nat(2000), { freq: 4 }), (edits, cut) => {
          for (const [original, read] of [
            [certificate, parseCertificate],
            [list, parseRevocationList],
          ] as const) {
            const bytes = original.slice(0, cut ?? original.length);
            for (const { at, value } of edits) bytes[at % original.length] = value;
            onlyOurError(() => read(bytes));
          }
        }),
        { numRuns: 300 },
      );
    },
    SLOW_MACHINE_MS,
  );

  test(
    "random bytes, deep nesting and long input throw only our error",
    () => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 400, size: "max" }), (bytes) => {
          onlyOurError(() => parseCertificate(bytes));
          onlyOurError(() => parseRevocationList(bytes));
          onlyOurError(() => DistinguishedName.fromDer(bytes));
        }),
      );
      for (const tag of [0x30, 0x31, 0x24, 0xa0, 0x04]) {
        const nested = nestedDer(tag, 16_000);
        for (const read of [
          parseCertificate,
          parseRevocationList,
          (der: Uint8Array) => DistinguishedName.fromDer(der),
        ]) {
          expect(() => read(nested)).toThrow(EsplexError);
        }
      }
      expect(() => parseCertificate(new Uint8Array(20_000))).toThrow(/20000 bytes/);
    },
    SLOW_MACHINE_MS,
  );
});
