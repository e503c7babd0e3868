import { describe, expect, test } from "vitest";
import { toHex } from "../../src/core/bytes.ts";
import { AUTH_METHOD, EXCHANGE, NOTIFY, notifyName } from "../../src/ike/wire/constants.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import type { Payload } from "../../src/ike/wire/payload.ts";
import { hostSelector, subnetSelector } from "../../src/ike/selectors.ts";
import { childWish, deleteIke, type ChildWish, type Initiator, type InitiatorOptions } from "./initiator.ts";
import { CLIENT, connect, DVIPA, ESP_CBC, ESP_GCM, initiator, Lab, PATH, peerConfig, psk } from "./lab.ts";

/** What the responder said, as `idr auth NO_PROPOSAL_CHOSEN`. */
function summary(payloads: readonly Payload[]): string {
  return payloads.map((payload) => (payload.kind === "notify" ? notifyName(payload.type) : payload.kind)).join(" ");
}

/** IKE_SA_INIT, then IKE_AUTH; returns what came back. */
function authenticate(
  lab: Lab,
  changes: Partial<InitiatorOptions> = {},
  wish: Partial<ChildWish> = {},
  extra: Parameters<Initiator["authRequest"]>[1] = {},
): { client: Initiator; said: string; request: Uint8Array; response: Uint8Array } {
  const client = initiator(changes);
  client.readInit(lab.answer(client.initRequest()));
  const { bytes } = client.authRequest(childWish(CLIENT, DVIPA, wish), extra);
  const response = lab.answer(bytes);
  return { client, said: summary(client.open(response)), request: bytes, response };
}

describe("IKE_AUTH", () => {
  test("transport mode: IDr AUTH N(USE_TRANSPORT_MODE) SA TSi TSr, after the kernels have the SA", () => {
    const lab = new Lab({ install: "silent" });
    const client = initiator();
    client.readInit(lab.answer(client.initRequest()));
    // I → R  SK{IDi IDr AUTH N(USE_TRANSPORT_MODE) SA TSi TSr}
    const { bytes } = client.authRequest(childWish(CLIENT, DVIPA));
    expect(lab.deliver(bytes)).toEqual([]);
    expect(lab.saLog).toEqual(["install:0:now"]);
    // The peer repeats itself while the kernels work: no second installation.
    expect(lab.deliver(bytes)).toEqual([]);
    expect(lab.count("requestInProgress")).toBe(1);
    expect(lab.responder.snapshot().ikeSas[0]?.children[0]?.state).toBe("installing");
    // R → I  SK{IDr AUTH N(USE_TRANSPORT_MODE) SA TSi TSr}
    const [sa] = lab.installed;
    const effects = lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: sa?.id ?? "" });
    const answer = effects.find((effect) => effect.kind === "send");
    expect(summary(client.open(answer?.bytes ?? new Uint8Array(0)))).toBe("idr auth USE_TRANSPORT_MODE sa tsi tsr");
    // A repeated report changes nothing.
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: sa?.id ?? "" });
    expect(lab.saLog).toEqual(["install:0:now"]);
    // The same request again gets the same bytes.
    expect(toHex(lab.answer(bytes))).toBe(toHex(answer?.bytes ?? new Uint8Array(0)));
  });

  test("the installation fails: IDr AUTH N(TEMPORARY_FAILURE), the IKE SA is up", () => {
    const lab = new Lab({ install: "fail" });
    expect(authenticate(lab).said).toBe("idr auth TEMPORARY_FAILURE");
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
    expect(lab.states).toEqual(["established"]);
  });

  test("no report in time: the same; a late report removes what it installed", () => {
    const lab = new Lab({ install: "silent" });
    const client = initiator();
    client.readInit(lab.answer(client.initRequest()));
    lab.deliver(client.authRequest(childWish(CLIENT, DVIPA)).bytes);
    const [answer] = lab.pass(10_000);
    expect(summary(client.open(answer ?? new Uint8Array(0)))).toBe("idr auth TEMPORARY_FAILURE");
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[0]?.id ?? "" });
    expect(lab.saLog).toEqual(["install:0:now", "remove:0", "remove:0"]);
    expect(lab.count("installReportLate")).toBe(1);
  });

  const REFUSED_CHILD: readonly [string, Partial<ChildWish>, string][] = [
    ["a wrong remote selector", { tsi: [hostSelector("203.0.113.1")] }, "TS_UNACCEPTABLE"],
    ["a wrong local selector", { tsr: [hostSelector("192.0.2.11")] }, "TS_UNACCEPTABLE"],
    ["an ESP suite that the peer may not use", { suites: [ESP_CBC] }, "NO_PROPOSAL_CHOSEN"],
    ["tunnel mode that the peer may not use", { transport: false }, "NO_PROPOSAL_CHOSEN"],
  ];
  for (const [what, wish, reason] of REFUSED_CHILD) {
    test(`${what}: IDr AUTH N(${reason}), the IKE SA is up without a child`, () => {
      const lab = new Lab({ peers: [peerConfig({ espSuites: [ESP_GCM], modes: ["transport"] })] });
      const { said, client } = authenticate(lab, {}, wish);
      expect(said).toBe(`idr auth ${reason}`);
      expect(lab.states).toEqual(["established"]);
      expect(lab.installed).toEqual([]);
      // I → R  SK{} is answered: the IKE SA works.
      expect(client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [])))).toEqual([]);
    });
  }

  test("transport mode that the peer may not use becomes tunnel mode", () => {
    const lab = new Lab({ peers: [peerConfig({ modes: ["tunnel"] })] });
    expect(authenticate(lab).said).toBe("idr auth sa tsi tsr");
    expect(lab.installed[0]?.mode).toBe("tunnel");
  });

  test("selectors are narrowed to the policy, in tunnel mode with the peer's subnets", () => {
    const lab = new Lab({ peers: [peerConfig({ remoteSubnets: ["203.0.113.0/24"] })] });
    const any = subnetSelector("0.0.0.0/0");
    authenticate(lab, {}, { transport: false, tsi: [any], tsr: [any] });
    authenticate(lab, {}, { transport: true, tsi: [any], tsr: [any] });
    expect(lab.installed.map(({ localSelectors, remoteSelectors }) => [localSelectors, remoteSelectors])).toEqual([
      [[hostSelector(DVIPA)], [hostSelector(CLIENT), subnetSelector("203.0.113.0/24")]],
      [[hostSelector(DVIPA)], [hostSelector(CLIENT)]],
    ]);
  });
});

describe("authentication fails", () => {
  const CASES: readonly [string, Partial<InitiatorOptions>, Parameters<Initiator["authRequest"]>[1], string][] = [
    ["wrong key", { psk: psk("wrong") }, {}, "wrong pre-shared key"],
    ["unknown identity", { identity: "mars.lab" }, {}, "no peer in the cluster file has this address and identity"],
    [
      "identity of ours that we do not have",
      { peerIdentity: "pluto.lab" },
      {},
      "no peer in the cluster file has this address and identity",
    ],
    [
      "signature",
      {},
      { method: AUTH_METHOD.DIGITAL_SIGNATURE },
      "a signature without an X.509 certificate in a CERT payload",
    ],
    ["NULL authentication", {}, { method: AUTH_METHOD.NULL }, "authentication method NULL is not supported"],
  ];
  for (const [what, changes, extra, reason] of CASES) {
    test(`${what}: N(AUTHENTICATION_FAILED) and nothing else; the log says why`, () => {
      const lab = new Lab();
      const { said, request, response } = authenticate(lab, changes, {}, extra);
      expect(said).toBe("AUTHENTICATION_FAILED");
      expect(lab.states).toEqual(["closed"]);
      expect(lab.installed).toEqual([]);
      const logged = lab.effects.flatMap((effect) => (effect.kind === "log" ? [effect.fields["reason"]] : []));
      expect(logged).toContain(reason);
      // The answer is kept for retransmissions, then everything is gone.
      expect(toHex(lab.answer(request))).toBe(toHex(response));
      lab.pass(30_000);
      expect(lab.states).toEqual([]);
      expect(lab.deliver(request)).toEqual([]);
      expect(lab.count("unknownSpi")).toBe(1);
    });
  }

  test("an unknown peer and a wrong key look the same on the wire", () => {
    const lengths = [{ psk: psk("wrong") }, { identity: "mars.lab" }].map(
      (changes) => authenticate(new Lab(), changes).response.length,
    );
    expect(new Set(lengths).size).toBe(1);
  });

  test("no AUTH payload (EAP)", () => {
    const lab = new Lab();
    const client = initiator();
    client.readInit(lab.answer(client.initRequest()));
    const { bytes } = client.authRequest(childWish(CLIENT, DVIPA));
    expect(bytes.length).toBeGreaterThan(0);
    const again = initiator();
    again.readInit(lab.answer(again.initRequest()));
    const idI: Payload = { kind: "idi", type: 2, data: new TextEncoder().encode("moon.lab") };
    const sa: Payload = { kind: "sa", proposals: [{ number: 1, protocol: 3, spi: new Uint8Array(4), transforms: [] }] };
    const ts = (kind: "tsi" | "tsr"): Payload => ({
      kind,
      selectors: [{ kind: "range", selector: hostSelector(CLIENT) }],
    });
    const response = lab.answer(again.request(EXCHANGE.IKE_AUTH, [idI, sa, ts("tsi"), ts("tsr")]));
    expect(summary(again.open(response))).toBe("AUTHENTICATION_FAILED");
  });

  test("a payload is missing: N(INVALID_SYNTAX), closed", () => {
    const lab = new Lab();
    const client = initiator();
    client.readInit(lab.answer(client.initRequest()));
    const response = lab.answer(client.request(EXCHANGE.IKE_AUTH, []));
    expect(summary(client.open(response))).toBe("INVALID_SYNTAX");
    expect(lab.states).toEqual(["closed"]);
  });

  test("a suite that this peer may not use, though others at its address may", () => {
    const other = peerConfig({ name: "other", remoteIdentity: "mars.lab" });
    const lab = new Lab({ peers: [peerConfig({ ikeSuites: [] }), other] });
    expect(authenticate(lab).said).toBe("NO_PROPOSAL_CHOSEN");
  });

  test("too many IKE SAs of one peer", () => {
    const lab = new Lab({ limits: { ikeSasPerPeer: 2 } });
    connect(lab);
    connect(lab);
    expect(authenticate(lab).said).toBe("NO_ADDITIONAL_SAS");
    expect(lab.states).toEqual(["established", "established", "closed"]);
  });
});

describe("around IKE_AUTH", () => {
  test("INITIAL_CONTACT ends the older IKE SAs of that identity", () => {
    const lab = new Lab();
    connect(lab);
    const { said } = authenticate(lab, {}, {}, { payloads: [notify(NOTIFY.INITIAL_CONTACT)] });
    expect(said).toBe("idr auth USE_TRANSPORT_MODE sa tsi tsr");
    expect(lab.saLog).toEqual(["install:0:now", "remove:0", "install:1:now"]);
    expect(lab.states).toEqual(["established"]);
  });

  test("without it both live, and the same selectors share a reqid", () => {
    const lab = new Lab();
    connect(lab);
    connect(lab);
    expect(lab.installed.map(({ reqid }) => reqid)).toEqual([1, 1]);
    expect(new Set(lab.installed.map(({ id }) => id)).size).toBe(2);
    expect(lab.states).toEqual(["established", "established"]);
  });

  test("the peer does not like our AUTH: INFORMATIONAL N(AUTHENTICATION_FAILED) ends the IKE SA", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    expect(
      client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [notify(NOTIFY.AUTHENTICATION_FAILED)]))),
    ).toEqual([]);
    expect(lab.states).toEqual(["closed"]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  test("another exchange than IKE_AUTH, and another address, leave a half-open session alone", () => {
    const lab = new Lab();
    const client = initiator();
    client.readInit(lab.answer(client.initRequest()));
    expect(lab.deliver(client.seal(EXCHANGE.INFORMATIONAL, 1, false, [deleteIke]))).toEqual([]);
    expect(lab.count("unexpectedExchange")).toBe(1);
    const request = client.authRequest(childWish(CLIENT, DVIPA));
    expect(lab.deliver(request.bytes, { ...PATH, remote: { address: "198.51.100.8", port: 500 } })).toEqual([]);
    expect(lab.count("addressChanged")).toBe(1);
    client.readAuth(lab.answer(request.bytes), request);
    expect(lab.states).toEqual(["established"]);
  });
});
