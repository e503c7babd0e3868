import { expect, test } from "vitest";
import { DH_GROUPS } from "../../src/crypto/dh.ts";
import { toHex } from "../../src/core/bytes.ts";
import { suiteName, type EspSuite } from "../../src/sa/suite.ts";
import { ikeSuiteName, type IkeSuite } from "../../src/ike/suite.ts";
import type { EsnPolicy } from "../../src/ike/environment.ts";
import { ESN, EXCHANGE, NOTIFY } from "../../src/ike/wire/constants.ts";
import { childWish, deleteChild } from "./initiator.ts";
import { connect, CLIENT, DVIPA, Lab, PATH_4500, peerConfig } from "./lab.ts";

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

// [policy, the peer's list in IKE_AUTH, the peer's list in its rekey (without, then with PFS), extended numbers in each]
const NUMBER_LENGTHS: readonly [EsnPolicy, readonly number[], readonly number[], readonly boolean[]][] = [
  ["allow", [ESN.YES, ESN.NO], [ESN.YES, ESN.NO], [true, true, true]],
  ["allow", [ESN.NO, ESN.YES], [ESN.NO, ESN.YES], [false, false, false]],
  ["allow", [ESN.YES], [ESN.NO], [true, false, false]],
  ["prefer", [ESN.NO, ESN.YES], [ESN.NO, ESN.YES], [true, true, true]],
  ["prefer", [ESN.NO], [ESN.YES], [false, true, true]],
  ["never", [ESN.YES, ESN.NO], [ESN.YES, ESN.NO], [false, false, false]],
];
for (const [esn, first, later, agreed] of NUMBER_LENGTHS) {
  test(`\`esn: ${esn}\`, offered ${first.join("+")}, rekeyed with ${later.join("+")}`, () => {
    const lab = new Lab({ peers: [peerConfig({ esn, inboundWindowPackets: 4096 })] });
    const connected = connect(lab, {}, { numbers: first });
    const { client } = connected;
    const children = [connected.child];
    for (const group of [null, 31]) {
      const request = client.createChildRequest(
        childWish(CLIENT, DVIPA, { numbers: later, group }),
        children.at(-1) ?? null,
      );
      children.push(client.readCreateChild(lab.answer(request.bytes, PATH_4500), request));
      client.open(
        lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(children.at(-2)?.spiIn ?? 0)]), PATH_4500),
      );
    }
    expect(children.map((child) => child.esn)).toEqual(agreed);
    expect(lab.installed.map((sa) => sa.esn)).toEqual(agreed);
    expect(lab.installed.map((sa) => sa.inboundWindowPackets)).toEqual([4096, 4096, 4096]);
  });
}

test("`esn: never`: a peer that takes extended numbers only gets N(NO_PROPOSAL_CHOSEN), its IKE SA lives", () => {
  const lab = new Lab({ peers: [peerConfig({ esn: "never" })] });
  const { client, child } = connect(lab);
  const request = client.createChildRequest(childWish(CLIENT, DVIPA, { numbers: [ESN.YES] }), child);
  const answer = client.open(lab.answer(request.bytes, PATH_4500));
  expect(answer).toMatchObject([{ kind: "notify", type: NOTIFY.NO_PROPOSAL_CHOSEN }]);
  expect(lab.states).toEqual(["established"]);
});

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
