import { describe, expect, it } from "vitest";
import { parseAhProposal, parseEspProposal, parseIkeProposal } from "../../../src/config/proposals.ts";
import { dhGroup } from "../../../src/crypto/dh.ts";
import { ikeSuiteName, type IkeSuite } from "../../../src/ike/suite.ts";
import { AH_SUITES, ESP_SUITES, suiteName } from "../../../src/sa/suite.ts";

const esp = (text: string): string[] | undefined => parseEspProposal(text)?.map(suiteName);
const ike = (text: string): string[] | undefined => {
  const suites: IkeSuite[] | null = parseIkeProposal(text);
  return suites?.map((suite) => `${ikeSuiteName(suite)}/${dhGroup(suite.group)?.name ?? "unknown group"}`);
};

describe("ESP", () => {
  const every: readonly (readonly [string, string])[] = [
    ["aes128gcm16", "AES_GCM_16_128"],
    ["aes256gcm128", "AES_GCM_16_256"],
    ["chacha20poly1305", "CHACHA20_POLY1305"],
    ["aes128ccm16", "AES_CCM_16_128"],
    ["aes256ccm", "AES_CCM_16_256"],
    ["aes-sha256", "AES_CBC_128/HMAC_SHA2_256_128"],
    ["aes128-sha384", "AES_CBC_128/HMAC_SHA2_384_192"],
    ["aes128-sha512", "AES_CBC_128/HMAC_SHA2_512_256"],
    ["aes256-sha2_256", "AES_CBC_256/HMAC_SHA2_256_128"],
    ["sha384-aes256", "AES_CBC_256/HMAC_SHA2_384_192"],
    ["aes256-sha512", "AES_CBC_256/HMAC_SHA2_512_256"],
    ["aes128ctr-sha256", "AES_CTR_128/HMAC_SHA2_256_128"],
    ["aes128ctr-sha384", "AES_CTR_128/HMAC_SHA2_384_192"],
    ["aes128ctr-sha512", "AES_CTR_128/HMAC_SHA2_512_256"],
    ["aes256ctr-sha256", "AES_CTR_256/HMAC_SHA2_256_128"],
    ["aes256ctr-sha384", "AES_CTR_256/HMAC_SHA2_384_192"],
    ["aes256ctr-sha512", "AES_CTR_256/HMAC_SHA2_512_256"],
    ["null-sha256", "NULL/HMAC_SHA2_256_128"],
    ["null-sha384", "NULL/HMAC_SHA2_384_192"],
    ["null-sha512", "NULL/HMAC_SHA2_512_256"],
  ];
  it.each(every)("%s is %s", (text, name) => expect(esp(text)).toEqual([name]));

  it("has a word for every suite", () => {
    expect(every.map(([, name]) => name).sort()).toEqual(ESP_SUITES.map(suiteName).sort());
  });

  it("several words of a kind are several suites, as at strongSwan", () => {
    expect(esp("aes256-aes128-sha512-sha256")).toEqual([
      "AES_CBC_256/HMAC_SHA2_512_256",
      "AES_CBC_256/HMAC_SHA2_256_128",
      "AES_CBC_128/HMAC_SHA2_512_256",
      "AES_CBC_128/HMAC_SHA2_256_128",
    ]);
    expect(esp("aes256gcm16-chacha20poly1305")).toEqual(["AES_GCM_16_256", "CHACHA20_POLY1305"]);
  });

  it.each([
    "",
    "-",
    "null",
    "aes128",
    "sha256",
    "aes128gcm16-sha256",
    "aes128gcm16-null-sha256",
    "aes192gcm16",
    "3des-sha256",
    "aes128-sha1",
    "aes128gcm8",
    "aes128gcm16-esn",
    "aes128gcm16-modp2048",
    "AES128GCM16",
    "aes128-sha256-",
    "__proto__",
  ])("%j is nothing that we know", (text) => {
    expect(parseEspProposal(text)).toBeNull();
  });
});

describe("IKE", () => {
  it.each([
    ["aes128gcm16-prfsha256-x25519", ["AES_GCM_16_128/PRF_HMAC_SHA2_256/CURVE_25519"]],
    ["chacha20poly1305-prfsha512-ecp521", ["CHACHA20_POLY1305/PRF_HMAC_SHA2_512/ECP_521"]],
    ["aes256-sha384-curve25519", ["AES_CBC_256/HMAC_SHA2_384_192/PRF_HMAC_SHA2_384/CURVE_25519"]],
    ["aes256-sha512-prfsha256-modp4096", ["AES_CBC_256/HMAC_SHA2_512_256/PRF_HMAC_SHA2_256/MODP_4096"]],
    [
      "aes128gcm16-prfsha384-ecp256-ecp384-modp2048-modp3072",
      ["ECP_256", "ECP_384", "MODP_2048", "MODP_3072"].map((group) => `AES_GCM_16_128/PRF_HMAC_SHA2_384/${group}`),
    ],
  ])("%s", (text, names) => expect(ike(text)).toEqual(names));

  it.each([
    "aes128gcm16-x25519",
    "aes128gcm16-prfsha256",
    "aes128-x25519",
    "aes128gcm16-sha256-x25519",
    "aes128ccm16-prfsha256-x25519",
    "aes128ctr-sha256-x25519",
    "null-sha256-x25519",
    "aes128-sha256-modp1024",
    "aes128-sha256-prfsha1-x25519",
    "",
  ])("%j is nothing that we know", (text) => {
    expect(parseIkeProposal(text)).toBeNull();
  });
});

describe("AH", () => {
  it("has a word for every suite, in the proposal's order", () => {
    expect(parseAhProposal("sha256-sha384-sha2_512")).toEqual(AH_SUITES);
    expect(parseAhProposal("sha512-sha256")?.map(suiteName)).toEqual(["AH/HMAC_SHA2_512_256", "AH/HMAC_SHA2_256_128"]);
  });

  it.each(["", "aes128-sha256", "null-sha256", "sha1", "sha256-x25519", "sha256-esn", "aes128gcm16"])(
    "refuses %j",
    (text) => {
      expect(parseAhProposal(text)).toBeNull();
    },
  );
});
