/**
 * Every suite that can be negotiated, with a stock strongSwan: ESP suites in both modes with traffic on every target, IKE
 * suites with every group. Topology: `netns/layout.ts`, two targets.
 */
import { describe, expect, it } from "vitest";
import type { Capture } from "../../netns/capture.ts";
import { readClientDrops, readCleartext } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { DVIPA } from "../../netns/layout.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download, onEveryTarget, ping, upload } from "../../netns/traffic.ts";
import { close, negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const DOWNLOAD_BYTES = 300_000;
const UPLOAD_BYTES = 100_000;
const TEST_LIMIT_MS = 240_000;

/** strongSwan's proposal, our name of the suite, and what every kernel must have. */
const ESP: readonly (readonly [string, string, readonly string[]])[] = [
  ["aes128gcm16", "AES_GCM_16_128", ["rfc4106(gcm(aes))"]],
  ["aes256gcm16", "AES_GCM_16_256", ["rfc4106(gcm(aes))"]],
  ["chacha20poly1305", "CHACHA20_POLY1305", ["rfc7539esp(chacha20,poly1305)"]],
  ["aes128-sha256", "AES_CBC_128/HMAC_SHA2_256_128", ["cbc(aes)", "hmac(sha256)"]],
  ["aes256-sha384", "AES_CBC_256/HMAC_SHA2_384_192", ["cbc(aes)", "hmac(sha384)"]],
  ["aes256-sha512", "AES_CBC_256/HMAC_SHA2_512_256", ["cbc(aes)", "hmac(sha512)"]],
  ["aes128ccm16", "AES_CCM_16_128", ["rfc4309(ccm(aes))"]],
  ["aes256ccm16", "AES_CCM_16_256", ["rfc4309(ccm(aes))"]],
  ["aes128ctr-sha256", "AES_CTR_128/HMAC_SHA2_256_128", ["rfc3686(ctr(aes))", "hmac(sha256)"]],
  ["aes256ctr-sha512", "AES_CTR_256/HMAC_SHA2_512_256", ["rfc3686(ctr(aes))", "hmac(sha512)"]],
  ["null-sha256", "NULL/HMAC_SHA2_256_128", ["ecb(cipher_null)", "hmac(sha256)"]],
  ["null-sha384", "NULL/HMAC_SHA2_384_192", ["ecb(cipher_null)", "hmac(sha384)"]],
  ["null-sha512", "NULL/HMAC_SHA2_512_256", ["ecb(cipher_null)", "hmac(sha512)"]],
];
const MODES = ["transport", "tunnel"] as const;
const ESP_CASES = ESP.flatMap(([proposal, suite, algorithms]) =>
  MODES.map((mode) => ({ proposal, suite, algorithms, mode })),
);

const CIPHERS = [
  "aes128gcm16-prfsha256",
  "aes256gcm16-prfsha384",
  "chacha20poly1305-prfsha512",
  "aes128-sha256",
  "aes256-sha384",
  "aes256-sha512",
];
const GROUPS = ["x25519", "ecp256", "ecp384", "ecp521", "modp2048", "modp3072", "modp4096"];
const IKE_CASES = CIPHERS.flatMap((cipher) => GROUPS.map((group) => `${cipher}-${group}`));

let client: StrongSwan;
let capture: Capture;
const lab = useLab({ targets: 2, cluster: { espProposals: ESP.map(([proposal]) => proposal) } }, async (up) => {
  await up.startCluster();
  client = await up.startClient();
});

describe("ESP", () => {
  it("begins with a capture of the client's link", async () => {
    capture = await lab().startCapture();
  });

  it.each(ESP_CASES)(
    "$proposal in $mode mode: negotiated, installed everywhere, and every target serves",
    { timeout: TEST_LIMIT_MS },
    async ({ proposal, suite, algorithms, mode }) => {
      await negotiate(lab(), client, mode, { espProposals: proposal });
      await statesOnEveryNode(lab(), 2);
      for (const daemon of [lab().distributor, ...lab().targets]) {
        expect((await daemon.status()).sas).toMatchObject([{ suite, mode }]);
        const states = await lab().network.run(daemon.node, ["ip", "xfrm", "state", "list", "nokeys"]);
        for (const algorithm of algorithms) expect(states.split(algorithm)).toHaveLength(3);
      }
      expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
      for (const transfer of [() => download(lab(), DOWNLOAD_BYTES), () => upload(lab(), UPLOAD_BYTES)]) {
        const served = await onEveryTarget(lab(), transfer);
        expect(served.map(({ ok, node }) => `${ok} ${node ?? ""}`).sort()).toEqual(["true t1", "true t2"]);
      }
      await close(lab(), client);
    },
  );

  it("left no number twice, no packet that the client dropped, and nothing in clear", async () => {
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    const wire = await examineCapture(capture.path, DVIPA);
    expect(wire).toMatchObject({ duplicates: [], cleartextPackets: 0 });
    // Each negotiation had an SA of its own, and both targets sent on it.
    expect(wire.espFromDvipaBySpi.size).toBe(ESP_CASES.length);
    expect(await readCleartext(lab().network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
  });
});

describe("IKE", () => {
  it.each(IKE_CASES)("%s", { timeout: TEST_LIMIT_MS }, async (proposals) => {
    const said = await negotiate(lab(), client, "transport", { proposals, espProposals: "aes128gcm16" });
    expect(said).not.toContain("INVAL_KE");
    expect(await ping(lab(), 1)).toEqual({ sent: 1, received: 1 });
    await close(lab(), client);
  });
});
