import { ByteReader, concatBytes, u16be } from "../../src/core/bytes.ts";
import { EXCHANGE } from "../../src/ike/wire/constants.ts";

/** What the core and its peer have been through when an episode begins. */
export const SCENES = [
  "nothing",
  "halfOpen",
  "established",
  "weRekeyIke",
  "weRekeyChild",
  "weAskInit",
  "weAuthenticate",
  "peerRekeyedIke",
  "deleting",
] as const;
export type Scene = (typeof SCENES)[number];

/** What may happen in an episode. */
export const ACTIONS = [
  /** A datagram with these bytes. */
  "datagram",
  /** A request of the authenticated peer with this content. */
  "request",
  /** The peer's answer to our request that is on the wire. */
  "response",
  /** A fragment of the peer's next request. */
  "fragment",
  /** As `request`, with one bit changed after it was sealed. */
  "damagedRequest",
  "timePasses",
  "command",
  "installations",
  "hint",
] as const;
export type Action = (typeof ACTIONS)[number];

export const EXCHANGES = [
  EXCHANGE.IKE_AUTH,
  EXCHANGE.CREATE_CHILD_SA,
  EXCHANGE.INFORMATIONAL,
  EXCHANGE.IKE_SA_INIT,
  99,
];

export interface EpisodeStep {
  readonly action: Action;
  /** Chooses a path, an exchange, a command: taken modulo how many there are. */
  readonly choice: number;
  readonly body: Uint8Array;
}

/** A case of the whole core. In bytes: scene, suite, then for each step its action, its choice, the length of its body and the body. */
export interface Episode {
  readonly scene: Scene;
  /** Chooses among the IKE suites. */
  readonly suite: number;
  readonly steps: readonly EpisodeStep[];
}

export function encodeEpisode({ scene, suite, steps }: Episode): Uint8Array {
  const parts = steps.map(({ action, choice, body }) =>
    concatBytes(new Uint8Array([ACTIONS.indexOf(action), choice]), u16be(body.length), body),
  );
  return concatBytes(new Uint8Array([SCENES.indexOf(scene), suite]), ...parts);
}

/** Takes any bytes that {@link encodeEpisode} may have made. Throws `wire.short`. */
export function decodeEpisode(bytes: Uint8Array): Episode {
  const reader = new ByteReader(bytes, "episode");
  const scene = SCENES[reader.u8() % SCENES.length] ?? "nothing";
  const suite = reader.u8();
  const steps: EpisodeStep[] = [];
  while (reader.remaining > 0) {
    const action = ACTIONS[reader.u8() % ACTIONS.length] ?? "datagram";
    const choice = reader.u8();
    steps.push({ action, choice, body: reader.bytes(reader.u16()) });
  }
  return { scene, suite, steps };
}
