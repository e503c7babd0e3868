/** A kernel of a few lines for the tests of the plan, and SAs to put into it. */
import { expect } from "vitest";
import { Secret } from "../../../src/core/secret.ts";
import { tunnelReqid } from "../../../src/net/ids.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import type { Current, Step } from "../../../src/xfrm/plan.ts";
import { policyKey, samePolicy, type KernelPolicy, type PolicySpec } from "../../../src/xfrm/policies.ts";
import { freshReplay } from "../../../src/xfrm/replay.ts";
import { shadowOf, type Wanted } from "../../../src/xfrm/shadow.ts";
import { stateKey, type KeyedKernelState, type StateSpec } from "../../../src/xfrm/states.ts";

/** The DVIPA of `sa`. */
export const V = "192.0.2.100";

export function sa(n: number, key: number): SharedSa {
  const half = (spi: number): SharedSa["inbound"] => ({
    spi,
    encryptionKey: new Secret(new Uint8Array(20).fill(key)),
    integrityKey: null,
  });
  const peer = `198.51.100.${n}`;
  return {
    id: `${n}`,
    dvipa: V,
    peer,
    peerName: `client ${n}`,
    mode: "transport",
    suite: { kind: "aes-gcm-16", keyBits: 128 },
    reqid: tunnelReqid(n),
    inbound: half(0x1000 + n),
    outbound: half(0x2000 + n),
    localSelectors: [hosts(V)],
    remoteSelectors: [hosts(peer)],
    peerWindowPackets: 32,
    inboundWindowPackets: 1024,
    esn: false,
    peerUdpPort: null,
  };
}

export function hosts(address: string): SharedSa["localSelectors"][number] {
  return { startAddress: address, endAddress: address, protocol: 0, startPort: 0, endPort: 65535 };
}

export function shadow(one: SharedSa): Wanted {
  return shadowOf(one, { outbound: { allowance: { kind: "parked" }, eventThresholdPackets: 8 } });
}

/** A kernel of a few lines: refuses what the real one refuses. */
export function perform(current: Current, steps: readonly Step[]): Current {
  const states = new Map(current.states.map((state) => [stateKey(state.id), state]));
  const policies = new Map(current.policies.map((policy) => [policyKey(policy), policy]));
  for (const step of steps) {
    switch (step.kind) {
      case "addState":
        expect(states.has(stateKey(step.state.id)), "EEXIST").toBe(false);
        states.set(stateKey(step.state.id), kernelState(step.state));
        break;
      case "movePorts": {
        const there = states.get(stateKey(step.state.id));
        expect(there?.encapsulation === null, "EINVAL").toBe(false);
        if (there === undefined) throw new Error("ESRCH");
        states.set(stateKey(step.state.id), { ...there, encapsulation: step.state.encapsulation });
        break;
      }
      case "deleteState":
        expect(states.delete(stateKey(step.id)), "ESRCH").toBe(true);
        break;
      case "deleteLarval":
        states.delete(stateKey(step.state.id));
        break;
      case "addPolicy":
        expect(policies.has(policyKey(step.policy)), "EEXIST").toBe(false);
        policies.set(policyKey(step.policy), kernelPolicy(step.policy));
        break;
      case "updatePolicy":
        policies.set(policyKey(step.policy), kernelPolicy(step.policy));
        break;
      case "deletePolicy":
        expect(policies.delete(policyKey(step.policy)), "ENOENT").toBe(true);
        break;
    }
  }
  return { states: [...states.values()], policies: [...policies.values()] };
}

function kernelState(spec: StateSpec): KeyedKernelState {
  const { id, source, mode, reqid, esn, suite, encryptionKey, integrityKey, replayWindowPackets, encapsulation } = spec;
  return {
    id,
    source,
    mode,
    reqid,
    esn,
    encapsulation,
    keyed: { suite, encryptionKey, integrityKey },
    replay: freshReplay(esn, replayWindowPackets, 0n),
    bytes: 0n,
    packets: 0n,
    hardPacketLimit: 0n,
    addTimeSeconds: 0n,
    useTimeSeconds: 0n,
    lastUsedSeconds: null,
    drops: { replayWindow: 0, replay: 0, integrity: 0 },
  };
}

function kernelPolicy(policy: PolicySpec): KernelPolicy {
  expect(samePolicy(policy, policy)).toBe(true);
  return { ...policy, index: 1, isForeign: false };
}
