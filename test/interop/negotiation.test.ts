/**
 * What a stock strongSwan may negotiate with the DVIPA, and what it is refused. Topology: `netns/layout.ts`, one target.
 */
import { describe, expect, it } from "vitest";
import type { ChildName, ClientSettings, StrongSwan } from "../../netns/strongswan.ts";
import { ping, requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { close, negotiate, stateCount, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const IKE_PROPOSALS = [
  "aes128gcm16-prfsha256-x25519",
  "aes256gcm16-prfsha512-ecp256",
  "aes128-sha256-prfsha256-modp2048",
  "aes256-sha512-prfsha512-x25519",
  "aes128-sha256-ecp256",
  "aes256gcm16-prfsha384-modp2048",
];
const ESP_PROPOSALS = ["aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha512"];
const MODES = ["transport", "tunnel"] as const;
const SETTLE_LIMIT_MS = 30_000;

let client: StrongSwan;
const lab = useLab({ targets: 1 }, async (up) => {
  await up.startCluster();
  client = await up.startClient();
});

describe.each(MODES)("%s mode", (mode) => {
  it.each(IKE_PROPOSALS)("negotiates IKE with %s", async (proposals) => {
    const said = await negotiate(lab(), client, mode, { proposals });
    expect(said).not.toContain("INVAL_KE");
    expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
    await close(lab(), client);
  });

  it.each(ESP_PROPOSALS)("protects ping and TCP with %s", async (espProposals) => {
    await negotiate(lab(), client, mode, { espProposals });
    await statesOnEveryNode(lab(), 2);
    expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
    expect(await requestName(lab())).toEqual({ ok: true, node: "t1", problem: undefined });
    await close(lab(), client);
  });
});

describe("a client that guesses the wrong group first", () => {
  it("is told the right one and succeeds", async () => {
    // x448 is not ours: the first KE payload is of that group, the second proposal has one that we take.
    const said = await negotiate(lab(), client, "transport", {
      proposals: "aes128gcm16-prfsha256-x448-ecp256",
    });
    expect(said).toContain("N(INVAL_KE)");
    expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
    await close(lab(), client);
  });
});

describe("refusals", () => {
  const cases: readonly [string, Partial<ClientSettings>, string, ChildName?][] = [
    ["a wrong key", { psk: "not the lab's key at all" }, "AUTH_FAILED"],
    ["an unknown peer", { localIdentity: "stranger.example" }, "AUTH_FAILED"],
    ["another identity of ours", { remoteIdentity: "other.example" }, "AUTH_FAILED"],
    ["no common IKE proposal", { proposals: "aes128-sha1-modp1024" }, "NO_PROP"],
    ["no common ESP proposal", { espProposals: "3des-sha1" }, "NO_PROP"],
    ["selectors of somebody else", { remoteSelectors: "203.0.113.0/24" }, "TS_UNACCEPT", "tunnel"],
  ];

  it.each(cases)("answers %s with the right notify and installs nothing", async (_, changes, notify, mode) => {
    await client.load(lab().clientSettings(changes));
    const { exitCode, stdout } = await client.initiate(mode ?? "transport");
    expect(exitCode).not.toBe(0);
    expect(stdout).toContain(`N(${notify})`);
    expect(await stateCount(lab(), "d1")).toBe(0);
    expect(await stateCount(lab(), "t1")).toBe(0);
    await client.terminate();
    const status = await lab().distributor.status();
    expect(status).toMatchObject({ ready: true, sas: [] });
  });

  it("still serves a good client afterwards", async () => {
    await negotiate(lab(), client, "transport");
    expect(await requestName(lab())).toMatchObject({ ok: true });
    expect(await lab().distributor.ask("status", { brief: true })).toMatchObject({
      totals: { sas: 1 },
      sas: [],
      connections: [],
    });
    await close(lab(), client);
  });
});

describe("a live SA", () => {
  it("answers dead peer detection", async () => {
    await negotiate(lab(), client, "transport", { dpdDelaySeconds: 1 });
    await until("the client has asked and been answered twice", SETTLE_LIMIT_MS, async () => {
      const log = await lab().logTail("client", 200);
      const answers = log.slice(log.lastIndexOf("established with SPIs")).match(/parsed INFORMATIONAL response/g);
      return (answers?.length ?? 0) >= 2;
    });
    expect(await client.listSas()).toContain("INSTALLED");
    await close(lab(), client);
  });

  it("goes everywhere when the client deletes it, with its policies", async () => {
    await negotiate(lab(), client, "tunnel");
    await statesOnEveryNode(lab(), 2);
    await close(lab(), client);
    await until("no policy is left", SETTLE_LIMIT_MS, async () => {
      const texts = await Promise.all(
        ["d1", "t1"].map((node) => lab().network.run(node, ["ip", "xfrm", "policy", "list", "nosock"])),
      );
      return texts.every((text) => !text.includes("tmpl"));
    });
    for (const daemon of lab().nodes) expect((await daemon.status()).sas).toEqual([]);
  });
});

describe("ESP suites that the cluster file does not list", () => {
  it.each(["null-sha256", "aes128ctr-sha256", "aes128ccm16"])(
    "%s is refused, and nothing is installed",
    async (esp) => {
      await client.load(lab().clientSettings({ espProposals: esp }));
      const { exitCode, stdout } = await client.initiate("transport");
      expect(exitCode).not.toBe(0);
      expect(stdout).toContain("N(NO_PROP)");
      for (const node of ["d1", "t1"]) expect(await stateCount(lab(), node)).toBe(0);
      await client.terminate();
    },
  );

  it("is passed over where something better follows", async () => {
    await negotiate(lab(), client, "transport", { espProposals: "null-sha256,chacha20poly1305" });
    expect((await lab().distributor.status()).sas).toMatchObject([{ suite: "CHACHA20_POLY1305" }]);
    expect(await requestName(lab())).toMatchObject({ ok: true });
    await close(lab(), client);
  });
});
