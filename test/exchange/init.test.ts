import { describe, expect, test } from "vitest";
import { toHex } from "../../src/core/bytes.ts";
import { NOTIFY } from "../../src/ike/wire/constants.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { findNotify, type Payload } from "../../src/ike/wire/payload.ts";
import { CBC_SUITE, CLIENT, connect, DVIPA, GCM_SUITE, initiator, Lab, MODP_SUITE, PATH, peerConfig } from "./lab.ts";

const notifyTypes = (bytes: Uint8Array): number[] =>
  decodeMessage(bytes).payloads.flatMap((payload) => (payload.kind === "notify" ? [payload.type] : []));
const from = (address: string, port = 500) => ({ ...PATH, remote: { address, port } });

describe("IKE_SA_INIT", () => {
  test("the answer: SA KE Nr N(NATD_S) N(NATD_D), never MOBIKE, fragmentation or signature hashes", () => {
    const lab = new Lab();
    // I → R  HDR(SPIi, 0) SA KE Ni N(NATD_S) N(NATD_D)
    const answer = lab.answer(initiator().initRequest());
    // R → I  HDR(SPIi, SPIr) SA KE Nr N(NATD_S) N(NATD_D)
    const { header, payloads } = decodeMessage(answer);
    expect(payloads.map(({ kind }) => kind)).toEqual(["sa", "ke", "nonce", "notify", "notify"]);
    expect(notifyTypes(answer)).toEqual([NOTIFY.NAT_DETECTION_SOURCE_IP, NOTIFY.NAT_DETECTION_DESTINATION_IP]);
    expect(header).toMatchObject({ isResponse: true, fromInitiator: false, messageId: 0 });
    expect(lab.states).toEqual(["halfOpen"]);
  });

  test("a retransmission gets the same bytes and makes no second session", () => {
    const lab = new Lab();
    const request = initiator().initRequest();
    expect(toHex(lab.answer(request))).toBe(toHex(lab.answer(request)));
    expect(lab.states).toHaveLength(1);
    expect(lab.count("initRepeated")).toBe(1);
  });

  test("a wrong guess gets INVALID_KE_PAYLOAD with the wanted group; the second try passes", () => {
    const lab = new Lab({ peers: [peerConfig({ ikeSuites: [GCM_SUITE] })] });
    const wrong = initiator({ suites: [CBC_SUITE, GCM_SUITE], group: 31 });
    // I → R  HDR SA KE(31) Ni …
    const refusal = lab.answer(wrong.initRequest());
    // R → I  HDR(SPIi, 0) N(INVALID_KE_PAYLOAD, 19)
    expect(
      toHex(findNotify(decodeMessage(refusal).payloads, NOTIFY.INVALID_KE_PAYLOAD)?.data ?? new Uint8Array(0)),
    ).toBe("0013");
    expect(toHex(decodeMessage(refusal).header.spiR)).toBe("0000000000000000");
    expect(lab.states).toEqual([]);
    // I → R  HDR SA KE(19) Ni …, and so on
    connect(lab, { suites: [CBC_SUITE, GCM_SUITE], group: 19 });
    expect(lab.states).toEqual(["established"]);
  });

  test("no acceptable proposal: NO_PROPOSAL_CHOSEN, nothing kept", () => {
    const lab = new Lab({ peers: [peerConfig({ ikeSuites: [MODP_SUITE] })] });
    expect(notifyTypes(lab.answer(initiator().initRequest()))).toEqual([NOTIFY.NO_PROPOSAL_CHOSEN]);
    expect(lab.states).toEqual([]);
    expect(lab.count("noProposalChosen")).toBe(1);
  });

  test("an unknown critical payload: UNSUPPORTED_CRITICAL_PAYLOAD with its type", () => {
    const lab = new Lab();
    const strange: Payload = { kind: "unknown", type: 200, critical: true, body: new Uint8Array(3) };
    const answer = lab.answer(initiator().initRequest({ before: [strange] }));
    expect(findNotify(decodeMessage(answer).payloads, NOTIFY.UNSUPPORTED_CRITICAL_PAYLOAD)?.data).toEqual(
      Uint8Array.of(200),
    );
    const tolerated: Payload = { ...strange, critical: false };
    expect(notifyTypes(lab.answer(initiator().initRequest({ before: [tolerated] })))).toContain(
      NOTIFY.NAT_DETECTION_SOURCE_IP,
    );
  });

  test("error answers outside of an IKE SA are limited", () => {
    const lab = new Lab({ peers: [peerConfig({ ikeSuites: [] })], limits: { errorRepliesPerSecond: 3 } });
    const answers = Array.from({ length: 10 }, () => lab.deliver(initiator().initRequest()).length);
    expect(answers.reduce((sum, n) => sum + n)).toBe(3);
    expect(lab.count("errorReplyLimit")).toBe(7);
    lab.pass(1000);
    expect(lab.deliver(initiator().initRequest())).toHaveLength(1);
  });

  test("an unknown address gets the same answers as a known one", () => {
    const lab = new Lab();
    expect(
      notifyTypes(lab.answer(initiator({ path: from("203.0.113.5") }).initRequest(), from("203.0.113.5"))),
    ).toHaveLength(2);
  });

  test("half-open SAs end after their time", () => {
    const lab = new Lab();
    lab.deliver(initiator().initRequest());
    expect(lab.pass(29_999)).toEqual([]);
    expect(lab.states).toEqual(["halfOpen"]);
    lab.pass(1);
    expect(lab.states).toEqual([]);
    expect(lab.count("halfOpenExpired")).toBe(1);
    expect(lab.wakeAtMs).toBeNull();
    expect(lab.responder.snapshot().unproven).toBe(0);
  });
});

describe("cookies and limits", () => {
  test("over the threshold a COOKIE is asked for, and with it the exchange goes on", () => {
    const lab = new Lab({ limits: { cookieThreshold: 1, cookieThresholdPerSource: 100 } });
    lab.deliver(initiator().initRequest());
    const client = initiator();
    // R → I  HDR(SPIi, 0) N(COOKIE)
    const challenge = lab.answer(client.initRequest());
    const cookie = findNotify(decodeMessage(challenge).payloads, NOTIFY.COOKIE)?.data;
    expect(cookie).toBeDefined();
    expect(lab.states).toHaveLength(1);
    // I → R  HDR N(COOKIE) SA KE Ni …
    client.readInit(lab.answer(client.initRequest({ cookie: cookie ?? new Uint8Array(0) })));
    expect(lab.states).toHaveLength(2);
  });

  test("a made-up cookie, and one of another address, get a new challenge", () => {
    const lab = new Lab({ limits: { cookieThreshold: 0 } });
    const client = initiator();
    const challenge = lab.answer(client.initRequest());
    const cookie = findNotify(decodeMessage(challenge).payloads, NOTIFY.COOKIE)?.data ?? new Uint8Array(0);
    const elsewhere = from("198.51.100.8");
    expect(notifyTypes(lab.answer(client.initRequest({ cookie }), elsewhere))).toEqual([NOTIFY.COOKIE]);
    expect(notifyTypes(lab.answer(client.initRequest({ cookie: new Uint8Array(33) })))).toEqual([NOTIFY.COOKIE]);
    expect(lab.count("wrongCookie")).toBe(2);
    expect(lab.states).toEqual([]);
  });

  test("one source alone cannot fill the table: it is challenged first, others are not", () => {
    const lab = new Lab({ limits: { cookieThresholdPerSource: 2 } });
    for (let i = 0; i < 5; i++) lab.deliver(initiator().initRequest(), from("203.0.113.1", 1000 + i));
    expect(lab.states).toHaveLength(2);
    expect(lab.count("cookieDemanded")).toBe(3);
    connect(lab);
    expect(lab.states).toContain("established");
  });

  test("a retransmission to a half-open session gets its answer, whatever strangers do", () => {
    const lab = new Lab({ limits: { cookieThreshold: 1 } });
    const request = initiator().initRequest();
    const answer = lab.answer(request);
    expect(notifyTypes(lab.answer(initiator().initRequest()))).toEqual([NOTIFY.COOKIE]);
    expect(toHex(lab.answer(request))).toBe(toHex(answer));
  });

  test("what has no nonce, or is cut short, is malformed before it is asked for a cookie", () => {
    const lab = new Lab({ limits: { cookieThreshold: 0 } });
    const request = initiator().initRequest();
    const cut = request.slice(0, 60);
    new DataView(cut.buffer).setUint32(24, cut.length);
    expect(lab.deliver(cut)).toEqual([]);
    expect(lab.deliver(request.subarray(0, 60))).toEqual([]);
    expect(lab.deliver(initiator().initRequest().slice(0, 27))).toEqual([]);
    expect(lab.count("malformed")).toBe(3);
    expect(lab.count("cookieDemanded")).toBe(0);
  });

  test("the hard limits hold, and authentication frees a place", () => {
    const limits = { cookieThreshold: 1000, cookieThresholdPerSource: 1000, halfOpen: 3, halfOpenPerSource: 2 };
    const lab = new Lab({ limits });
    connect(lab);
    for (let i = 0; i < 4; i++) lab.deliver(initiator().initRequest(), from("203.0.113.1"));
    expect(lab.count("halfOpenPerSourceLimit")).toBe(2);
    for (let i = 0; i < 4; i++) lab.deliver(initiator().initRequest(), from("203.0.113.2"));
    expect(lab.count("halfOpenLimit")).toBe(3);
    expect(lab.responder.snapshot().unproven).toBe(3);
  });
});

test("an address that is no DVIPA of ours is not served", () => {
  const lab = new Lab();
  const path = { local: { address: "192.0.2.99", port: 500 }, remote: { address: CLIENT, port: 500 } };
  expect(lab.deliver(initiator().initRequest(), path)).toEqual([]);
  expect(lab.count("notForDvipa")).toBe(1);
  expect(DVIPA).not.toBe(path.local.address);
});
