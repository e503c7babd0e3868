import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OutboundUse } from "../../../src/xfrm/outbound-use.ts";

const PACKET_BYTES = 100n;

/** One SA's state with the rules of a kernel: a lease is what it may still send, a write sets the byte counter back. */
class Kernel {
  oseq = 0n;
  left = 0n;
  bytes = 0n;
  isAlive = true;
  /** What has really left. */
  sent = 0n;

  send(packets: number): void {
    for (let i = 0; i < packets && this.isAlive; i++) {
      if (this.left === 0n) {
        this.isAlive = false;
        return;
      }
      this.left -= 1n;
      this.oseq += 1n;
      this.bytes += PACKET_BYTES;
      this.sent += 1n;
    }
  }

  read(): { oseq: bigint; leftNumbers: bigint; lastSendable: bigint; bytes: bigint } {
    const { oseq, left, bytes } = this;
    return { oseq, leftNumbers: left, lastSendable: oseq + left, bytes };
  }
}

type Action = { readonly packets: number; readonly between: number } & (
  { readonly do: "send" | "extend" | "park" } | { readonly do: "install"; readonly skip: number }
);
const packets = fc.nat(6);
const action: fc.Arbitrary<Action> = fc.oneof(
  fc.record({ do: fc.constantFrom("send" as const, "extend" as const, "park" as const), packets, between: packets }),
  fc.record({ do: fc.constant("install" as const), packets, between: fc.constant(0), skip: fc.nat(20) }),
);

/** Runs the actions; `isTold`: the kernel's last word about a dead state came. */
function run(actions: readonly Action[], isTold: boolean): { use: OutboundUse; kernel: Kernel } {
  const use = new OutboundUse();
  const kernel = new Kernel();
  let nowMs = 0;
  use.looked(kernel.read(), nowMs);
  kernel.left = 8n;
  kernel.send(2);
  use.looked(kernel.read(), nowMs);
  const bury = (): void => {
    use.ended(isTold ? kernel.bytes : null);
    const first = kernel.oseq + 3n;
    use.born(first, first + 10n, nowMs);
    Object.assign(kernel, { oseq: first - 1n, left: 10n, bytes: 0n, isAlive: true });
  };
  for (const step of actions) {
    nowMs += 1;
    kernel.send(step.packets);
    if (!kernel.isAlive) bury();
    use.looked(kernel.read(), nowMs);
    const before = kernel.read();
    if (step.do === "send") continue;
    const credit = step.do === "extend" ? before.leftNumbers + 5n : 0n;
    // Packets between reading and writing; no more than it may send, or the write would find it dead.
    kernel.send(Math.min(step.between, Number(kernel.left)));
    kernel.bytes = before.bytes;
    if (step.do === "install") {
      const first = before.lastSendable + 1n + BigInt(step.skip);
      Object.assign(kernel, { oseq: first - 1n, left: 8n });
      kernel.send(2);
      use.installed(first, kernel.read(), nowMs);
    } else {
      kernel.left = credit;
      kernel.send(step.do === "extend" ? 2 : 0);
      use.credited(credit, kernel.read(), nowMs);
    }
  }
  use.looked(kernel.read(), nowMs);
  return { use, kernel };
}

describe("what a node has sent on leases", () => {
  it("is every packet, and its bytes, though each write sets the kernel's counter back", () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 40, size: "max" }), fc.boolean(), (actions, isTold) => {
        const { use, kernel } = run(actions, isTold);
        expect(use.sent.packets).toBe(kernel.sent);
        expect(use.sent.bytes).toBe(kernel.sent * PACKET_BYTES);
        expect(use.sent.now).toEqual({ bytes: kernel.bytes, number: kernel.oseq });
      }),
      { numRuns: 500 },
    );
  });

  it("takes what leaves while a lease is installed from the rate before", () => {
    const use = new OutboundUse();
    const kernel = new Kernel();
    kernel.left = 1_000n;
    use.looked(kernel.read(), 0);
    kernel.send(200);
    use.looked(kernel.read(), 100);
    // 2 packets a millisecond, for 5 ms, that nobody sees.
    const before = kernel.read();
    kernel.send(10);
    Object.assign(kernel, { oseq: 5_000n, left: 100n, bytes: before.bytes });
    use.installed(5_001n, kernel.read(), 105);
    expect(use.sent.packets).toBe(kernel.sent);
    expect(use.sent.bytes).toBe(kernel.sent * PACKET_BYTES);
  });

  it("does not take the rate of a burst for longer than it was watched", () => {
    const use = new OutboundUse();
    const kernel = new Kernel();
    kernel.left = 1_000n;
    use.looked(kernel.read(), 0);
    kernel.send(20);
    use.looked(kernel.read(), 1);
    Object.assign(kernel, { oseq: 5_000n, left: 100n });
    use.installed(5_001n, kernel.read(), 26);
    expect(use.sent.packets).toBe(40n);
  });

  it("starts with what the kernel says at first, and takes that for no packet of its own", () => {
    const use = new OutboundUse();
    use.looked({ oseq: 700n, leftNumbers: 3n, lastSendable: 703n, bytes: 9_000n }, 0);
    use.looked({ oseq: 702n, leftNumbers: 1n, lastSendable: 703n, bytes: 9_200n }, 1);
    expect(use.sent).toEqual({
      bytes: 200n,
      packets: 2n,
      start: { bytes: 9_000n, number: 700n },
      now: { bytes: 9_200n, number: 702n },
    });
  });

  it("leaves out what a state that is taken away had left, and goes on with the next one", () => {
    const use = new OutboundUse();
    use.born(1n, 101n, 0);
    use.looked({ oseq: 5n, leftNumbers: 95n, lastSendable: 100n, bytes: 500n }, 1);
    use.retired();
    // A reading that was under way finds no state.
    use.ended(null);
    expect(use.sent).toMatchObject({ packets: 5n, bytes: 500n });
    use.born(201n, 301n, 2);
    use.looked({ oseq: 203n, leftNumbers: 97n, lastSendable: 300n, bytes: 300n }, 3);
    expect(use.sent).toMatchObject({ packets: 8n, bytes: 800n, now: { number: 203n } });
  });
});
