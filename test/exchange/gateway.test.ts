import { describe, expect, test } from "vitest";
import type { Path } from "../../src/ike/events.ts";
import { hostSelector } from "../../src/ike/selectors.ts";
import { NOTIFY } from "../../src/ike/wire/constants.ts";
import type { Payload } from "../../src/ike/wire/payload.ts";
import { childWish, type ChildWish } from "./initiator.ts";
import { CLIENT, connect, DVIPA, initiator, Lab, PATH_4500, peerConfig } from "./lab.ts";

/** An address of the distributor's own. */
const GATEWAY = "192.0.2.1";
const at = (port: number): Path => ({
  local: { address: GATEWAY, port },
  remote: { address: CLIENT, port },
});
const gatewayLab = (): Lab => new Lab({ peers: [peerConfig()], gateways: new Map([[GATEWAY, DVIPA]]) });
const TUNNEL = { transport: false } as const;

/** The whole negotiation at the gateway, for what is behind it. */
function connectThere(lab: Lab, wish: Partial<ChildWish>) {
  const client = initiator({ path: at(500) });
  client.readInit(lab.answer(client.initRequest(), at(500)));
  const request = client.authRequest(childWish(CLIENT, DVIPA, wish));
  const answer = lab.answer(request.bytes, at(4500));
  return { client, payloads: client.open(answer), child: () => client.readAuth(answer, request) };
}

describe("an SA that ends at the distributor's own address", () => {
  test("protects the DVIPA, in tunnel mode", () => {
    const lab = gatewayLab();
    connectThere(lab, TUNNEL).child();
    expect(lab.installed).toMatchObject([
      { dvipa: DVIPA, gateway: GATEWAY, peer: CLIENT, mode: "tunnel", localSelectors: [hostSelector(DVIPA)] },
    ]);
  });

  test("of the DVIPA itself there is none", () => {
    const lab = gatewayLab();
    connect(lab);
    expect(lab.installed).toMatchObject([{ dvipa: DVIPA }]);
    expect(lab.installed[0]).not.toHaveProperty("gateway");
  });

  test("has no transport mode: a peer that asks for it gets a tunnel", () => {
    const lab = gatewayLab();
    const { payloads } = connectThere(lab, { transport: true });
    expect(payloads.some((one) => one.kind === "notify" && one.type === NOTIFY.USE_TRANSPORT_MODE)).toBe(false);
    expect(lab.installed).toMatchObject([{ mode: "tunnel", gateway: GATEWAY }]);
    expect(lab.count("gatewayTransportDeclined")).toBe(1);
  });

  test("protects nothing else of the distributor", () => {
    const lab = gatewayLab();
    const { payloads } = connectThere(lab, { ...TUNNEL, tsr: [hostSelector(GATEWAY)] });
    expect(payloads.some((one) => one.kind === "notify" && one.type === NOTIFY.TS_UNACCEPTABLE)).toBe(true);
    expect(lab.installed).toEqual([]);
  });

  test("is rekeyed by either side into the same tunnel", () => {
    const lab = gatewayLab();
    const { client, child } = connectThere(lab, TUNNEL);
    const request = client.createChildRequest(childWish(CLIENT, DVIPA, TUNNEL), child());
    client.readCreateChild(lab.answer(request.bytes, at(4500)), request);
    const [old, heir] = lab.installed;
    expect(heir).toMatchObject({ dvipa: DVIPA, gateway: GATEWAY, reqid: old?.reqid });
    const [ours] = lab.command({ kind: "rekeyChild", saId: heir?.id ?? "" });
    expect(client.open(ours ?? new Uint8Array())).toMatchObject(
      expect.arrayContaining([
        { kind: "tsi", selectors: [{ kind: "range", selector: hostSelector(DVIPA) }] },
      ]) as object,
    );
  });

  test("cannot have what an SA of the DVIPA's own has, nor the other way round: a kernel has one way for it", () => {
    const lab = gatewayLab();
    connect(lab);
    const { payloads } = connectThere(lab, TUNNEL);
    const isRefusal = (one: Payload): boolean => one.kind === "notify" && one.type === NOTIFY.TS_UNACCEPTABLE;
    expect(payloads.some(isRefusal)).toBe(true);
    expect(lab.installed).toMatchObject([{ dvipa: DVIPA }]);
    expect(lab.count("selectorsTaken")).toBe(1);
    const other = gatewayLab();
    connectThere(other, TUNNEL);
    const direct = initiator();
    direct.readInit(other.answer(direct.initRequest()));
    expect(
      direct.open(other.answer(direct.authRequest(childWish(CLIENT, DVIPA)).bytes, PATH_4500)).some(isRefusal),
    ).toBe(true);
    expect(other.installed).toHaveLength(1);
  });

  test("is not at any other address", () => {
    const lab = new Lab();
    const client = initiator({ path: at(500) });
    expect(lab.deliver(client.initRequest(), at(500))).toEqual([]);
    expect(lab.count("notForDvipa")).toBe(1);
  });
});
