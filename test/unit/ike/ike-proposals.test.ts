import fc from "fast-check";
import { expect, test } from "vitest";
import { ikeProposals } from "../../../src/ike/ike-proposals.ts";
import { chooseIke, ikeTransforms } from "../../../src/ike/proposal.ts";
import { ikeSuiteName, type IkeCipher, type IkeSuite } from "../../../src/ike/suite.ts";
import { TRANSFORM } from "../../../src/ike/wire/constants.ts";
import type { Proposal, Transform } from "../../../src/ike/wire/security-association.ts";

const HMACS = ["hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512"] as const;
const CIPHERS: readonly IkeCipher[] = [
  { kind: "aes-gcm-16", keyBits: 256 },
  { kind: "aes-gcm-16", keyBits: 128 },
  { kind: "chacha20-poly1305" },
  ...HMACS.map((integrity): IkeCipher => ({ kind: "aes-cbc", keyBits: 256, integrity })),
];
const GROUPS = [31, 19, 14];
const ALL: readonly IkeSuite[] = CIPHERS.flatMap((cipher) =>
  HMACS.flatMap((prf) => GROUPS.map((group) => ({ cipher, prf, group }))),
);

const nameOf = (suite: IkeSuite): string => `${ikeSuiteName(suite)}/${suite.group}`;

/** Every suite that a peer may read out of these proposals: one transform of each type that is there. */
function readAll(proposals: readonly Proposal[]): string[] {
  const types = [TRANSFORM.ENCRYPTION, TRANSFORM.PRF, TRANSFORM.INTEGRITY, TRANSFORM.DH];
  return proposals.flatMap((proposal) => {
    let combinations: Transform[][] = [[]];
    for (const type of types) {
      const choices = proposal.transforms.filter((found) => found.type === type);
      if (choices.length === 0) continue;
      combinations = combinations.flatMap((before) => choices.map((choice) => [...before, choice]));
    }
    return combinations.map((transforms) => {
      const payload = { kind: "sa" as const, proposals: [{ ...proposal, transforms }] };
      const group = transforms.find(({ type }) => type === TRANSFORM.DH)?.id ?? 0;
      return nameOf(chooseIke(payload, group, 0, null).suite);
    });
  });
}

test("exactly the suites are offered, whichever they are, each once", () => {
  fc.assert(
    fc.property(fc.subarray([...ALL], { minLength: 1, maxLength: 24 }), (suites) => {
      expect(readAll(ikeProposals(suites)).sort()).toEqual(suites.map(nameOf).sort());
    }),
  );
});

test("all combinations of ciphers, PRFs and groups take one proposal for AEADs and one for the others", () => {
  const proposals = ikeProposals(ALL);
  expect(proposals).toHaveLength(2);
  expect(readAll(proposals).sort()).toEqual(ALL.map(nameOf).sort());
});

test("the first suite's transforms come first: its group is that of the KE payload", () => {
  const [first, ...others] = [...ALL].reverse();
  if (first === undefined) throw new Error("no suite");
  const [proposal] = ikeProposals([first, ...others]);
  for (const wanted of ikeTransforms(first)) {
    expect(proposal?.transforms.find(({ type }) => type === wanted.type)).toEqual(wanted);
  }
});
