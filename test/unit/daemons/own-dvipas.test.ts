import { describe, expect, it } from "vitest";
import { networkOf, TargetNumbers, type OwnDvipa } from "../../../src/daemons/node/own-dvipas.ts";

const PLAIN: OwnDvipa = {
  ...{ address: "192.0.2.100", interfaceName: "cli0", gateways: [], targets: "ALL", ports: "ALL" },
  distribution: { method: "roundRobin", weights: {}, affinitySeconds: 0 },
};
const WITH_GATEWAY: OwnDvipa = { ...PLAIN, address: "192.0.2.101", gateways: ["192.0.2.1"] };
const T1 = { name: "t1", addresses: ["198.51.100.11", "2001:db8::11"] };
const T2 = { name: "t2", addresses: ["198.51.100.12"] };

describe("networkOf", () => {
  it("gives each target a number that it keeps, whoever is named with it", () => {
    const numbers = new TargetNumbers();
    const indexes = (...targets: (typeof T1)[]): number[] =>
      networkOf([PLAIN], targets, numbers, () => false).targets.map(({ index }) => index);
    expect(indexes(T1)).toEqual([1]);
    expect(indexes(T2, T1)).toEqual([2, 1]);
    expect([numbers.of("t2"), numbers.of("t3"), ...numbers.names()]).toEqual([2, null, "t1", "t2"]);
  });

  it("has tunnels where a DVIPA is handed over, to the address that the bus uses", () => {
    const tunnels = (handsOver: boolean): (string | null)[] =>
      networkOf([PLAIN], [T1, T2], new TargetNumbers(), () => handsOver).targets.map(({ tunnel }) => tunnel);
    expect(tunnels(true)).toEqual(["198.51.100.11", "198.51.100.12"]);
    expect(tunnels(false)).toEqual([null, null]);
  });

  it("names the gateways, and the DVIPAs that come back through them", () => {
    expect(networkOf([PLAIN, WITH_GATEWAY], [], new TargetNumbers(), () => true)).toMatchObject({
      dvipas: [
        { address: "192.0.2.100", role: "distributor", interfaceName: "cli0" },
        { address: "192.0.2.101", role: "distributor" },
      ],
      gateways: ["192.0.2.1"],
      returned: ["192.0.2.101"],
    });
  });
});
