import { afterAll, describe, expect, it } from "vitest";
import { existsSync } from "node:fs";
import { tunnelReqid } from "../../../src/net/ids.ts";
import { eventually } from "../support/eventually.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import { LOADS_OFFLOAD, loadOffload, modprobe, OFFLOAD_MODULES, unloadOffload } from "../support/offload-modules.ts";
import { IPPROTO_ESP } from "../../../src/xfrm/constants.ts";
import type { TcpHandlers } from "../support/tcp-worker.ts";
import type { Worker } from "../support/worker.ts";
import { testSa, testState } from "./fixtures.ts";
import type { PlainState } from "./plain.ts";
import type { XfrmHandlers } from "./xfrm-worker.ts";

// The guard against ESP offload, with the kernel's own modules: QEMU's kernel has them.
//
//   s 192.0.2.1 ───── veth ───── 192.0.2.2 r
//   sends a TCP stream on a lease  receives

const S = "192.0.2.1";
const R = "192.0.2.2";
const PORT = 9999;
const LEASE = { first: 1n, end: 100_001n };
/** Some 2,800 segments: many in each of the kernel's aggregates, all within the lease. */
const STREAM_BYTES = 4_000_000;

if (LOADS_OFFLOAD) {
  describeWithEsp("ESP offload, the real modules", () => {
    afterAll(unloadOffload);

    it("loaded: SAs are refused with the way out, and no state is made", async () => {
      await using lab = await Lab.create();
      await loadOffload();
      const refusal = lab.sender.call("apply", {
        sas: [{ sa: testSa(S, R), options: { outbound: null } }],
        guards: [],
      });
      await expect(refusal).rejects.toMatchObject({
        code: "kernel.offload",
        message: expect.stringContaining("modprobe -r esp4_offload esp6_offload") as string,
        details: { loaded: [...OFFLOAD_MODULES] },
      });
      expect(await lab.sender.call("listStates", undefined)).toEqual([]);
      await unloadOffload();
      await lab.sender.call("apply", { sas: [{ sa: testSa(S, R), options: { outbound: null } }], guards: [] });
      expect(await lab.sender.call("listStates", undefined)).toHaveLength(1);
    });

    it("loaded after a state was made: that state goes on counting one number per packet", async () => {
      await using lab = await Lab.create();
      const state = await lab.leasedState();
      await loadOffload();
      await lab.stream();
      await eventually("the stream's end", async () => (await lab.received()) === STREAM_BYTES);
      const reading = await lab.sender.call("readLease", state.id);
      expect(reading?.lastSendable).toBe(LEASE.end - 1n);
      // Every segment is a packet of its own: the kernel did not leave the cutting to later.
      expect(reading?.oseq).toBeGreaterThan(BigInt(Math.floor(STREAM_BYTES / 1500)));
    });

    it("slipped in before a state was made: aggregates use numbers that no packet counts, and the tripwire deletes it", async () => {
      await using lab = await Lab.create();
      await loadOffload();
      // `addState` does not ask: as if the module had come between the guard's look and the state.
      const state = await lab.leasedState();
      expect(await lab.sender.call("readLease", state.id)).toMatchObject({ oseq: 0n, lastSendable: LEASE.end - 1n });
      await lab.stream();
      await eventually("a good part of the stream", async () => (await lab.received()) > STREAM_BYTES / 2);
      const tripped = lab.sender.call("readLease", state.id).then(
        () => null,
        (error: unknown) => error as { code: string; details: { oseq: bigint; expected: bigint; found: bigint } },
      );
      const error = await tripped;
      expect(error).toMatchObject({ code: "kernel.offload", details: { expected: LEASE.end - 1n } });
      const { oseq = 0n, expected = 0n, found = 0n } = error?.details ?? {};
      const uncounted = found - expected;
      const packets = oseq - uncounted;
      console.log(`ESP offload: ${oseq} numbers used, ${packets} packets counted`);
      expect(uncounted).toBeGreaterThan(0n);
      expect(packets).toBeGreaterThan(0n);
      expect(await lab.sender.call("getState", state.id)).toBeNull();
    });
  });
} else {
  describe("ESP offload", () => {
    it("NOT SHOWN on this kernel: the refusal of the real modules; scripts/test --kernel qemu shows it", async () => {
      const isLoaded = OFFLOAD_MODULES.some((module) => existsSync(`/sys/module/${module}`));
      expect(isLoaded, "loaded by somebody: esplex does not start here").toBe(false);
      // The day that User-mode Linux has them, they must be loaded here too.
      if (process.env["ESPLEX_GUEST_KERNEL"] === "uml")
        expect(await modprobe("esp4_offload")).toMatchObject({ failed: true });
      console.log("no ESP offload module is loaded by the tests on this kernel: its refusal was not shown");
    });
  });
}

class Lab implements AsyncDisposable {
  readonly s: Namespace;
  readonly r: Namespace;
  readonly sender: Worker<XfrmHandlers>;
  readonly receiver: Worker<XfrmHandlers>;
  readonly sTcp: Worker<TcpHandlers>;
  readonly rTcp: Worker<TcpHandlers>;

  private constructor(
    [s, r]: readonly [Namespace, Namespace],
    [sender, receiver]: readonly [Worker<XfrmHandlers>, Worker<XfrmHandlers>],
    [sTcp, rTcp]: readonly [Worker<TcpHandlers>, Worker<TcpHandlers>],
  ) {
    this.s = s;
    this.r = r;
    this.sender = sender;
    this.receiver = receiver;
    this.sTcp = sTcp;
    this.rTcp = rTcp;
  }

  static async create(): Promise<Lab> {
    const [s, r] = await Promise.all([Namespace.create("s"), Namespace.create("r")]);
    await veth(
      { namespace: s, name: "veth0", addresses: [`${S}/24`] },
      { namespace: r, name: "veth0", addresses: [`${R}/24`] },
    );
    await s.exec("ping", ["-c", "1", "-W", "5", R]);
    const xfrm = "test/netns/xfrm/xfrm-worker.ts";
    const tcp = "test/netns/support/tcp-worker.ts";
    const lab = new Lab(
      [s, r],
      await Promise.all([s.worker<XfrmHandlers>(xfrm), r.worker<XfrmHandlers>(xfrm)]),
      await Promise.all([s.worker<TcpHandlers>(tcp), r.worker<TcpHandlers>(tcp)]),
    );
    await lab.rTcp.call("listen", { address: R, port: PORT });
    return lab;
  }

  /** From `s` to `r` on a lease; what comes back goes in clear, so that one SA tells the story. */
  async leasedState(): Promise<PlainState> {
    const state = testState(S, R, 0x5151, { allowance: { kind: "lease", range: LEASE } });
    const any = { port: 0, mask: 0 };
    const selector = {
      source: { address: S, prefixBits: 32 },
      destination: { address: R, prefixBits: 32 },
      protocol: 0,
      sourcePort: any,
      destinationPort: any,
    };
    const template = { protocol: IPPROTO_ESP, mode: "transport", reqid: tunnelReqid(1), endpoints: null } as const;
    await this.receiver.call("addState", { ...state, replayWindowPackets: 4096, allowance: { kind: "unlimited" } });
    await this.sender.call("addState", state);
    await this.sender.call("addPolicy", { direction: "out", selector, action: "allow", priority: 46_000, template });
    return state;
  }

  async stream(): Promise<void> {
    await this.sTcp.call("start", { address: R, port: PORT, bytes: STREAM_BYTES });
  }

  async received(): Promise<number> {
    return this.rTcp.call("received", undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // An orphan of theirs would hold its SA, and that the module.
    await Promise.all([this.sTcp.call("reset", undefined), this.rTcp.call("reset", undefined)]);
    for (const part of [this.sender, this.receiver, this.sTcp, this.rTcp, this.s, this.r]) {
      await part[Symbol.asyncDispose]();
    }
    if (LOADS_OFFLOAD) await unloadOffload();
  }
}
