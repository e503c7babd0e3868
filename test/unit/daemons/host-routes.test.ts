import { describe, expect, it } from "vitest";
import { hostRoutes, type SteeringTarget } from "../../../src/daemons/node/host-routes.ts";
import { returnWays } from "../../../src/daemons/node/return-ways.ts";
import { handOverMark, steeringMark, steeringTable } from "../../../src/net/ids.ts";
import { AF_INET, AF_INET6 } from "../../../src/net/inet-address.ts";

const NO_WAYS_BACK = returnWays([], AF_INET, new Map());
const TARGET: SteeringTarget = { index: 2, gateways: ["198.51.100.12"], tunnel: null };
const OPENED: SteeringTarget = { ...TARGET, tunnel: "198.51.100.12" };
const WAYS = { trustedLink: 7, tunnels: new Map([["198.51.100.12", 9]]) };
const ALL_OF_V4 = { address: "0.0.0.0", prefixBits: 0 };

describe("hostRoutes", () => {
  it("leads a target's mark to it, and nowhere when that route is gone", () => {
    const { rules, routes, steers } = hostRoutes(AF_INET, [TARGET], WAYS, NO_WAYS_BACK);
    expect(steers).toBe(true);
    expect(rules).toMatchObject([{ mark: { value: steeringMark(2), mask: 0xffffffff }, table: steeringTable(2) }]);
    expect(routes).toMatchObject([
      { table: steeringTable(2), destination: ALL_OF_V4, gateway: "198.51.100.12", interfaceIndex: 7 },
      { table: steeringTable(2), destination: ALL_OF_V4, gateway: null, interfaceIndex: null },
    ]);
  });

  it("leads what is handed over into the tunnel, likewise", () => {
    const { rules, routes } = hostRoutes(AF_INET, [OPENED], WAYS, NO_WAYS_BACK);
    expect(rules.map(({ table }) => table)).toEqual([steeringTable(2), handOverMark(2)]);
    expect(routes.filter(({ table }) => table === handOverMark(2))).toMatchObject([
      { gateway: null, interfaceIndex: 9 },
      { gateway: null, interfaceIndex: null },
    ]);
  });

  it("has no next hop of the other IP version, and lets its mark lead nowhere", () => {
    const { routes } = hostRoutes(AF_INET6, [TARGET], WAYS, NO_WAYS_BACK);
    expect(routes).toMatchObject([{ destination: { address: "::" }, gateway: null, interfaceIndex: null }]);
  });

  it("steers nothing without targets", () => {
    expect(hostRoutes(AF_INET, [], WAYS, NO_WAYS_BACK)).toMatchObject({ rules: [], routes: [], steers: false });
  });
});
