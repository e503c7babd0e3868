import { fromHex, u32be } from "../../src/core/bytes.ts";
import { Secret } from "../../src/core/secret.ts";
import type { IkeCommand, Path } from "../../src/ike/events.ts";
import type { IkeSuite } from "../../src/ike/suite.ts";
import { EXCHANGE } from "../../src/ike/wire/constants.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { encodePayloads, findPayload, type Payload } from "../../src/ike/wire/payload.ts";
import { parseCertificate } from "../../src/x509/certificate.ts";
import { CBC_SUITE, CLIENT, DVIPA, peerConfig } from "../exchange/lab.ts";
import { trustIn } from "../support/certificates.ts";
import type { SeededRandom } from "../fault/random.ts";
import { CoreWorld } from "./core-world.ts";
import {
  ACTIONS,
  decodeEpisode,
  encodeEpisode,
  EXCHANGES,
  SCENES,
  type Action,
  type Episode,
  type EpisodeStep,
} from "./episode.ts";
import { authContent, dhPair, FuzzPeer, goodContents, PEER_PSK, SPI_I_MARK, SPI_R_MARK } from "./fuzz-peer.ts";
import { mutate, mutated, oneOf } from "./mutate.ts";
import { readCertificateSeeds, readIkeSeeds, type Chain } from "./seeds.ts";
import type { Target } from "./target.ts";

const CHACHA: IkeSuite = { cipher: { kind: "chacha20-poly1305" }, prf: "hmac-sha2-256", group: 31 };
const GCM: IkeSuite = { cipher: { kind: "aes-gcm-16", keyBits: 128 }, prf: "hmac-sha2-256", group: 31 };
const SUITES = [CBC_SUITE, GCM, CHACHA];
const STEPS_MAX = 8;
const PASS_MAX_MS = 200_000;
/** One core lives this long, so that what it keeps wrongly shows. */
const EPISODES_PER_CORE = 2_000;
const NOW_MS = Date.UTC(2026, 10, 25);

const at = (address: string, port: number): Path => ({
  local: { address: DVIPA, port: port === 500 ? 500 : 4500 },
  remote: { address, port },
});
/** The peer first; then from elsewhere, and to an address that is no DVIPA. */
const PATHS: readonly Path[] = [
  ...[500, 4500, 40_000].map((port) => at(CLIENT, port)),
  ...["198.51.100.8", "203.0.113.9", "2001:db8::7"].map((address) => at(address, 500)),
  { local: { address: "192.0.2.99", port: 500 }, remote: { address: CLIENT, port: 500 } },
];

/** The whole core with a peer that it has to believe, and strangers. */
export function coreTarget(): Target {
  const seeds = episodeSeeds();
  const peers = corePeers();
  let world = new CoreWorld(peers, NOW_MS);
  let episodes = 0;
  return {
    name: "core",
    make: (random) => encodeEpisode(randomEpisode(random, seeds)),
    run: (bytes) => {
      const episode = decodeEpisode(bytes);
      if (episodes++ % EPISODES_PER_CORE === 0) world = new CoreWorld(peers, NOW_MS);
      try {
        return play(world, episode);
      } catch (error) {
        // The next case must not suffer from what this one broke.
        episodes = 0;
        throw error;
      }
    },
  };
}

function corePeers() {
  const { authority } = readCertificateSeeds();
  const anchors = [authority, ...readIkeSeeds().certificates].map(parseCertificate);
  const trust = { ...trustIn([]), anchors };
  return [
    peerConfig({ auth: { kind: "psk", psk: new Secret(PEER_PSK.slice()) }, ikeSuites: SUITES }),
    peerConfig({ name: "others", address: "any", remoteIdentity: "*.lab", auth: { kind: "certificate", trust } }),
  ];
}

/** A content with the place in `EXCHANGES` of the exchange that it belongs in. */
interface ContentSeed extends Chain {
  readonly exchange: number;
}

interface EpisodeSeeds {
  readonly datagrams: readonly Uint8Array[];
  readonly contents: readonly ContentSeed[];
}

function episodeSeeds(): EpisodeSeeds {
  const seeds = readIkeSeeds();
  const marked = seeds.messages.map((message) => {
    const changed = message.slice();
    changed.set(SPI_I_MARK, 0);
    if (changed.subarray(8, 16).some((byte) => byte !== 0)) changed.set(SPI_R_MARK, 8);
    return changed;
  });
  const good = [authContent("initiator"), authContent("responder"), ...goodContents(CBC_SUITE)].map((payloads) => ({
    ...chainOf(payloads),
    exchange: EXCHANGES.indexOf(exchangeOf(payloads)),
  }));
  const captured = seeds.chains.map((chain) => ({ ...chain, exchange: EXCHANGES.indexOf(EXCHANGE.IKE_AUTH) }));
  return { datagrams: [...seeds.messages, ...marked], contents: [...good, ...good, ...captured] };
}

function exchangeOf(payloads: readonly Payload[]): number {
  if (findPayload(payloads, "auth") !== undefined) return EXCHANGE.IKE_AUTH;
  return findPayload(payloads, "sa") === undefined ? EXCHANGE.INFORMATIONAL : EXCHANGE.CREATE_CHILD_SA;
}

function chainOf(payloads: readonly Payload[]): Chain {
  const { firstType, bytes } = encodePayloads(payloads);
  return { firstType, bytes };
}

function randomEpisode(random: SeededRandom, seeds: EpisodeSeeds): Episode {
  const count = random.between(1, STEPS_MAX + 1);
  const steps = Array.from({ length: count }, () => randomStep(random, seeds));
  return { scene: oneOf(random, SCENES), suite: random.between(0, 6), steps };
}

/** What comes from the network is tried most. */
const WEIGHTS: readonly Action[] = [...ACTIONS, "request", "request", "request", "response", "datagram", "fragment"];

function randomStep(random: SeededRandom, seeds: EpisodeSeeds): EpisodeStep {
  const action = oneOf(random, WEIGHTS);
  return { action, choice: random.between(0, 256), body: randomBody(action, random, seeds) };
}

function randomBody(action: Action, random: SeededRandom, seeds: EpisodeSeeds): Uint8Array {
  switch (action) {
    case "datagram":
      return mutated(random, seeds.datagrams);
    case "request":
    case "response":
    case "damagedRequest":
    case "fragment": {
      const { firstType, bytes, exchange } = oneOf(random, seeds.contents);
      const isChanged = random.between(0, 4) > 0;
      const others = seeds.contents.map((chain) => chain.bytes);
      const content = isChanged ? mutate(random, bytes, others) : bytes;
      const type = random.between(0, 20) === 0 ? random.between(0, 256) : firstType;
      const isElsewhere = random.between(0, 6) === 0;
      const place = [isElsewhere ? random.between(0, EXCHANGES.length) : exchange, random.between(0, 4)];
      return Uint8Array.from([...place, type, ...content]);
    }
    case "timePasses":
      return u32be(random.between(0, PASS_MAX_MS));
    default:
      return new Uint8Array(0);
  }
}

/** Plays an episode; throws when the core does, or breaks one of the rules of {@link CoreWorld}. */
function play(world: CoreWorld, episode: Episode): string[] {
  world.begin(episode.suite + 256 * episode.steps.length);
  const stage = setScene(world, episode);
  world.checkBounds();
  for (const step of episode.steps) {
    act(world, stage, step);
    world.checkBounds();
  }
  world.end();
  return world.counts;
}

/** The peer, and the request of the core that waits for its answer. */
interface Stage {
  readonly peer: FuzzPeer;
}

const PEER_SPI = fromHex("0123456789abcdef");
const SCENE_PATH = PATHS[0] ?? at(CLIENT, 500);

function setScene(world: CoreWorld, { scene, suite: choice }: Episode): Stage {
  const suite = SUITES[choice % SUITES.length] ?? GCM;
  if (scene === "weAskInit" || scene === "weAuthenticate") return initiateScene(world, scene);
  const peer = FuzzPeer.initiator(suite, PEER_SPI);
  const stage = { peer };
  if (scene === "nothing") return stage;
  world.deliver(SCENE_PATH, peer.initRequest());
  const [response] = world.takeSent();
  if (response === undefined) throw new Error("IKE_SA_INIT was not answered");
  peer.readInit(response);
  if (scene === "halfOpen") return stage;
  ask(world, peer, EXCHANGE.IKE_AUTH, authContent("initiator"));
  if (world.core.snapshot().ikeSas.at(-1)?.children.length !== 1) throw new Error("the peer is not up");
  if (scene === "peerRekeyedIke") return rekeyedScene(world, peer, choice % 2 === 0);
  const [ikeSa] = world.core.snapshot().ikeSas;
  const saId = ikeSa?.children[0]?.saId ?? "";
  if (scene === "weRekeyIke") world.command({ kind: "rekeyIke", ikeSaId: ikeSa?.id ?? "" });
  if (scene === "weRekeyChild") world.command({ kind: "rekeyChild", saId });
  if (scene === "deleting") world.command({ kind: "deleteIke", ikeSaId: ikeSa?.id ?? "" });
  return stage;
}

function initiateScene(world: CoreWorld, scene: "weAskInit" | "weAuthenticate"): Stage {
  world.command({ kind: "initiate", peerName: "client", dvipa: null });
  const [request] = world.takeSent();
  if (request === undefined) throw new Error("nothing was initiated");
  const peer = FuzzPeer.responder(request, PEER_SPI);
  if (scene === "weAuthenticate") world.deliver(SCENE_PATH, peer.initResponse);
  return { peer };
}

/** The peer goes on with the old IKE SA, or with its heir. */
function rekeyedScene(world: CoreWorld, peer: FuzzPeer, withOld: boolean): Stage {
  const pair = dhPair();
  const payloads = goodContents(peer.suite)[5]?.map((payload) =>
    payload.kind === "ke" ? { ...payload, value: pair.publicValue } : payload,
  );
  const [answer] = ask(world, peer, EXCHANGE.CREATE_CHILD_SA, payloads ?? []);
  if (answer === undefined || payloads === undefined) throw new Error("the rekey was not answered");
  return { peer: withOld ? peer : peer.rekeyed(payloads, answer, pair) };
}

function ask(world: CoreWorld, peer: FuzzPeer, exchange: number, payloads: readonly Payload[]): Uint8Array[] {
  world.takeSent();
  const content = { ...chainOf(payloads), fragment: null };
  world.deliver(SCENE_PATH, peer.seal(exchange, peer.nextId++, false, content));
  return world.takeSent();
}

function act(world: CoreWorld, { peer }: Stage, { action, choice, body }: EpisodeStep): void {
  const path = PATHS[choice % (PATHS.length * 3)] ?? SCENE_PATH;
  const exchange = EXCHANGES[(body[0] ?? 0) % EXCHANGES.length] ?? EXCHANGE.INFORMATIONAL;
  const content = { firstType: body[2] ?? 0, bytes: body.subarray(3), fragment: null };
  switch (action) {
    case "datagram":
      world.deliver(path, peer.withSpis(body));
      return;
    case "request":
      if (peer.isReady) world.deliver(path, peer.seal(exchange, peer.nextId++, false, content));
      return;
    case "damagedRequest": {
      if (!peer.isReady) return;
      const sealed = peer.seal(exchange, peer.nextId, false, content);
      const place = (choice * 7) % sealed.length;
      world.deliver(path, sealed.with(place, (sealed[place] ?? 0) ^ (1 << ((body[1] ?? 0) % 8))));
      return;
    }
    case "response":
      respondToAll(world, peer, path, content);
      return;
    case "fragment": {
      if (!peer.isReady) return;
      const fragment = [(body[1] ?? 0) + (choice & 1), 1 + (choice & 3)] as const;
      world.deliver(path, peer.seal(exchange, peer.nextId, false, { ...content, fragment }));
      return;
    }
    case "timePasses":
      world.pass(Buffer.from(body).readUIntBE(0, Math.min(4, Math.max(1, body.length))) % PASS_MAX_MS);
      return;
    case "installations":
      world.install = (["ok", "fail", "never"] as const)[choice % 3] ?? "ok";
      return;
    case "command":
      world.command(commandOf(world, choice));
      return;
    case "hint":
      world.step(hintOf(world, choice));
  }
}

/** Answers what the core has asked and nobody answered yet. */
function respondToAll(
  world: CoreWorld,
  peer: FuzzPeer,
  path: Path,
  content: { firstType: number; bytes: Uint8Array },
): void {
  for (const bytes of world.takeSent()) {
    const { header } = decodeMessage(bytes);
    if (header.isResponse || !peer.isReady) continue;
    world.deliver(path, peer.seal(header.exchange, header.messageId, true, { ...content, fragment: null }));
  }
}

function commandOf(world: CoreWorld, choice: number): IkeCommand {
  const ikeSaId = world.core.snapshot().ikeSas[0]?.id ?? "none";
  const saId = world.anySa;
  const commands: readonly IkeCommand[] = [
    { kind: "rekeyChild", saId },
    { kind: "rekeyIke", ikeSaId },
    { kind: "initiate", peerName: "client", dvipa: null },
    { kind: "initiateAll" },
    { kind: "deleteChild", saId },
    { kind: "deleteIke", ikeSaId },
    { kind: "deletePeer", peerName: "client" },
  ];
  return commands[choice % commands.length] ?? { kind: "deleteAll" };
}

function hintOf(world: CoreWorld, choice: number) {
  const { nowMs, anySa: saId } = world;
  const protocol = choice % 4 === 0 ? "ah" : "esp";
  const unknown = { protocol, peer: CLIENT, dvipa: DVIPA, spi: choice } as const;
  if (choice % 2 === 0) return { kind: "unknownEsp", nowMs, ...unknown } as const;
  return { kind: "childUsed", nowMs, saId, bytes: 1n << BigInt(choice % 64), packets: BigInt(choice) } as const;
}
