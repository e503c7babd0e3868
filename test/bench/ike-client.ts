import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { isIPv6 } from "node:net";
import { sign, type KeyObject } from "node:crypto";
import { concatBytes, equalBytes, fromHex } from "../../src/core/bytes.ts";
import { Secret } from "../../src/core/secret.ts";
import type { Endpoint } from "../../src/ike/events.ts";
import { AUTH_METHOD, EXCHANGE, NOTIFY } from "../../src/ike/wire/constants.ts";
import { decodeHeader } from "../../src/ike/wire/header.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { findNotify, findPayload, type Payload } from "../../src/ike/wire/payload.ts";
import { childWish, Initiator } from "../exchange/initiator.ts";
import { CBC_SUITE } from "../exchange/lab.ts";
import { BENCH_PSK, RESPONDER } from "./ike-lab.ts";

/** ECDSA with SHA-256 (RFC 7427 appendix A), and that we take SHA-2-256 (§4). */
const ECDSA_SHA256 = fromHex("300a06082a8648ce3d040302");
const HASHES = notify(NOTIFY.SIGNATURE_HASH_ALGORITHMS, Uint8Array.of(0, 2));
const ANSWER_MS = 30_000;
/** A busy machine loses datagrams. */
const RETRANSMIT_MS = 3_000;

/** How a client proves itself; null key: with the shared one. */
export interface ClientProof {
  readonly identity: string;
  readonly certificate: { readonly der: Uint8Array; readonly key: KeyObject } | null;
}

/** A peer with a socket of its own on port 500; the same against every responder. */
export class IkeClient {
  readonly #socket: Socket;
  readonly #address: string;
  readonly #responder: Endpoint;
  #waiting: ((bytes: Uint8Array) => void) | null = null;
  /** Exchange of the request that waits for its answer. */
  #asked = 0;
  #spiI: Uint8Array = new Uint8Array(8);
  #initiator: Initiator | null = null;
  /** Requests of the responder that were answered: liveness checks. */
  answered = 0;

  private constructor(socket: Socket, address: string, responder: Endpoint) {
    this.#socket = socket;
    this.#address = address;
    this.#responder = responder;
    socket.on("message", (bytes) => this.#received(new Uint8Array(bytes)));
  }

  static async open(address: string, responder: Endpoint): Promise<IkeClient> {
    const socket = createSocket(isIPv6(address) ? "udp6" : "udp4");
    socket.bind({ address, port: 500 });
    await once(socket, "listening");
    return new IkeClient(socket, address, responder);
  }

  close(): void {
    this.#socket.close();
  }

  /** IKE_SA_INIT and IKE_AUTH with one Child SA. Throws when the responder does not give it. */
  async negotiate({ identity, certificate }: ClientProof, peerIdentity = RESPONDER): Promise<void> {
    const initiator = new Initiator({
      path: { local: this.#responder, remote: { address: this.#address, port: 500 } },
      suites: [CBC_SUITE],
      group: CBC_SUITE.group,
      psk: new Secret(new TextEncoder().encode(BENCH_PSK)),
      identity,
      peerIdentity,
    });
    const before = certificate === null ? [] : [HASHES];
    initiator.readInit(await this.#ask(initiator.initRequest({ before })));
    const wish = childWish(this.#address, this.#responder.address);
    const request = initiator.authRequest(
      wish,
      certificate === null ? {} : { proof: (octets) => proofOf(certificate, octets) },
    );
    const answer = await this.#ask(request.bytes);
    if (certificate === null) initiator.readAuth(answer, request);
    else if (findPayload(initiator.open(answer), "sa") === undefined) {
      const refusals = initiator.open(answer).flatMap((payload) => (payload.kind === "notify" ? [payload.type] : []));
      throw new Error(`${identity}: no Child SA; notifications: ${refusals.join(", ")}`);
    }
    if (findNotify(initiator.open(answer), NOTIFY.USE_TRANSPORT_MODE) === undefined) throw new Error("not transport");
    this.#initiator = initiator;
  }

  async #ask(bytes: Uint8Array): Promise<Uint8Array> {
    const { exchange, spiI } = decodeHeader(bytes);
    [this.#asked, this.#spiI] = [exchange, spiI];
    this.#send(bytes);
    return new Promise((resolve, reject) => {
      const again = setInterval(() => this.#send(bytes), RETRANSMIT_MS);
      const limit = setTimeout(() => {
        clearInterval(again);
        reject(new Error(`${this.#address}: no answer`));
      }, ANSWER_MS);
      this.#waiting = (answer) => {
        clearTimeout(limit);
        clearInterval(again);
        this.#waiting = null;
        resolve(answer);
      };
    });
  }

  #send(bytes: Uint8Array): void {
    this.#socket.send(bytes, this.#responder.port, this.#responder.address);
  }

  #received(bytes: Uint8Array): void {
    const { isResponse, exchange, messageId, spiI } = decodeHeader(bytes);
    if (isResponse) {
      // A late answer to a request that came twice is of no use.
      if (exchange === this.#asked && equalBytes(spiI, this.#spiI)) this.#waiting?.(bytes);
    } else if (this.#initiator !== null && exchange === EXCHANGE.INFORMATIONAL) {
      this.answered += 1;
      this.#send(this.#initiator.seal(exchange, messageId, true, []));
    }
  }
}

function proofOf({ der, key }: { der: Uint8Array; key: KeyObject }, octets: Uint8Array): Payload[] {
  const data = concatBytes(Uint8Array.of(ECDSA_SHA256.length), ECDSA_SHA256, sign("sha256", octets, key));
  return [
    { kind: "cert", encoding: 4, data: der },
    { kind: "auth", method: AUTH_METHOD.DIGITAL_SIGNATURE, data },
  ];
}
