import { concatBytes, u32be } from "../../src/core/bytes.ts";
import { Secret } from "../../src/core/secret.ts";
import { dhGroup } from "../../src/crypto/dh.ts";
import { identityPayload } from "../../src/ike/identity.ts";
import { deriveIkeKeys, deriveRekeyedIkeKeys, pskAuth, type IkeKeys } from "../../src/ike/keys.ts";
import { chooseIke, espTransforms, ikeTransforms } from "../../src/ike/proposal.ts";
import { hostSelector, selectorPayload } from "../../src/ike/selectors.ts";
import type { IkeSuite } from "../../src/ike/suite.ts";
import { AUTH_METHOD, ESN, EXCHANGE, NOTIFY, PROTOCOL } from "../../src/ike/wire/constants.ts";
import { openedPayloads, openMessage, type SealingKey } from "../../src/ike/wire/encrypted.ts";
import { encodeIdentification } from "../../src/ike/wire/identification.ts";
import { decodeMessage, encodeMessage } from "../../src/ike/wire/message.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { requirePayload, type Payload } from "../../src/ike/wire/payload.ts";
import { CLIENT, DVIPA } from "../exchange/lab.ts";
import { sealAnything, type Content } from "./sealed.ts";

/** Stand in a case for the SPIs of the IKE SA, and for what proves the peer's identity. */
export const SPI_I_MARK = new Uint8Array(8).fill(0xe1);
export const SPI_R_MARK = new Uint8Array(8).fill(0xe2);
const AUTH_MARK = new Uint8Array(32).fill(0xa5);
/** The peer's inbound SPI of its first Child SA. */
const PEER_ESP_SPI = 0xc0ffee01;
export const PEER_PSK = new TextEncoder().encode("a shared key for tests");

const IDENTITY = "moon.lab";
const NONCE = new Uint8Array(32).fill(0x11);

const ESP_PROPOSAL = (group: number | null): Payload => ({
  kind: "sa",
  proposals: [
    {
      number: 1,
      protocol: PROTOCOL.ESP,
      spi: u32be(PEER_ESP_SPI),
      transforms: espTransforms({ kind: "aes-gcm-16", keyBits: 128 }, group, [ESN.NO]),
    },
  ],
});
const SELECTORS = [selectorPayload("tsi", [hostSelector(CLIENT)]), selectorPayload("tsr", [hostSelector(DVIPA)])];

/** What a good peer says in IKE_AUTH, as either end; AUTH is a mark. */
export function authContent(side: "initiator" | "responder"): Payload[] {
  const auth: Payload = { kind: "auth", method: AUTH_METHOD.SHARED_KEY, data: AUTH_MARK };
  const child = [notify(NOTIFY.USE_TRANSPORT_MODE), ESP_PROPOSAL(null)];
  if (side === "initiator") return [identityPayload("idi", IDENTITY), auth, ...child, ...SELECTORS];
  const back = [selectorPayload("tsi", [hostSelector(DVIPA)]), selectorPayload("tsr", [hostSelector(CLIENT)])];
  return [identityPayload("idr", IDENTITY), auth, ...child, ...back];
}

/** Other requests of a peer, and its answers to ours. */
export function goodContents(suite: IkeSuite): Payload[][] {
  const rekey: Payload = { ...notify(NOTIFY.REKEY_SA), protocol: PROTOCOL.ESP, spi: u32be(PEER_ESP_SPI) };
  const nonce: Payload = { kind: "nonce", nonce: NONCE };
  const ke: Payload = { kind: "ke", group: 31, value: dhGroup(31)?.generate().publicValue ?? new Uint8Array(32) };
  const ike: Payload = {
    kind: "sa",
    proposals: [
      { number: 1, protocol: PROTOCOL.IKE, spi: new Uint8Array(8).fill(7), transforms: ikeTransforms(suite) },
    ],
  };
  const transport = notify(NOTIFY.USE_TRANSPORT_MODE);
  return [
    [],
    [{ kind: "delete", protocol: PROTOCOL.ESP, spis: [u32be(PEER_ESP_SPI)] }],
    [{ kind: "delete", protocol: PROTOCOL.IKE, spis: [] }],
    [rekey, transport, ESP_PROPOSAL(null), nonce, ...SELECTORS],
    [transport, ESP_PROPOSAL(31), nonce, ke, ...SELECTORS],
    [ike, nonce, ke],
    [notify(NOTIFY.INVALID_KE_PAYLOAD, Uint8Array.of(0, 14))],
    [notify(NOTIFY.TEMPORARY_FAILURE)],
    [notify(NOTIFY.CHILD_SA_NOT_FOUND)],
    [notify(NOTIFY.INVALID_SYNTAX)],
    [notify(NOTIFY.INITIAL_CONTACT), ...authContent("initiator")],
  ];
}

/** One IKE SA as the peer sees it: what it takes to send things that the core must read. */
export class FuzzPeer {
  readonly spiI: Uint8Array;
  spiR: Uint8Array;
  readonly suite: IkeSuite;
  readonly isInitiator: boolean;
  nextId: number;
  #keys: IkeKeys | null = null;
  #request: Uint8Array = new Uint8Array(0);
  #response: Uint8Array = new Uint8Array(0);
  #nonceI: Uint8Array = NONCE;
  #nonceR: Uint8Array = NONCE;
  #sealed = 0n;
  readonly #pair = dhGroup(31)?.generate();

  private constructor(isInitiator: boolean, suite: IkeSuite, spiI: Uint8Array, spiR: Uint8Array, nextId: number) {
    this.isInitiator = isInitiator;
    this.suite = suite;
    this.spiI = spiI;
    this.spiR = spiR;
    this.nextId = nextId;
  }

  static initiator(suite: IkeSuite, spiI: Uint8Array): FuzzPeer {
    return new FuzzPeer(true, suite, spiI, new Uint8Array(8), 1);
  }

  /** Answers the core's IKE_SA_INIT; the answer is {@link initResponse}. */
  static responder(request: Uint8Array, spiR: Uint8Array): FuzzPeer {
    const { header, payloads } = decodeMessage(request);
    const ke = requirePayload(payloads, "ke");
    const { suite, answer } = chooseIke(requirePayload(payloads, "sa"), ke.group, 0, null);
    const peer = new FuzzPeer(false, suite, header.spiI.slice(), spiR, 0);
    peer.#request = request;
    peer.#nonceI = requirePayload(payloads, "nonce").nonce;
    const pair = dhGroup(suite.group)?.generate();
    if (pair === undefined) throw new Error("no such group");
    peer.#response = encodeMessage(peer.#fields(EXCHANGE.IKE_SA_INIT, 0, true), [
      { kind: "sa", proposals: [{ ...answer, spi: new Uint8Array(0) }] },
      { kind: "ke", group: suite.group, value: pair.publicValue },
      { kind: "nonce", nonce: NONCE },
      notify(NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED),
    ]);
    peer.#derive(pair.agree(ke.value));
    return peer;
  }

  initRequest(): Uint8Array {
    this.#request = encodeMessage(this.#fields(EXCHANGE.IKE_SA_INIT, 0, false), [
      {
        kind: "sa",
        proposals: [
          { number: 1, protocol: PROTOCOL.IKE, spi: new Uint8Array(0), transforms: ikeTransforms(this.suite) },
        ],
      },
      { kind: "ke", group: 31, value: this.#pair?.publicValue ?? new Uint8Array(32) },
      { kind: "nonce", nonce: NONCE },
      notify(NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED),
      notify(NOTIFY.SIGNATURE_HASH_ALGORITHMS, Uint8Array.of(0, 2, 0, 5)),
    ]);
    return this.#request;
  }

  get initResponse(): Uint8Array {
    return this.#response;
  }

  readInit(response: Uint8Array): void {
    const { header, payloads } = decodeMessage(response);
    this.spiR = header.spiR.slice();
    this.#response = response;
    this.#nonceR = requirePayload(payloads, "nonce").nonce;
    const shared = this.#pair?.agree(requirePayload(payloads, "ke").value);
    if (shared === undefined) throw new Error("no key pair");
    this.#derive(shared);
  }

  #derive(shared: Secret): void {
    const { spiI, spiR } = this;
    this.#keys = deriveIkeKeys(this.suite, shared, { nonceI: this.#nonceI, nonceR: this.#nonceR, spiI, spiR });
  }

  /** The IKE SA that the core made out of this one at our request. */
  rekeyed(request: readonly Payload[], response: Uint8Array, pair: ReturnType<typeof dhPair>): FuzzPeer {
    const payloads = this.open(response);
    const spiI = requirePayload(request, "sa").proposals[0]?.spi ?? new Uint8Array(8);
    const spiR = requirePayload(payloads, "sa").proposals[0]?.spi ?? new Uint8Array(8);
    const heir = new FuzzPeer(true, this.suite, spiI, spiR, 0);
    const nonces = { nonceI: requirePayload(request, "nonce").nonce, nonceR: requirePayload(payloads, "nonce").nonce };
    const shared = pair.agree(requirePayload(payloads, "ke").value);
    heir.#keys = deriveRekeyedIkeKeys({ suite: this.suite, d: this.keys.d }, this.suite, shared, {
      ...nonces,
      spiI,
      spiR,
    });
    return heir;
  }

  get keys(): IkeKeys {
    if (this.#keys === null) throw new Error("no keys yet");
    return this.#keys;
  }

  get isReady(): boolean {
    return this.#keys !== null;
  }

  seal(exchange: number, messageId: number, isResponse: boolean, content: Content): Uint8Array {
    const key: SealingKey = this.isInitiator ? this.keys.initiator : this.keys.responder;
    this.#sealed += 1n;
    const bytes = this.#withAuth(content.bytes);
    return sealAnything(this.#fields(exchange, messageId, isResponse), { ...content, bytes }, key, this.#sealed);
  }

  open(bytes: Uint8Array): Payload[] {
    const [sealed] = decodeMessage(bytes).payloads;
    if (sealed?.kind !== "encrypted") throw new Error("not encrypted");
    return openedPayloads(openMessage(bytes, sealed, this.isInitiator ? this.keys.responder : this.keys.initiator));
  }

  /** A datagram of a case, with the real SPIs where it has the marks. */
  withSpis(bytes: Uint8Array): Uint8Array {
    const real = bytes.slice();
    for (const [mark, spi] of [
      [SPI_I_MARK, this.spiI],
      [SPI_R_MARK, this.spiR],
    ] as const) {
      const at = Buffer.from(real).indexOf(mark);
      if (at >= 0 && at <= 8) real.set(spi, at);
    }
    return real;
  }

  #withAuth(bytes: Uint8Array): Uint8Array {
    const at = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).indexOf(AUTH_MARK);
    if (at < 0) return bytes;
    const body = encodeIdentification(identityPayload(this.isInitiator ? "idi" : "idr", IDENTITY));
    const octets = this.isInitiator
      ? { message: this.#request, nonce: this.#nonceR, identity: body }
      : { message: this.#response, nonce: this.#nonceI, identity: body };
    const auth = pskAuth(
      this.suite,
      new Secret(PEER_PSK.slice()),
      this.isInitiator ? this.keys.pi : this.keys.pr,
      octets,
    );
    return concatBytes(bytes.subarray(0, at), auth, bytes.subarray(at + AUTH_MARK.length));
  }

  #fields(exchange: number, messageId: number, isResponse: boolean) {
    return { spiI: this.spiI, spiR: this.spiR, exchange, messageId, isResponse, fromInitiator: this.isInitiator };
  }
}

export function dhPair() {
  const pair = dhGroup(31)?.generate();
  if (pair === undefined) throw new Error("no X25519");
  return pair;
}
