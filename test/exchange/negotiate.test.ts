import { expect, test } from "vitest";
import { DH_GROUPS } from "../../src/crypto/dh.ts";
import { toHex } from "../../src/core/bytes.ts";
import { suiteName, type EspSuite } from "../../src/sa/suite.ts";
import { ikeSuiteName, type IkeSuite } from "../../src/ike/suite.ts";
import { connect, CLIENT, DVIPA, Lab } from "./lab.ts";

const HMACS = ["hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512"] as const;

const IKE_SUITES: IkeSuite[] = DH_GROUPS.flatMap(({ id: group }) =>
  ([128, 256] as const).flatMap((keyBits) =>
    HMACS.flatMap((prf): IkeSuite[] => [
      { cipher: { kind: "aes-gcm-16", keyBits }, prf, group },
      { cipher: { kind: "aes-cbc", keyBits, integrity: prf }, prf, group },
    ]),
  ),
);
const ESP_SUITES: EspSuite[] = ([128, 256] as const).flatMap((keyBits): EspSuite[] => [
  { kind: "aes-gcm-16", keyBits },
  ...HMACS.map((integrity): EspSuite => ({ kind: "aes-cbc", keyBits, integrity })),
]);

function expectAgreement(lab: Lab, child: ReturnType<typeof connect>["child"]): void {
  const [sa] = lab.installed;
  expect(sa).toBeDefined();
  if (sa === undefined) return;
  expect(suiteName(sa.suite)).toBe(suiteName(child.suite));
  expect([sa.inbound.spi, sa.outbound.spi]).toEqual([child.spiOut, child.spiIn]);
  const hex = (half: { encryptionKey: { expose(): Uint8Array }; integrityKey: { expose(): Uint8Array } | null }) =>
    [half.encryptionKey, half.integrityKey].map((key) => key && toHex(key.expose()));
  expect(hex(sa.inbound)).toEqual(hex(child.toResponder));
  expect(hex(sa.outbound)).toEqual(hex(child.toInitiator));
  expect(hex(sa.inbound)).not.toEqual(hex(sa.outbound));
}

for (const suite of IKE_SUITES) {
  const group = DH_GROUPS.find(({ id }) => id === suite.group)?.name ?? "";
  test(`IKE ${ikeSuiteName(suite)}/${group}`, () => {
    const lab = new Lab();
    const { child } = connect(lab, { suites: [suite] });
    expectAgreement(lab, child);
    expect(lab.responder.snapshot().ikeSas).toMatchObject([
      { state: "established", peerName: "client", suite: ikeSuiteName(suite), group, children: [{ state: "active" }] },
    ]);
  });
}

for (const suite of ESP_SUITES) {
  for (const mode of ["transport", "tunnel"] as const) {
    test(`ESP ${suiteName(suite)} in ${mode} mode`, () => {
      const lab = new Lab();
      const { child } = connect(lab, {}, { suites: [suite], transport: mode === "transport" });
      expectAgreement(lab, child);
      expect(child.transport).toBe(mode === "transport");
      expect(lab.installed).toMatchObject([
        { mode, suite, dvipa: DVIPA, peer: CLIENT, peerName: "client", esn: false, peerWindowPackets: 32, reqid: 1 },
      ]);
    });
  }
}
