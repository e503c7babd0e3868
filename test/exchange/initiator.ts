import { randomBytes } from "node:crypto";
import { dhGroup, type DhKeyPair } from "../../src/crypto/dh.ts";
import { prf } from "../../src/crypto/prf.ts";
import { concatBytes, equalBytes, u32be } from "../../src/core/bytes.ts";
import type { Secret } from "../../src/core/secret.ts";
import type { TrafficSelector } from "../../src/sa/spec.ts";
import type { ChildSuite } from "../../src/sa/suite.ts";
import type { Path } from "../../src/ike/events.ts";
import { identityPayload } from "../../src/ike/identity.ts";
import { deriveChildKeys, deriveIkeKeys, deriveRekeyedIkeKeys, pskAuth, type IkeKeys } from "../../src/ike/keys.ts";
import { natDetectionNotifies } from "../../src/ike/nat.ts";
import { chooseEsp, chooseIke, espTransforms, ikeTransforms } from "../../src/ike/proposal.ts";
import { hostSelector, selectorPayload } from "../../src/ike/selectors.ts";
import { protocolIdOf, type IkeSuite } from "../../src/ike/suite.ts";
import { AUTH_METHOD, ESN, EXCHANGE, NOTIFY, PROTOCOL } from "../../src/ike/wire/constants.ts";
import {
  ivBytes,
  openedContent,
  openedPayloads,
  openMessage,
  sealFragments,
  sealMessage,
} from "../../src/ike/wire/encrypted.ts";
import { encodeIdentification, type IdentificationPayload } from "../../src/ike/wire/identification.ts";
import { decodeMessage, encodeMessage } from "../../src/ike/wire/message.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { decodePayloads, findNotify, findPayload, requirePayload, type Payload } from "../../src/ike/wire/payload.ts";
import type { Proposal } from "../../src/ike/wire/security-association.ts";

/** What the initiator wants; everything has a default that the responder of `lab.ts` accepts. */
export interface InitiatorOptions {
  readonly path: Path;
  readonly suites: readonly IkeSuite[];
  /** Group of the KE payload: the guess. */
  readonly group: number;
  readonly psk: Secret;
  readonly identity: string;
  readonly peerIdentity: string | null;
}

/** One Child SA as the initiator sees it. */
export interface InitiatorChild {
  readonly suite: ChildSuite;
  readonly esn: boolean;
  readonly spiIn: number;
  readonly spiOut: number;
  readonly toResponder: { readonly encryptionKey: Secret; readonly integrityKey: Secret | null };
  readonly toInitiator: { readonly encryptionKey: Secret; readonly integrityKey: Secret | null };
  readonly transport: boolean;
  readonly payloads: readonly Payload[];
}

/** What a Child SA is asked for with. */
export interface ChildWish {
  readonly suites: readonly ChildSuite[];
  readonly transport: boolean;
  readonly tsi: readonly TrafficSelector[];
  readonly tsr: readonly TrafficSelector[];
  readonly group: number | null;
  /** Ids of transform type 5, the preferred one first. */
  readonly numbers: readonly number[];
  /** The initiator's own SPI; default: a random one. */
  readonly spi?: number;
}

const random = (lengthBytes: number): Uint8Array => new Uint8Array(randomBytes(lengthBytes));

/** A small IKEv2 initiator for tests: builds requests, checks answers, keeps nothing on a wire. */
export class Initiator {
  readonly options: InitiatorOptions;
  spiI = random(8);
  spiR = new Uint8Array(8);
  suite: IkeSuite | null = null;
  /** True on an IKE SA that the other end has made by a rekey. */
  isResponder = false;
  nextId = 0;
  #keys: IkeKeys | null = null;
  #nonceI = random(32);
  #nonceR = new Uint8Array(0);
  #initRequest = new Uint8Array(0);
  #initResponse = new Uint8Array(0);
  #pair: DhKeyPair;

  constructor(options: InitiatorOptions) {
    this.options = options;
    this.#pair = groupOf(options.group).generate();
  }

  get keys(): IkeKeys {
    if (this.#keys === null) throw new Error("no keys yet");
    return this.#keys;
  }

  /** IKE_SA_INIT request: HDR(SPIi, 0), [N(COOKIE)], SAi1, KEi, Ni, N(NATD_S), N(NATD_D). */
  initRequest(extra: { cookie?: Uint8Array; natFrom?: Path["remote"]; before?: readonly Payload[] } = {}): Uint8Array {
    const { path, suites, group } = this.options;
    const spis = { spiI: this.spiI, spiR: new Uint8Array(8) };
    const fields = { ...spis, exchange: EXCHANGE.IKE_SA_INIT, fromInitiator: true, isResponse: false, messageId: 0 };
    const proposals = suites.map((suite, i) => proposal(i + 1, PROTOCOL.IKE, new Uint8Array(0), ikeTransforms(suite)));
    this.#initRequest = Uint8Array.from(
      encodeMessage(fields, [
        ...(extra.cookie === undefined ? [] : [notify(NOTIFY.COOKIE, extra.cookie)]),
        ...(extra.before ?? []),
        { kind: "sa", proposals },
        { kind: "ke", group, value: this.#pair.publicValue },
        { kind: "nonce", nonce: this.#nonceI },
        ...natDetectionNotifies(spis, extra.natFrom ?? path.remote, path.local),
      ]),
    );
    return this.#initRequest;
  }

  /** Takes the responder's IKE_SA_INIT and derives the keys. */
  readInit(bytes: Uint8Array): void {
    const { header, payloads } = decodeMessage(bytes);
    const [chosen] = requirePayload(payloads, "sa").proposals;
    this.suite = this.options.suites[(chosen?.number ?? 0) - 1] ?? null;
    if (this.suite === null) throw new Error("chosen proposal was not offered");
    this.spiR = Uint8Array.from(header.spiR);
    this.#initResponse = Uint8Array.from(bytes);
    this.#nonceR = Uint8Array.from(requirePayload(payloads, "nonce").nonce);
    const shared = this.#pair.agree(requirePayload(payloads, "ke").value);
    this.#keys = deriveIkeKeys(this.suite, shared, this.#context(this.#nonceI, this.#nonceR));
    this.nextId = 1;
  }

  #context(nonceI: Uint8Array, nonceR: Uint8Array) {
    return { nonceI, nonceR, spiI: this.spiI, spiR: this.spiR };
  }

  /** IKE_AUTH request: SK{IDi, [IDr], AUTH, [N(USE_TRANSPORT_MODE)], SAi2, TSi, TSr}. */
  authRequest(wish: ChildWish, extra: AuthExtra = {}): PreparedRequest {
    const { payloads, spi } = this.authPayloads(wish, extra);
    const bytes = this.request(EXCHANGE.IKE_AUTH, payloads);
    return { bytes, spi, nonce: this.#nonceI, pair: null, wish };
  }

  /** What IKE_AUTH carries; `extra.proof` stands for AUTH (and CERT) when it is not made with the shared key. */
  authPayloads(wish: ChildWish, extra: AuthExtra = {}): { payloads: Payload[]; spi: number } {
    const idI = identityPayload("idi", this.options.identity);
    const { peerIdentity } = this.options;
    const data = pskAuth(this.#suite(), this.options.psk, this.keys.pi, {
      message: this.#initRequest,
      nonce: this.#nonceR,
      identity: encodeIdentification(idI),
    });
    const child = this.#childPayloads(wish, false);
    const payloads: Payload[] = [
      idI,
      ...(peerIdentity === null ? [] : [identityPayload("idr", peerIdentity)]),
      ...(extra.proof?.(this.octets("initiator", idI)) ?? [
        { kind: "auth", method: extra.method ?? AUTH_METHOD.SHARED_KEY, data },
      ]),
      ...(extra.payloads ?? []),
      ...child.payloads,
    ];
    return { payloads, spi: child.spi };
  }

  /** What this side signs (RFC 7296 §2.15): message | nonce of the other | prf(SK_p, ID). */
  octets(side: "initiator" | "responder", identity: IdentificationPayload): Uint8Array {
    const own = side === "initiator";
    const maced = prf(this.#suite().prf, (own ? this.keys.pi : this.keys.pr).expose(), encodeIdentification(identity));
    return own
      ? concatBytes(this.#initRequest, this.#nonceR, maced)
      : concatBytes(this.#initResponse, this.#nonceI, maced);
  }

  /** Checks the responder's AUTH; returns the first Child SA. */
  readAuth(bytes: Uint8Array, request: PreparedRequest): InitiatorChild {
    const payloads = this.open(bytes);
    this.checkPeerAuth(payloads);
    return this.#readChild(payloads, request, this.#nonceR);
  }

  /** Throws when the responder did not prove that it knows the key (RFC 7296 §2.15). */
  checkPeerAuth(payloads: readonly Payload[]): void {
    const idR = requirePayload(payloads, "idr");
    const expected = pskAuth(this.#suite(), this.options.psk, this.keys.pr, {
      message: this.#initResponse,
      nonce: this.#nonceI,
      identity: encodeIdentification(idR),
    });
    if (!equalBytes(expected, requirePayload(payloads, "auth").data)) throw new Error("the responder's AUTH is wrong");
  }

  /** CREATE_CHILD_SA request: SK{[N(REKEY_SA)], [N(USE_TRANSPORT_MODE)], SA, Ni, [KEi], TSi, TSr}. */
  createChildRequest(
    wish: ChildWish,
    rekeys: { readonly spiIn: number; readonly suite?: ChildSuite } | null,
    nonce: Uint8Array = random(32),
  ): PreparedRequest {
    const pair = wish.group === null ? null : groupOf(wish.group).generate();
    const child = this.#childPayloads(wish, true);
    const bytes = this.request(EXCHANGE.CREATE_CHILD_SA, [
      ...(rekeys === null
        ? []
        : [rekeyNotify(rekeys.spiIn, rekeys.suite === undefined ? PROTOCOL.ESP : protocolIdOf(rekeys.suite))]),
      ...child.payloads,
      { kind: "nonce", nonce },
      ...(pair === null || wish.group === null
        ? []
        : [{ kind: "ke" as const, group: wish.group, value: pair.publicValue }]),
    ]);
    return { bytes, spi: child.spi, nonce, pair, wish };
  }

  readCreateChild(bytes: Uint8Array, request: PreparedRequest): InitiatorChild {
    const payloads = this.open(bytes);
    return this.#readChild(payloads, request, requirePayload(payloads, "nonce").nonce);
  }

  /** Answers a CREATE_CHILD_SA request of the other end for a Child SA, as a good peer does unless `changes` say otherwise. */
  answerChild(bytes: Uint8Array, changes: AnswerChanges = {}): { response: Uint8Array; child: InitiatorChild } {
    const { header } = decodeMessage(bytes);
    const payloads = this.open(bytes);
    const ke = findPayload(payloads, "ke");
    const pfs = changes.pfs ?? true;
    const offered = requirePayload(payloads, "sa").proposals;
    const wanted = pfs ? offered : offered.filter(({ transforms }) => transforms.every(({ type }) => type !== 4));
    const chosen = chooseEsp({ kind: "sa", proposals: wanted }, pfs ? (ke?.group ?? null) : null, pfs, {
      espSuites: changes.suites ?? null,
      esn: "allow",
    });
    const pair = chosen.group === null ? null : groupOf(chosen.group).generate();
    const shared = pair === null || ke === undefined ? null : pair.agree(ke.value);
    const nonceR = changes.nonce ?? random(32);
    const nonces = { nonceI: requirePayload(payloads, "nonce").nonce, nonceR };
    const keys = deriveChildKeys({ suite: this.#suite(), d: this.keys.d }, chosen.suite, shared, nonces);
    const spi = 0x10000000 + Math.floor(Math.random() * 0xe0000000);
    const transport = findNotify(payloads, NOTIFY.USE_TRANSPORT_MODE) !== undefined;
    const answer: Payload[] = [
      ...(transport ? [notify(NOTIFY.USE_TRANSPORT_MODE)] : []),
      { kind: "sa", proposals: [{ ...chosen.answer, spi: u32be(spi) }] },
      { kind: "nonce", nonce: nonceR },
      ...(pair === null ? [] : [{ kind: "ke" as const, group: chosen.group ?? 0, value: pair.publicValue }]),
      requirePayload(payloads, "tsi"),
      requirePayload(payloads, "tsr"),
    ];
    const response = this.seal(header.exchange, header.messageId, true, changes.edit?.(answer) ?? answer);
    const child: InitiatorChild = {
      ...{ suite: chosen.suite, esn: chosen.esn, spiIn: spi, spiOut: chosen.spi, transport, payloads },
      toResponder: keys.toInitiator,
      toInitiator: keys.toResponder,
    };
    return { response, child };
  }

  /** CREATE_CHILD_SA for a new IKE SA: SK{SA(SPI), Ni, KEi}. */
  rekeyIkeRequest(
    suite: IkeSuite,
    nonce: Uint8Array = random(32),
  ): { bytes: Uint8Array; finish: (response: Uint8Array) => Initiator } {
    const spi = random(8);
    const pair = groupOf(suite.group).generate();
    const bytes = this.request(EXCHANGE.CREATE_CHILD_SA, [
      { kind: "sa", proposals: [proposal(1, PROTOCOL.IKE, spi, ikeTransforms(suite))] },
      { kind: "nonce", nonce },
      { kind: "ke", group: suite.group, value: pair.publicValue },
    ]);
    const finish = (response: Uint8Array): Initiator => {
      const payloads = this.open(response);
      const heir = new Initiator({ ...this.options, group: suite.group });
      heir.spiI = spi;
      heir.spiR = Uint8Array.from(requirePayload(payloads, "sa").proposals[0]?.spi ?? []);
      heir.suite = suite;
      const shared = pair.agree(requirePayload(payloads, "ke").value);
      const context = heir.#context(nonce, requirePayload(payloads, "nonce").nonce);
      heir.#keys = deriveRekeyedIkeKeys({ suite: this.#suite(), d: this.keys.d }, suite, shared, context);
      return heir;
    };
    return { bytes, finish };
  }

  /** Answers the other end's rekey of the IKE SA; the heir is this peer's side of the new one. */
  answerIke(bytes: Uint8Array, changes: AnswerChanges = {}): { response: Uint8Array; heir: Initiator } {
    const { header } = decodeMessage(bytes);
    const payloads = this.open(bytes);
    const ke = requirePayload(payloads, "ke");
    const nonceI = requirePayload(payloads, "nonce").nonce;
    const { suite, offered, answer } = chooseIke(requirePayload(payloads, "sa"), ke.group, 8, null);
    const pair = groupOf(suite.group).generate();
    const nonceR = changes.nonce ?? random(32);
    const heir = new Initiator({ ...this.options, group: suite.group });
    heir.isResponder = true;
    heir.spiI = Uint8Array.from(offered.spi);
    heir.spiR = new Uint8Array(random(8));
    heir.suite = suite;
    const old = { suite: this.#suite(), d: this.keys.d };
    heir.#keys = deriveRekeyedIkeKeys(old, suite, pair.agree(ke.value), heir.#context(nonceI, nonceR));
    const told: Payload[] = [
      { kind: "sa", proposals: [{ ...answer, spi: heir.spiR }] },
      { kind: "nonce", nonce: nonceR },
      { kind: "ke", group: suite.group, value: pair.publicValue },
    ];
    const response = this.seal(header.exchange, header.messageId, true, changes.edit?.(told) ?? told);
    return { response, heir };
  }

  /** A sealed request with the next message ID. */
  request(exchange: number, payloads: readonly Payload[]): Uint8Array {
    const bytes = this.seal(exchange, this.nextId, false, payloads);
    this.nextId += 1;
    return bytes;
  }

  seal(exchange: number, messageId: number, isResponse: boolean, payloads: readonly Payload[]): Uint8Array {
    const fromInitiator = !this.isResponder;
    const fields = { spiI: this.spiI, spiR: this.spiR, exchange, messageId, isResponse, fromInitiator };
    const key = this.isResponder ? this.keys.responder : this.keys.initiator;
    return sealMessage(fields, payloads, key, random(ivBytes(key.kind)));
  }

  /** A sealed request with the next message ID, in fragments of at most this size. */
  fragments(exchange: number, payloads: readonly Payload[], maxBytes: number): Uint8Array[] {
    const { spiI, spiR, nextId } = this;
    const fields = { spiI, spiR, exchange, messageId: nextId, isResponse: false, fromInitiator: true };
    this.nextId += 1;
    const nextIv = (): Uint8Array => random(ivBytes(this.keys.initiator.kind));
    return sealFragments(fields, payloads, this.keys.initiator, nextIv, maxBytes);
  }

  /** The payloads of a message from the responder that came in fragments, in their order. */
  openFragments(datagrams: readonly Uint8Array[]): Payload[] {
    let firstType = 0;
    const contents = datagrams.map((bytes, i) => {
      const [sealed] = decodeMessage(bytes).payloads;
      if (sealed?.kind !== "encryptedFragment") throw new Error("not a fragment");
      if (sealed.number !== i + 1 || sealed.total !== datagrams.length) throw new Error("fragments out of order");
      if (i === 0) firstType = sealed.innerType;
      else if (sealed.innerType !== 0) throw new Error("next payload in a later fragment");
      return openedContent(openMessage(bytes, sealed, this.keys.responder));
    });
    return decodePayloads(firstType, concatBytes(...contents));
  }

  /** The payloads of a message from the responder. */
  open(bytes: Uint8Array): Payload[] {
    const [sealed] = decodeMessage(bytes).payloads;
    if (sealed?.kind !== "encrypted") throw new Error("not encrypted");
    return openedPayloads(openMessage(bytes, sealed, this.isResponder ? this.keys.initiator : this.keys.responder));
  }

  #suite(): IkeSuite {
    if (this.suite === null) throw new Error("no suite yet");
    return this.suite;
  }

  #childPayloads(wish: ChildWish, withGroup: boolean): { spi: number; payloads: Payload[] } {
    const spi = wish.spi ?? 0x10000000 + Math.floor(Math.random() * 0xe0000000);
    const group = withGroup ? wish.group : null;
    const proposals = wish.suites.map((suite, i) =>
      proposal(i + 1, protocolIdOf(suite), u32be(spi), espTransforms(suite, group, wish.numbers)),
    );
    return {
      spi,
      payloads: [
        ...(wish.transport ? [notify(NOTIFY.USE_TRANSPORT_MODE)] : []),
        { kind: "sa", proposals },
        selectorPayload("tsi", wish.tsi),
        selectorPayload("tsr", wish.tsr),
      ],
    };
  }

  #readChild(payloads: readonly Payload[], request: PreparedRequest, nonceR: Uint8Array): InitiatorChild {
    const group = request.pair === null ? null : request.wish.group;
    const policy = { espSuites: request.wish.suites, esn: "allow" } as const;
    const chosen = chooseEsp(requirePayload(payloads, "sa"), group, group !== null, policy);
    const shared = request.pair?.agree(requirePayload(payloads, "ke").value) ?? null;
    const nonces = { nonceI: request.nonce, nonceR };
    const keys = deriveChildKeys({ suite: this.#suite(), d: this.keys.d }, chosen.suite, shared, nonces);
    const transport = findNotify(payloads, NOTIFY.USE_TRANSPORT_MODE) !== undefined;
    return {
      suite: chosen.suite,
      esn: chosen.esn,
      spiIn: request.spi,
      spiOut: chosen.spi,
      ...keys,
      transport,
      payloads,
    };
  }
}

/** What of IKE_AUTH may be otherwise than usual. */
interface AuthExtra {
  readonly payloads?: readonly Payload[];
  readonly method?: number;
  /** CERT and AUTH for what must be signed. */
  readonly proof?: (octets: Uint8Array) => readonly Payload[];
}

/** How a peer answers a request for a Child SA. */
interface AnswerChanges {
  readonly nonce?: Uint8Array;
  /** What it may have; default: what we have by default. */
  readonly suites?: readonly ChildSuite[];
  /** False: it takes the proposal without a group. */
  readonly pfs?: boolean;
  readonly edit?: (answer: readonly Payload[]) => readonly Payload[];
}

/** A request with what is needed to read its answer. */
export interface PreparedRequest {
  readonly bytes: Uint8Array;
  readonly spi: number;
  readonly nonce: Uint8Array;
  readonly pair: DhKeyPair | null;
  readonly wish: ChildWish;
}

function groupOf(id: number) {
  const group = dhGroup(id);
  if (group === undefined) throw new Error(`no group ${id}`);
  return group;
}

function proposal(number: number, protocol: number, spi: Uint8Array, transforms: Proposal["transforms"]): Proposal {
  return { number, protocol, spi, transforms };
}

/** N(REKEY_SA) for the SA that we receive on with this SPI. */
function rekeyNotify(spiIn: number, protocol: number): Payload {
  return { ...notify(NOTIFY.REKEY_SA), protocol, spi: u32be(spiIn) };
}

/** DELETE of the Child SA that we receive on with this SPI. */
export function deleteChild(spiIn: number, protocol: number = PROTOCOL.ESP): Payload {
  return { kind: "delete", protocol, spis: [u32be(spiIn)] };
}

export const deleteIke: Payload = { kind: "delete", protocol: PROTOCOL.IKE, spis: [] };

/** A wish for the traffic between two hosts. */
export function childWish(local: string, remote: string, wish: Partial<ChildWish> = {}): ChildWish {
  return {
    suites: [{ kind: "aes-gcm-16", keyBits: 128 }],
    transport: true,
    tsi: [hostSelector(local)],
    tsr: [hostSelector(remote)],
    group: null,
    numbers: [ESN.NO],
    ...wish,
  };
}
