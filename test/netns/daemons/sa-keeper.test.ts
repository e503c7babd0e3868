import { expect, it } from "vitest";
import { Capture, espSequences } from "../support/capture.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { UdpHandlers } from "../support/udp-worker.ts";
import { testSa } from "../xfrm/fixtures.ts";
import type { KeeperHandlers } from "./keeper-worker.ts";

//   s 192.0.2.100 (the DVIPA) ───── veth ───── 192.0.2.2 r
//   runs the keeper                           captures what arrives

const DVIPA = "192.0.2.100";
const PEER = "192.0.2.2";
const PORT = 9999;
const PACKETS = 5;

describeWithEsp("an heir of an SA that nobody sends on", () => {
  it("has the lease of who wants to send during the hand-over, and every packet leaves on it", async () => {
    await using s = await Namespace.create("ks");
    await using r = await Namespace.create("kr");
    await veth(
      { namespace: s, name: "veth0", addresses: [`${DVIPA}/24`] },
      { namespace: r, name: "veth0", addresses: [`${PEER}/24`] },
    );
    await s.exec("ping", ["-c", "1", "-W", "5", PEER]);
    await using udp = await s.worker<UdpHandlers>("test/netns/support/udp-worker.ts");
    await using keeper = await s.worker<KeeperHandlers>("test/netns/daemons/keeper-worker.ts");
    const old = testSa(DVIPA, PEER, { id: "0".repeat(32) });
    const heir = testSa(DVIPA, PEER, {
      id: "1".repeat(32),
      inbound: { ...old.inbound, spi: 0x1111 },
      outbound: { ...old.outbound, spi: 0x2222 },
    });
    await keeper.call("install", { sa: old, outbound: "now" });
    await keeper.call("install", { sa: heir, outbound: "hold" });
    await using capture = await Capture.start(r, "veth0", `src host ${DVIPA} and not arp`);
    expect(await keeper.call("useAndWant", heir)).toEqual([heir.id]);
    await udp.call("send", { address: PEER, port: PORT, count: PACKETS });
    const packets = await capture.stop();
    expect(espSequences(packets, heir.outbound.spi)).toEqual(Array.from({ length: PACKETS }, (_, i) => i + 1));
    expect(packets).toHaveLength(PACKETS);
  });
});
