/**
 * A responder for the benchmarks of IKE: the runner and the core of the product at their own address, with the reconciler below them
 * when the kernel can do IPsec. Started with one argument (`ResponderOrder` in JSON); each line on stdin asks for one line of JSON.
 */
import { createInterface } from "node:readline";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { randomBytes } from "node:crypto";
import { systemClock } from "../../src/core/clock.ts";
import { Counters } from "../../src/core/counters.ts";
import { silentLog } from "../../src/core/log.ts";
import { Secret } from "../../src/core/secret.ts";
import { SigningKey } from "../../src/crypto/signature.ts";
import { IkeRunner, type ChildSaActions } from "../../src/daemons/node/ike-runner.ts";
import { IkeCore } from "../../src/ike/core.ts";
import type { IkeCredential, IkePeerConfig } from "../../src/ike/environment.ts";
import { DEFAULT_IKE_SETTINGS } from "../../src/ike/settings.ts";
import { tunnelReqid } from "../../src/net/ids.ts";
import { CertificateCache } from "../../src/x509/certificate-cache.ts";
import { parseCertificate } from "../../src/x509/certificate.ts";
import { openXfrm, XfrmReconciler } from "../../src/xfrm/reconciler.ts";
import { shadowOf } from "../../src/xfrm/shadow.ts";
import { peerConfig } from "../exchange/lab.ts";
import {
  BENCH_PSK,
  CERTIFICATE_CLIENT,
  clientAddress,
  OUR_ADDRESS,
  PSK_CLIENT,
  type ResponderOrder,
} from "./ike-lab.ts";

const order = JSON.parse(process.argv[2] ?? "") as ResponderOrder;
const collectGarbage = ((): (() => void) => {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
})();

let nextSpi = 0x1000;
let nextTunnel = 1;
const peers = order.clients === 0 ? ratePeers() : Array.from({ length: order.clients }, (_, i) => standingPeer(i));
const credentials: readonly IkeCredential[] = [
  {
    chain: [parseCertificate(Buffer.from(order.certificate, "hex"))],
    key: SigningKey.fromPem(Buffer.from(order.key)),
  },
];
const counters = new Counters();
/** All clients of a rate test share an identity, come from a few addresses, and stay. */
const NO_LIMIT = 1_000_000;
const core = new IkeCore(
  {
    randomBytes: (lengthBytes) => new Uint8Array(randomBytes(lengthBytes)),
    newSpi: () => nextSpi++,
    newReqid: () => tunnelReqid(nextTunnel++),
    dvipas: () => [OUR_ADDRESS],
    peers: () => peers,
    credentials: () => credentials,
    wallClockMs: () => order.wallClockMs,
  },
  {
    timing: DEFAULT_IKE_SETTINGS.timing,
    limits: { ...DEFAULT_IKE_SETTINGS.limits, ikeSasPerPeer: NO_LIMIT },
  },
);
const runner = new IkeRunner(core, order.kernel ? kernelActions() : noActions(), systemClock, counters, silentLog);
await runner.start([OUR_ADDRESS]);
process.stdout.write("ready\n");

createInterface({ input: process.stdin })
  .on("line", tell)
  .on("close", () => process.exit(0));

function tell(): void {
  collectGarbage();
  const up = runner.summaries().filter(({ state }) => state === "established").length;
  const answer = { rssKb: process.memoryUsage.rss() / 1024, up, counters: counters.snapshot() };
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

function ratePeers(): IkePeerConfig[] {
  const trust = {
    anchors: [parseCertificate(Buffer.from(order.authority, "hex"))],
    revocationLists: [],
    revocation: "relaxed",
    otherUsages: [],
    known: new CertificateCache(),
  } as const;
  const common = { address: "any", modes: ["transport", "tunnel"] } as const;
  return [
    peerConfig({ ...common, name: "psk", remoteIdentity: PSK_CLIENT, auth: { kind: "psk", psk: psk() } }),
    peerConfig({ ...common, name: "ecdsa", remoteIdentity: CERTIFICATE_CLIENT, auth: { kind: "certificate", trust } }),
  ];
}

function standingPeer(index: number): IkePeerConfig {
  const address = clientAddress(index);
  return peerConfig({
    ...{ name: `c${index}`, address, remoteIdentity: address, modes: ["transport"] },
    auth: { kind: "psk", psk: psk() },
    childLifetime: { timeMs: 3_600_000, bytes: null, packets: null },
    ikeLifetimeMs: 14_400_000,
  });
}

function psk(): Secret {
  return new Secret(new TextEncoder().encode(BENCH_PSK));
}

function noActions(): ChildSaActions {
  const done = (): Promise<void> => Promise.resolve();
  return { install: done, useOutbound: done, untilSwitched: done, remove: done, movePeer: done };
}

/** As the node does it, without the numbers: the outbound state has none to send. */
function kernelActions(): ChildSaActions {
  const reconciler = new XfrmReconciler(openXfrm(), silentLog);
  const gone = { states: [], policies: [] };
  return {
    ...noActions(),
    install: async (sa) => {
      const wanted = shadowOf(sa, { outbound: { allowance: { kind: "parked" }, eventThresholdPackets: 0 } });
      const { conflicts } = await reconciler.change({ wanted, gone });
      if (conflicts.length > 0) throw new Error(JSON.stringify(conflicts));
    },
  };
}
