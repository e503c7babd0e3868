import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EsplexError } from "../../../src/core/errors.ts";
import { AH_SUITES, DEFAULT_ESP_SUITES, ESP_SUITES, suiteName, type EspSuite } from "../../../src/sa/suite.ts";
import type { EsnPolicy } from "../../../src/ike/environment.ts";
import {
  chooseEsp,
  chooseIke,
  espTransforms,
  ikeTransforms,
  type ChosenEsp,
  type EspPolicy,
} from "../../../src/ike/proposal.ts";
import { ikeSuiteName, type IkeSuite } from "../../../src/ike/suite.ts";
import { DH_NONE, ENCRYPTION, ESN, INTEGRITY, PROTOCOL, TRANSFORM } from "../../../src/ike/wire/constants.ts";
import { transform, type SaPayload, type Transform } from "../../../src/ike/wire/security-association.ts";

const GCM: EspSuite = { kind: "aes-gcm-16", keyBits: 256 };
const CBC: EspSuite = { kind: "aes-cbc", keyBits: 128, integrity: "hmac-sha2-512" };
const IKE: IkeSuite = { cipher: { kind: "aes-gcm-16", keyBits: 128 }, prf: "hmac-sha2-256", group: 31 };
const ANY: EspPolicy = { espSuites: null, esn: "allow" };
const SPI = Uint8Array.of(0xc0, 0, 0, 1);

function espOffer(...lists: readonly (readonly Transform[])[]): SaPayload {
  const proposals = lists.map((transforms, i) => ({ number: i + 1, protocol: PROTOCOL.ESP, spi: SPI, transforms }));
  return { kind: "sa", proposals };
}

function ikeOffer(...lists: readonly (readonly Transform[])[]): SaPayload {
  const spi = new Uint8Array(0);
  return {
    kind: "sa",
    proposals: lists.map((transforms, i) => ({ number: i + 1, protocol: PROTOCOL.IKE, spi, transforms })),
  };
}

function failure(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return error instanceof EsplexError ? error.code : error;
  }
}

const dh = (group: number): Transform => transform(TRANSFORM.DH, group);
const aes = (keyBits: number | null): Transform => transform(TRANSFORM.ENCRYPTION, ENCRYPTION.AES_GCM_16, keyBits);
const noEsn = transform(TRANSFORM.ESN, ESN.NO);
const esn = transform(TRANSFORM.ESN, ESN.YES);

describe("ESP", () => {
  test("the peer's first acceptable proposal wins, and the answer repeats its number and one transform of each type", () => {
    const offer = espOffer(
      [transform(TRANSFORM.ENCRYPTION, 3), noEsn],
      espTransforms(CBC, null),
      espTransforms(GCM, null),
    );
    const chosen = chooseEsp(offer, null, true, ANY);
    expect(suiteName(chosen.suite)).toBe(suiteName(CBC));
    expect(chosen.spi).toBe(0xc0000001);
    expect(chosen.answer).toEqual({ number: 2, protocol: PROTOCOL.ESP, transforms: espTransforms(CBC, null) });
  });

  const NUMBERS = {
    no: noEsn,
    yes: esn,
    other: transform(TRANSFORM.ESN, 2),
    odd: transform(TRANSFORM.ESN, ESN.YES, 1),
  };
  type Offered = readonly (keyof typeof NUMBERS)[];
  type Chosen = "no" | "yes" | null;
  const lists: readonly [Offered, Record<EsnPolicy, Chosen>][] = [
    [["no"], { allow: "no", prefer: "no", never: "no" }],
    [["yes"], { allow: "yes", prefer: "yes", never: null }],
    [["no", "yes"], { allow: "no", prefer: "yes", never: "no" }],
    [["yes", "no"], { allow: "yes", prefer: "yes", never: "no" }],
    // RFC 7296 §3.3.3: an ESP proposal without this type offers neither.
    [[], { allow: null, prefer: null, never: null }],
    [["other"], { allow: null, prefer: null, never: null }],
    [["other", "odd", "no"], { allow: "no", prefer: "no", never: "no" }],
  ];
  const cases = lists.flatMap(([offered, by]) =>
    (["allow", "prefer", "never"] as const).map((policy) => [offered.join("+"), policy, by[policy], offered] as const),
  );
  test.each(cases)("numbers %j and `esn: %s`: %s", (_name, policy, chosen, offered) => {
    // Wherever type 5 stands among the others.
    const numbers = offered.map((name) => NUMBERS[name]);
    for (const list of [
      [aes(128), ...numbers],
      [...numbers, aes(128)],
    ]) {
      const choose = (): ChosenEsp => chooseEsp(espOffer(list), null, true, { espSuites: null, esn: policy });
      if (chosen === null) {
        expect(failure(choose)).toBe("peer.noProposalChosen");
      } else {
        expect(choose().esn).toBe(chosen === "yes");
        expect(choose().answer.transforms).toEqual([aes(128), NUMBERS[chosen]]);
      }
    }
  });

  test("the order of proposals comes before `prefer`; `never` goes on to the next", () => {
    const offer = espOffer(espTransforms(GCM, null, [ESN.YES]), espTransforms(CBC, null, [ESN.NO]));
    const turned = espOffer(espTransforms(CBC, null, [ESN.NO]), espTransforms(GCM, null, [ESN.YES]));
    const chosen = (payload: SaPayload, policy: EsnPolicy): unknown[] => {
      const { answer, esn: extended } = chooseEsp(payload, null, true, { espSuites: null, esn: policy });
      return [answer.number, extended];
    };
    expect(chosen(offer, "never")).toEqual([2, false]);
    expect(chosen(offer, "allow")).toEqual([1, true]);
    expect(chosen(turned, "prefer")).toEqual([1, false]);
  });

  test("ciphers with an implicit IV (RFC 8750) are neither accepted nor offered: their IV is the bare number", () => {
    const implicit = [29, 30, 31].flatMap((id) =>
      [null, 128, 256].map((bits) => transform(TRANSFORM.ENCRYPTION, id, bits)),
    );
    for (const cipher of implicit) {
      expect(failure(() => chooseEsp(espOffer([cipher, noEsn]), null, true, ANY))).toBe("peer.noProposalChosen");
    }
    const chosen = chooseEsp(espOffer([...implicit, aes(256), noEsn]), null, true, ANY);
    expect(suiteName(chosen.suite)).toBe("AES_GCM_16_256");
    for (const suite of [GCM, CBC]) {
      expect(espTransforms(suite, null).filter(({ type, id }) => type === TRANSFORM.ENCRYPTION && id >= 29)).toEqual(
        [],
      );
    }
  });

  test.each(ESP_SUITES.map((suite) => [suiteName(suite), suite] as const))(
    "%s is offered and chosen as it is",
    (_, suite) => {
      const transforms = espTransforms(suite, 19, [ESN.YES, ESN.NO]);
      const chosen = chooseEsp(espOffer(transforms), 19, true, { ...ANY, espSuites: [suite] });
      expect(chosen.suite).toEqual(suite);
      expect(chosen.answer.transforms).toEqual(
        transforms.filter(({ type, id }) => type !== TRANSFORM.ESN || id === ESN.YES),
      );
      for (const other of ESP_SUITES.filter((each) => each !== suite)) {
        const choose = (): unknown => chooseEsp(espOffer(transforms), 19, true, { ...ANY, espSuites: [other] });
        expect(failure(choose)).toBe("peer.noProposalChosen");
      }
    },
  );

  test("IANA's numbers, and the key length where a cipher has several", () => {
    const shown = (suite: EspSuite): unknown[] =>
      espTransforms(suite, null)
        .filter(({ type }) => type !== TRANSFORM.ESN)
        .map(({ type, id, attributes }) => [type, id, ...attributes.map(({ value }) => value)]);
    expect(shown({ kind: "chacha20-poly1305" })).toEqual([[1, 28]]);
    expect(shown({ kind: "aes-ccm-16", keyBits: 256 })).toEqual([[1, 16, 256]]);
    expect(shown({ kind: "aes-ctr", keyBits: 128, integrity: "hmac-sha2-384" })).toEqual([
      [1, 13, 128],
      [3, 13],
    ]);
    expect(shown({ kind: "null", integrity: "hmac-sha2-256" })).toEqual([
      [1, 11],
      [3, 12],
    ]);
  });

  test("a peer whose configuration lists nothing gets no null encryption, whatever it offers and in whatever order", () => {
    const offers = fc.shuffledSubarray([...ESP_SUITES], { minLength: 1 });
    fc.assert(
      fc.property(offers, fc.boolean(), (suites, inOneProposal) => {
        const lists = suites.map((suite) => espTransforms(suite, null));
        const choose = (): ChosenEsp =>
          chooseEsp(espOffer(...(inOneProposal ? [lists.flat()] : lists)), null, true, ANY);
        const chosen = failure(choose);
        if (chosen === "peer.noProposalChosen") {
          // In one proposal an AEAD beside an integrity algorithm other than NONE is no offer of it (RFC 7296 §3.3).
          if (!inOneProposal) expect(suites.filter((suite) => DEFAULT_ESP_SUITES.includes(suite))).toEqual([]);
        } else {
          const { suite } = chosen as ChosenEsp;
          expect(DEFAULT_ESP_SUITES.map(suiteName)).toContain(suiteName(suite));
          const first = suites.find((each) => DEFAULT_ESP_SUITES.includes(each));
          if (!inOneProposal) expect(suiteName(suite)).toBe(first === undefined ? null : suiteName(first));
        }
      }),
    );
    expect(DEFAULT_ESP_SUITES.map(({ kind }) => kind)).not.toContain("null");
  });

  test("null encryption for a peer whose configuration lists it: never without integrity", () => {
    const policy: EspPolicy = { ...ANY, espSuites: [{ kind: "null", integrity: "hmac-sha2-256" }] };
    const nothing = transform(TRANSFORM.ENCRYPTION, ENCRYPTION.NULL);
    const sha = transform(TRANSFORM.INTEGRITY, INTEGRITY.HMAC_SHA2_256_128);
    const none = transform(TRANSFORM.INTEGRITY, INTEGRITY.NONE);
    expect(chooseEsp(espOffer([nothing, sha, noEsn]), null, true, policy).answer.transforms).toEqual([
      nothing,
      sha,
      noEsn,
    ]);
    for (const list of [
      [nothing, noEsn],
      [nothing, none, noEsn],
      [transform(TRANSFORM.ENCRYPTION, ENCRYPTION.NULL, 128), sha, noEsn],
    ]) {
      expect(failure(() => chooseEsp(espOffer(list), null, true, policy))).toBe("peer.noProposalChosen");
    }
  });

  test("a key length on ChaCha20-Poly1305 is refused (RFC 7634 §4), an integrity algorithm beside it too", () => {
    const chacha = (keyBits: number | null): Transform =>
      transform(TRANSFORM.ENCRYPTION, ENCRYPTION.CHACHA20_POLY1305, keyBits);
    const sha = transform(TRANSFORM.INTEGRITY, INTEGRITY.HMAC_SHA2_256_128);
    expect(chooseEsp(espOffer([chacha(null), noEsn]), null, true, ANY).suite).toEqual({ kind: "chacha20-poly1305" });
    for (const list of [
      [chacha(256), noEsn],
      [chacha(null), sha, noEsn],
    ]) {
      expect(failure(() => chooseEsp(espOffer(list), null, true, ANY))).toBe("peer.noProposalChosen");
    }
  });

  test("192-bit keys, a missing key length and a key length twice are passed over", () => {
    const twice: Transform = { ...aes(128), attributes: [...aes(128).attributes, ...aes(128).attributes] };
    const odd: Transform = { ...aes(128), attributes: [{ type: 99, value: 1 }] };
    const chosen = chooseEsp(espOffer([aes(192), aes(null), twice, odd, aes(256), noEsn]), null, true, ANY);
    expect(suiteName(chosen.suite)).toBe("AES_GCM_16_256");
  });

  test("CBC without integrity, GCM with one, an unknown transform type, AH and a reserved SPI are refused", () => {
    const cbc = transform(TRANSFORM.ENCRYPTION, ENCRYPTION.AES_CBC, 128);
    const sha = transform(TRANSFORM.INTEGRITY, INTEGRITY.HMAC_SHA2_256_128);
    const none = transform(TRANSFORM.INTEGRITY, INTEGRITY.NONE);
    for (const list of [
      [cbc, noEsn],
      [cbc, none, noEsn],
      [aes(128), sha, noEsn],
      [aes(128), noEsn, transform(99, 1)],
    ]) {
      expect(failure(() => chooseEsp(espOffer(list), null, true, ANY))).toBe("peer.noProposalChosen");
    }
    expect(chooseEsp(espOffer([aes(128), none, noEsn]), null, true, ANY).answer.transforms).toContain(none);
    const [good] = espOffer([aes(128), noEsn]).proposals;
    if (good === undefined) throw new Error("no proposal");
    for (const bad of [
      { ...good, protocol: PROTOCOL.AH },
      { ...good, spi: Uint8Array.of(0, 0, 0, 255) },
      { ...good, spi: new Uint8Array(8) },
    ]) {
      expect(failure(() => chooseEsp({ kind: "sa", proposals: [bad] }, null, true, ANY))).toBe("peer.noProposalChosen");
    }
  });

  test("PFS: the KE payload's group wins; another one is asked for; NONE saves an offer without KE payload", () => {
    const offer = espOffer([aes(128), dh(14), dh(19), noEsn]);
    expect(chooseEsp(offer, 19, true, ANY).group).toBe(19);
    expect(failure(() => chooseEsp(offer, 31, true, ANY))).toBe("peer.invalidKePayload");
    expect(failure(() => chooseEsp(offer, null, true, ANY))).toBe("peer.invalidKePayload");
    expect(failure(() => chooseEsp(espOffer([aes(128), dh(2), noEsn]), 2, true, ANY))).toBe("peer.noProposalChosen");
    const optional = espOffer([aes(128), dh(14), dh(DH_NONE), noEsn]);
    expect(chooseEsp(optional, null, true, ANY).group).toBeNull();
    expect(chooseEsp(optional, 14, true, ANY).group).toBe(14);
    expect(chooseEsp(optional, 14, false, ANY).answer.transforms).toContainEqual(dh(DH_NONE));
    expect(failure(() => chooseEsp(offer, null, false, ANY))).toBe("peer.noProposalChosen");
  });

  test("the peer's configuration restricts", () => {
    const offer = espOffer(espTransforms(CBC, null), espTransforms(GCM, null));
    expect(chooseEsp(offer, null, true, { ...ANY, espSuites: [GCM] }).suite).toEqual(GCM);
    expect(failure(() => chooseEsp(offer, null, true, { ...ANY, espSuites: [] }))).toBe("peer.noProposalChosen");
  });
});

describe("IKE", () => {
  test("the KE payload's group wins within a proposal; an unknown one leads to the first that we know", () => {
    const list = [...ikeTransforms({ ...IKE, group: 14 }), dh(19), dh(18)];
    expect(chooseIke(ikeOffer(list), 19, 0, null).suite.group).toBe(19);
    expect(chooseIke(ikeOffer(list), 18, 0, null).suite.group).toBe(14);
  });

  test("a missing PRF or group, an unknown type, and an SPI of the wrong length are refused", () => {
    const [cipher, prf, group] = ikeTransforms(IKE);
    if (!cipher || !prf || !group) throw new Error("no transforms");
    for (const list of [
      [cipher, prf],
      [cipher, group],
      [prf, group],
      [cipher, prf, group, noEsn],
    ]) {
      expect(failure(() => chooseIke(ikeOffer(list), 31, 0, null))).toBe("peer.noProposalChosen");
    }
    expect(failure(() => chooseIke(ikeOffer([cipher, prf, group]), 31, 8, null))).toBe("peer.noProposalChosen");
  });

  test("ChaCha20-Poly1305, every PRF and every group", () => {
    for (const group of [14, 15, 16, 19, 20, 21, 31]) {
      for (const prf of ["hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512"] as const) {
        const suite: IkeSuite = { cipher: { kind: "chacha20-poly1305" }, prf, group };
        expect(chooseIke(ikeOffer(ikeTransforms(suite)), group, 0, null).suite).toEqual(suite);
      }
    }
    expect(ikeSuiteName({ ...IKE, cipher: { kind: "chacha20-poly1305" } })).toBe("CHACHA20_POLY1305/PRF_HMAC_SHA2_256");
  });

  test("ciphers of ESP alone are passed over: CCM, CTR and null", () => {
    const rest = ikeTransforms(IKE).slice(1);
    const others = ESP_SUITES.filter(({ kind }) => kind === "aes-ccm-16" || kind === "aes-ctr" || kind === "null");
    expect(others).toHaveLength(11);
    for (const suite of others) {
      const list = [...espTransforms(suite, null, []), ...rest];
      expect(failure(() => chooseIke(ikeOffer(list), 31, 0, null))).toBe("peer.noProposalChosen");
      expect(chooseIke(ikeOffer(list, ikeTransforms(IKE)), 31, 0, null).answer.number).toBe(2);
    }
  });

  test("the peer's order of proposals and of ciphers within one decides, not ours", () => {
    const suites: IkeSuite[] = [
      { ...IKE, cipher: { kind: "aes-cbc", keyBits: 128, integrity: "hmac-sha2-256" } },
      { ...IKE, cipher: { kind: "chacha20-poly1305" } },
      IKE,
    ];
    for (const order of [suites, suites.toReversed()]) {
      expect(chooseIke(ikeOffer(...order.map(ikeTransforms)), 31, 0, null).suite).toEqual(order[0]);
    }
    const [chacha] = ikeTransforms({ ...IKE, cipher: { kind: "chacha20-poly1305" } });
    const [gcm, prf, group] = ikeTransforms(IKE);
    if (!chacha || !gcm || !prf || !group) throw new Error("no transforms");
    for (const order of [
      [gcm, chacha],
      [chacha, gcm],
    ]) {
      expect(chooseIke(ikeOffer([...order, prf, group]), 31, 0, null).answer.transforms[0]).toEqual(order[0]);
    }
  });

  test("the configuration restricts whole suites", () => {
    const other: IkeSuite = { ...IKE, prf: "hmac-sha2-512" };
    const offer = ikeOffer([...ikeTransforms(IKE), ...ikeTransforms(other)]);
    expect(ikeSuiteName(chooseIke(offer, 31, 0, [other]).suite)).toBe("AES_GCM_16_128/PRF_HMAC_SHA2_512");
    expect(failure(() => chooseIke(offer, 31, 0, [{ ...IKE, group: 19 }]))).toBe("peer.noProposalChosen");
  });
});

describe("AH", () => {
  const LISTED: EspPolicy = { espSuites: [...DEFAULT_ESP_SUITES, ...AH_SUITES], esn: "allow" };
  const sha256 = transform(TRANSFORM.INTEGRITY, INTEGRITY.HMAC_SHA2_256_128);
  const sha512 = transform(TRANSFORM.INTEGRITY, INTEGRITY.HMAC_SHA2_512_256);
  const ahOffer = (...lists: readonly (readonly Transform[])[]): SaPayload => {
    const { proposals } = espOffer(...lists);
    return { kind: "sa", proposals: proposals.map((proposal) => ({ ...proposal, protocol: PROTOCOL.AH })) };
  };

  test.each(AH_SUITES.map((suite) => [suiteName(suite), suite] as const))("%s is INTEG and ESN", (_, suite) => {
    const chosen = chooseEsp(ahOffer(espTransforms(suite, null)), null, true, LISTED);
    expect(chosen).toMatchObject({ suite, group: null, esn: false, spi: 0xc0000001 });
    expect(chosen.answer).toEqual({ number: 1, protocol: PROTOCOL.AH, transforms: espTransforms(suite, null) });
    expect(chosen.answer.transforms.map(({ type }) => type)).toEqual([TRANSFORM.INTEGRITY, TRANSFORM.ESN]);
  });

  test("the peer's order decides, within a proposal and between protocols; with PFS and extended numbers", () => {
    const two = [sha512, sha256, dh(31), esn];
    expect(chooseEsp(ahOffer(two), 31, true, LISTED)).toMatchObject({ suite: AH_SUITES[2], group: 31, esn: true });
    const mixed = (first: SaPayload, second: SaPayload): SaPayload => ({
      kind: "sa",
      proposals: [...first.proposals, ...second.proposals],
    });
    const esp = espOffer(espTransforms(GCM, null));
    expect(chooseEsp(mixed(esp, ahOffer(two)), 31, true, LISTED).suite).toEqual(GCM);
    expect(chooseEsp(mixed(ahOffer(two), esp), 31, true, LISTED).suite).toEqual(AH_SUITES[2]);
    expect(chooseEsp(mixed(ahOffer(two), esp), 31, true, ANY).suite).toEqual(GCM);
  });

  test.each<[string, readonly Transform[]]>([
    ["no integrity", [noEsn]],
    ["integrity NONE", [transform(TRANSFORM.INTEGRITY, INTEGRITY.NONE), noEsn]],
    ["integrity with a key length", [transform(TRANSFORM.INTEGRITY, INTEGRITY.HMAC_SHA2_256_128, 256), noEsn]],
    ["an unknown integrity algorithm", [transform(TRANSFORM.INTEGRITY, 2), noEsn]],
    ["encryption", [transform(TRANSFORM.ENCRYPTION, ENCRYPTION.NULL), sha256, noEsn]],
    ["a PRF", [transform(TRANSFORM.PRF, 5), sha256, noEsn]],
    ["nothing said of the numbers", [sha256]],
  ])("with %s is no proposal of AH (RFC 7296 §3.3.3)", (_, transforms) => {
    expect(failure(() => chooseEsp(ahOffer(transforms), null, true, LISTED))).toBe("peer.noProposalChosen");
  });

  test("has an SPI of 4 bytes that is not reserved", () => {
    for (const spi of [new Uint8Array(8).fill(9), Uint8Array.of(0, 0, 0, 255), new Uint8Array(0)]) {
      const offer = ahOffer(espTransforms(GCM, null), [sha256, noEsn]);
      const changed: SaPayload = { kind: "sa", proposals: offer.proposals.map((one) => ({ ...one, spi })) };
      expect(failure(() => chooseEsp(changed, null, true, LISTED))).toBe("peer.noProposalChosen");
    }
  });

  test("transforms of ESP under AH, and of AH under ESP, are nothing", () => {
    expect(failure(() => chooseEsp(ahOffer(espTransforms(GCM, null)), null, true, LISTED))).toBe(
      "peer.noProposalChosen",
    );
    expect(failure(() => chooseEsp(espOffer([sha256, noEsn]), null, true, LISTED))).toBe("peer.noProposalChosen");
  });
});
