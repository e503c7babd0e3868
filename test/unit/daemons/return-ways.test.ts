import { describe, expect, it } from "vitest";
import { returnWays, wayOf, type ReturnPath } from "../../../src/daemons/node/return-ways.ts";
import { returnTable } from "../../../src/net/ids.ts";
import { AF_INET, AF_INET6 } from "../../../src/net/inet-address.ts";

const V4: ReturnPath = {
  dvipa: "192.0.2.100",
  distributor: "198.51.100.1",
  destination: { address: "10.1.0.0", prefixBits: 16 },
};
const V6: ReturnPath = { ...V4, dvipa: "2001:db8::100", destination: { address: "2001:db8:1::", prefixBits: 64 } };
const TUNNELS = new Map([["198.51.100.1", 7]]);

describe("returnWays", () => {
  it("leads TCP from the DVIPA into the tunnel, in small packets, and nowhere else when that is gone", () => {
    const { rules, routes } = returnWays([V4, V6], AF_INET, TUNNELS);
    expect(rules).toMatchObject([{ from: { address: V4.dvipa, ipProtocol: 6 }, table: returnTable(1), mark: null }]);
    expect(routes).toMatchObject([
      { table: returnTable(1), destination: V4.destination, interfaceIndex: null },
      { table: returnTable(1), destination: V4.destination, interfaceIndex: 7, mtuBytes: 1_360 },
    ]);
    expect(returnWays([V4, V6], AF_INET6, TUNNELS).rules).toMatchObject([{ from: { address: V6.dvipa } }]);
    expect(returnWays([V4], AF_INET, new Map()).routes).toMatchObject([{ interfaceIndex: null }]);
  });

  it("has a table for each DVIPA, and each way once", () => {
    const other = { ...V4, dvipa: "192.0.2.101" };
    const { rules, routes } = returnWays([V4, other, V4], AF_INET, TUNNELS);
    expect(rules.map(({ table }) => table)).toEqual([returnTable(1), returnTable(2)]);
    expect(routes).toHaveLength(4);
    expect(new Set(routes.map(wayOf)).size).toBe(4);
  });
});
