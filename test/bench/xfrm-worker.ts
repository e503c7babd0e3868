/** Runs inside the namespace of `xfrm.main.ts`: installs and removes the same SAs by our reconciler and by iproute2, and times each. */
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../src/core/log.ts";
import { Secret } from "../../src/core/secret.ts";
import { tunnelReqid } from "../../src/net/ids.ts";
import type { SaHalf, SharedSa, TrafficSelector } from "../../src/sa/spec.ts";
import { listPolicies, policyKey } from "../../src/xfrm/policies.ts";
import { openXfrm, XfrmReconciler } from "../../src/xfrm/reconciler.ts";
import { dvipaGuard, joinWanted, shadowOf, type ShadowOptions, type Wanted } from "../../src/xfrm/shadow.ts";
import { listKeyedStates, stateKey, wipeKeys } from "../../src/xfrm/states.ts";
import { serve } from "../netns/support/serve.ts";
import { installLines, removeLines } from "./iproute2-batch.ts";

const DVIPA = "192.0.2.100";
const AES_128_AND_SALT_BYTES = 20;
const INBOUND_WINDOW_PACKETS = 1024;
const PARKED: ShadowOptions = { outbound: { allowance: { kind: "parked" }, eventThresholdPackets: 0 } };

/** What was in the kernel at one moment. */
export interface Contents {
  readonly states: number;
  readonly policies: number;
  /** Over every name, key, selector, window and limit: two contents with the same digest are the same. */
  readonly digest: string;
}

const xfrm = openXfrm();
const reconciler = new XfrmReconciler(xfrm, silentLog);
const guard: Wanted = { states: [], policies: dvipaGuard(DVIPA, "target") };
let sas: readonly SharedSa[] = [];
/** Come one at a time when the others are there. */
let late: readonly SharedSa[] = [];

const handlers = {
  prepare: ({ count, lateCount }: { count: number; lateCount: number }) => {
    sas = Array.from({ length: count }, (_, index) => randomSa(index));
    late = Array.from({ length: lateCount }, (_, index) => randomSa(count + index));
  },
  installByUs: () => timed(() => reconciler.apply(joinWanted(guard, ...sas.map((sa) => shadowOf(sa, PARKED))))),
  removeByUs: () => timed(() => reconciler.clear()),
  installByIp: async () => timedBatch(installLines(joinWanted(guard, ...sas.map((sa) => shadowOf(sa, PARKED))))),
  removeByIp: async () => timedBatch(removeLines(joinWanted(guard, ...sas.map((sa) => shadowOf(sa, PARKED))))),
  lateByUs: () =>
    timed(async () => {
      for (const sa of late)
        await reconciler.change({ wanted: shadowOf(sa, PARKED), gone: { states: [], policies: [] } });
      for (const sa of late) {
        const { states, policies } = shadowOf(sa, PARKED);
        const gone = { states: states.map(({ id }) => id), policies };
        await reconciler.change({ wanted: { states: [], policies: [] }, gone });
      }
    }),
  lateByIp: async () => {
    const wanted = late.map((sa) => shadowOf(sa, PARKED));
    return timedBatch([...wanted.flatMap(installLines), ...wanted.flatMap(removeLines)]);
  },
  contents,
};

export type XfrmBenchHandlers = typeof handlers;
serve(handlers);

function randomSa(index: number): SharedSa {
  const peer = `10.${(index >> 16) & 0xff}.${(index >> 8) & 0xff}.${index & 0xff}`;
  const only = (address: string): TrafficSelector[] => [
    { startAddress: address, endAddress: address, protocol: 0, startPort: 0, endPort: 65535 },
  ];
  const half = (spi: number): SaHalf => ({
    spi,
    encryptionKey: new Secret(randomBytes(AES_128_AND_SALT_BYTES)),
    integrityKey: null,
  });
  return {
    id: index.toString(16).padStart(32, "0"),
    dvipa: DVIPA,
    peer,
    peerName: `peer-${index}`,
    mode: "transport",
    suite: { kind: "aes-gcm-16", keyBits: 128 },
    reqid: tunnelReqid(index + 1),
    inbound: half(0x100000 + index),
    outbound: half(0x200000 + index),
    localSelectors: only(DVIPA),
    remoteSelectors: only(peer),
    peerWindowPackets: 32,
    inboundWindowPackets: INBOUND_WINDOW_PACKETS,
    esn: false,
    peerUdpPort: null,
  };
}

/** Seconds. */
async function timed(work: () => Promise<unknown>): Promise<number> {
  const beforeMs = performance.now();
  await work();
  return (performance.now() - beforeMs) / 1000;
}

/** From the start of `ip -batch -` to its end; the lines, which hold keys, wait in a file without a name. */
async function timedBatch(lines: readonly string[]): Promise<number> {
  const directory = await mkdtemp(join(tmpdir(), "esplex-bench-"));
  const path = join(directory, "batch");
  const written = await open(path, "wx", 0o600);
  await written.writeFile(`${lines.join("\n")}\n`);
  await written.close();
  const file = await open(path, "r");
  await rm(directory, { recursive: true });
  try {
    return await timed(async () => {
      const child = spawn("ip", ["-batch", "-"], { stdio: [file.fd, "ignore", "pipe"] });
      let complaint = "";
      child.stderr?.setEncoding("utf8").on("data", (text: string) => (complaint = (complaint + text).slice(0, 1000)));
      const [status] = (await once(child, "close")) as [number | null];
      if (status !== 0) throw new Error(`ip -batch ended with ${status}: ${complaint}`);
    });
  } finally {
    await file.close();
  }
}

async function contents(): Promise<Contents> {
  const states = await listKeyedStates(xfrm);
  const policies = await listPolicies(xfrm);
  const lines = [
    ...states.map((state) => {
      const { keyed, source, mode, reqid, esn, replay, hardPacketLimit } = state;
      const { isLegacy, windowPackets } = replay;
      const key = createHash("sha256")
        .update(keyed?.encryptionKey.expose() ?? "not ours")
        .digest("hex");
      return [stateKey(state.id), source, mode, reqid, esn, isLegacy, windowPackets, hardPacketLimit, key].join(" ");
    }),
    ...policies.map((policy) => {
      const { action, priority, template, isForeign } = policy;
      return [policyKey(policy), action, priority, JSON.stringify(template), isForeign].join(" ");
    }),
  ];
  wipeKeys(states);
  const digest = createHash("sha256").update(lines.sort().join("\n")).digest("hex");
  return { states: states.length, policies: policies.length, digest };
}
