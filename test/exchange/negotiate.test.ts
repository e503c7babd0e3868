import { expect, test } from "vitest";
import { DH_GROUPS } from "../../src/crypto/dh.ts";
import { toHex } from "../../src/core/bytes.ts";
import { ESP_SUITES, suiteName, type EspSuite } from "../../src/sa/suite.ts";
import { ikeSuiteName, type IkeSuite } from "../../src/ike/suite.ts";
import type { EsnPolicy } from "../../src/ike/environment.ts";
import { ESN, EXCHANGE, NOTIFY } from "../../src/ike/wire/constants.ts";
import { decodeMessage, encodeMessage } from "../../src/ike/wire/message.ts";
import { childWish, deleteChild } from "./initiator.ts";
import { connect, CLIENT, DVIPA, initiator, Lab, PATH_4500, peerConfig } from "./lab.ts";

const HMACS = ["hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512"] as const;

const CIPHERS: IkeSuite[] = HMACS.flatMap((prf) => [
  { cipher: { kind: "chacha20-poly1305" }, prf, group: 31 },
  ...([128, 256] as const).flatMap((keyBits): IkeSuite[] => [
    { cipher: { kind: "aes-gcm-16", keyBits }, prf, group: 31 },
    { cipher: { kind: "aes-cbc", keyBits, integrity: prf }, prf, group: 31 },
  ]),
]);
const [firstCipher] = CIPHERS;
const IKE_SUITES: IkeSuite[] = [
  ...CIPHERS,
  // A group's secret goes through every PRF: ECP-521 and MODP-4096 are longer than the block of SHA-2.
  ...DH_GROUPS.filter(({ id }) => id !== 31).flatMap(({ id: group }) =>
    HMACS.flatMap((prf) => (firstCipher === undefined ? [] : [{ ...firstCipher, prf, group }])),
  ),
];
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
      const lab = new Lab({ peers: [peerConfig({ espSuites: [suite] })] });
      const { child } = connect(lab, {}, { suites: [suite], transport: mode === "transport" });
      expectAgreement(lab, child);
      expect(child.transport).toBe(mode === "transport");
      expect(lab.installed).toMatchObject([
        { mode, suite, dvipa: DVIPA, peer: CLIENT, peerName: "client", esn: false, peerWindowPackets: 32, reqid: 1 },
      ]);
    });
  }
}

test("null encryption that nobody allowed gets N(NO_PROPOSAL_CHOSEN), and a better proposal behind it is taken", () => {
  const suites: readonly EspSuite[] = [{ kind: "null", integrity: "hmac-sha2-256" }, { kind: "chacha20-poly1305" }];
  const lab = new Lab();
  const { client, child } = connect(lab, {}, { suites });
  expect(lab.installed.map((sa) => suiteName(sa.suite))).toEqual(["CHACHA20_POLY1305"]);
  const request = client.createChildRequest(childWish(CLIENT, DVIPA, { suites: suites.slice(0, 1) }), child);
  const answer = client.open(lab.answer(request.bytes, PATH_4500));
  expect(answer).toMatchObject([{ kind: "notify", type: NOTIFY.NO_PROPOSAL_CHOSEN }]);
  expect(lab.installed).toHaveLength(1);
});

test("downgrade: who takes the better proposal out of IKE_SA_INIT gets no IKE SA (RFC 7296 §2.15)", () => {
  const lab = new Lab();
  const [strong, weak]: IkeSuite[] = [
    { cipher: { kind: "chacha20-poly1305" }, prf: "hmac-sha2-512", group: 31 },
    { cipher: { kind: "aes-cbc", keyBits: 128, integrity: "hmac-sha2-256" }, prf: "hmac-sha2-256", group: 31 },
  ];
  if (strong === undefined || weak === undefined) throw new Error("no suites");
  const client = initiator({ suites: [strong, weak] });
  const { header, payloads } = decodeMessage(client.initRequest());
  const changed = payloads.map((payload) =>
    payload.kind === "sa" ? { ...payload, proposals: payload.proposals.slice(1) } : payload,
  );
  client.readInit(lab.answer(encodeMessage(header, changed)));
  expect(client.suite).toEqual(weak);
  const answer = client.open(lab.answer(client.authRequest(childWish(CLIENT, DVIPA)).bytes, PATH_4500));
  expect(answer).toMatchObject([{ kind: "notify", type: NOTIFY.AUTHENTICATION_FAILED }]);
  expect(lab.installed).toEqual([]);
});

// RFC 5282 §3, RFC 7634 §3: a nonce that comes twice under one key gives the key stream away. A counter cannot repeat.
test.each([{ kind: "aes-gcm-16", keyBits: 128 }, { kind: "chacha20-poly1305" }] as const)(
  "the IVs that we send under $kind count",
  (cipher) => {
    const lab = new Lab();
    const { client } = connect(lab, { suites: [{ cipher, prf: "hmac-sha2-256", group: 31 }] });
    for (let i = 0; i < 3; i++) lab.answer(client.request(EXCHANGE.INFORMATIONAL, []), PATH_4500);
    const sealed = lab.effects.flatMap((effect) => (effect.kind === "send" ? [decodeMessage(effect.bytes)] : []));
    const ivs = sealed.flatMap(({ payloads }) =>
      payloads.flatMap((payload) => (payload.kind === "encrypted" ? [toHex(payload.body.subarray(0, 8))] : [])),
    );
    expect(ivs).toEqual([1, 2, 3, 4].map((n) => n.toString(16).padStart(16, "0")));
  },
);
