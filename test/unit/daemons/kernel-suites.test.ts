import { describe, expect, it } from "vitest";
import { wantedSuites, withoutSuites } from "../../../src/daemons/node/kernel-suites.ts";
import { chooseEsp, espTransforms } from "../../../src/ike/proposal.ts";
import { PROTOCOL } from "../../../src/ike/wire/constants.ts";
import { kernelRefusal } from "../../../src/net/kernel-error.ts";
import { Attributes, finishFrame, type NetlinkRequest } from "../../../src/net/netlink-message.ts";
import type { NetlinkSocket } from "../../../src/net/netlink-socket.ts";
import {
  AH_SUITES,
  DEFAULT_ESP_SUITES,
  ESP_SUITES,
  sameSuite,
  suiteName,
  type ChildSuite,
} from "../../../src/sa/suite.ts";
import { decodeAlgorithms } from "../../../src/xfrm/algorithms.ts";
import { XFRM_MSG_DELSA, XFRM_MSG_NEWSA } from "../../../src/xfrm/constants.ts";
import { missingSuites } from "../../../src/xfrm/probe.ts";
import { xfrmUsersaInfo } from "../../../src/xfrm/structs.ts";

const NETLINK_HEADER_BYTES = 16;
const ENOSYS = 38;
const CHACHA: ChildSuite = { kind: "chacha20-poly1305" };
const NULL: ChildSuite = { kind: "null", integrity: "hmac-sha2-256" };

/** A kernel that knows no suite for which `lacks` says so; it counts the states that it holds. */
function kernel(lacks: (suite: ChildSuite) => boolean): { socket: NetlinkSocket; states: () => number } {
  let states = 0;
  const request = (wanted: NetlinkRequest): Promise<void> => {
    const bytes = finishFrame(wanted, 0, 0, 0);
    const type = new DataView(bytes.buffer, bytes.byteOffset).getUint16(4, true);
    if (type === XFRM_MSG_DELSA) states--;
    if (type === XFRM_MSG_NEWSA) {
      const body = bytes.subarray(NETLINK_HEADER_BYTES);
      const keyed = decodeAlgorithms(new Attributes(body, xfrmUsersaInfo.size));
      if (keyed === null || lacks(keyed.suite)) return Promise.reject(kernelRefusal("add state", ENOSYS));
      states++;
    }
    return Promise.resolve();
  };
  return { socket: { request } as unknown as NetlinkSocket, states: () => states };
}

describe("what the kernel lacks", () => {
  it("is found by trying every suite, and nothing is left behind", async () => {
    const { socket, states } = kernel(({ kind }) => kind === "chacha20-poly1305" || kind === "null");
    const missing = await missingSuites(socket, ESP_SUITES);
    expect(missing.map(({ suite }) => suiteName(suite))).toEqual([
      "CHACHA20_POLY1305",
      "NULL/HMAC_SHA2_256_128",
      "NULL/HMAC_SHA2_384_192",
      "NULL/HMAC_SHA2_512_256",
    ]);
    for (const { reason } of missing) expect(reason).toContain("ENOSYS");
    expect(states()).toBe(0);
  });

  it("is nothing on a kernel that has all, and fatal where nothing is left", async () => {
    expect(await missingSuites(kernel(() => false).socket, ESP_SUITES)).toEqual([]);
    await expect(missingSuites(kernel(() => true).socket, DEFAULT_ESP_SUITES)).rejects.toMatchObject({
      code: "kernel.missing",
    });
  });

  it("is not negotiated: the next proposal is, and without one the peer is refused", () => {
    const [peer] = withoutSuites([{ espSuites: null }], [CHACHA]);
    if (peer?.espSuites == null) throw new Error("no peer");
    const offer = (...suites: ChildSuite[]) => ({
      kind: "sa" as const,
      proposals: suites.map((suite, i) => ({
        ...{ number: i + 1, protocol: PROTOCOL.ESP, spi: Uint8Array.of(0xc0, 0, 0, 1) },
        transforms: espTransforms(suite, null),
      })),
    });
    const policy = { espSuites: peer.espSuites, esn: "allow" } as const;
    expect(suiteName(chooseEsp(offer(CHACHA, { kind: "aes-gcm-16", keyBits: 128 }), null, false, policy).suite)).toBe(
      "AES_GCM_16_128",
    );
    expect(() => chooseEsp(offer(CHACHA), null, false, policy)).toThrow("no ESP or AH proposal is acceptable");
  });
});

describe("what peers may have", () => {
  it("is the default for a node without peers and for a peer that lists nothing", () => {
    expect(wantedSuites([])).toEqual(DEFAULT_ESP_SUITES);
    expect(wantedSuites([{ espSuites: null }])).toEqual(DEFAULT_ESP_SUITES);
  });

  it("is each listed suite once, and no other", () => {
    const lists = [{ espSuites: [CHACHA, NULL] }, { espSuites: [{ ...NULL }, CHACHA] }];
    expect(wantedSuites(lists)).toEqual([CHACHA, NULL]);
    const all = wantedSuites([...lists, { espSuites: null }]);
    expect(all.filter((suite) => sameSuite(suite, CHACHA))).toHaveLength(1);
    expect(all).toHaveLength(DEFAULT_ESP_SUITES.length + 1);
  });

  it("has AH where a peer lists it, and loses what the kernel lacks", async () => {
    const lists = [{ espSuites: [CHACHA, ...AH_SUITES] }];
    expect(wantedSuites(lists)).toEqual([CHACHA, ...AH_SUITES]);
    const lacking = kernel((suite) => suite.kind === "ah" && suite.integrity !== "hmac-sha2-256");
    const missing = (await missingSuites(lacking.socket, wantedSuites(lists))).map(({ suite }) => suite);
    expect(missing.map(suiteName)).toEqual(["AH/HMAC_SHA2_384_192", "AH/HMAC_SHA2_512_256"]);
    expect(withoutSuites(lists, missing).map(({ espSuites }) => espSuites)).toEqual([[CHACHA, AH_SUITES[0]]]);
  });

  it("keeps a peer's own list: what another peer may have is nothing to it", () => {
    const kept = withoutSuites([{ espSuites: [CHACHA, NULL] }, { espSuites: null }], [CHACHA]);
    expect(kept.map(({ espSuites }) => espSuites)).toEqual([
      [NULL],
      DEFAULT_ESP_SUITES.filter((s) => !sameSuite(s, CHACHA)),
    ]);
  });
});
