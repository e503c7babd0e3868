import { deepStrictEqual } from "node:assert";
import { concatBytes, fromHex, u16be } from "../../src/core/bytes.ts";
import { EsplexError } from "../../src/core/errors.ts";
import { requestedAuthorities } from "../../src/ike/auth/cert-requests.ts";
import { readHashNotify } from "../../src/ike/auth/signature-hashes.ts";
import { isSignatureMethod, readSignature } from "../../src/ike/auth/signature-payload.ts";
import { identityKey, identityText, isIdentityOf } from "../../src/ike/identity.ts";
import { PAYLOAD, PAYLOAD_HEADER_BYTES } from "../../src/ike/wire/constants.ts";
import { openedPayloads } from "../../src/ike/wire/encrypted.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { decodePayloads, encodePayloads, type Payload } from "../../src/ike/wire/payload.ts";
import { CertificateCache } from "../../src/x509/certificate-cache.ts";
import { parseCertificate, type Certificate } from "../../src/x509/certificate.ts";
import { validateChain } from "../../src/x509/chain.ts";
import { DistinguishedName } from "../../src/x509/name.ts";
import { pemBlocks } from "../../src/x509/pem.ts";
import { parseRevocationList } from "../../src/x509/revocation-list.ts";
import type { SeededRandom } from "../fault/random.ts";
import { mutated, oneOf } from "./mutate.ts";
import { readCertificateSeeds, readIkeSeeds, type Chain } from "./seeds.ts";
import type { Target } from "./target.ts";

/** Types that `decodePayloads` reads, and two that nobody knows. */
const PAYLOAD_TYPES = [...Object.values(PAYLOAD), 1, 255];
/** A moment in which the certificates of the vectors are in date. */
const NOW_MS = Date.UTC(2026, 10, 25);

/** Every decoder of `src/ike/wire` and `src/x509`, with what reads the results of one next. */
export function decoderTargets(): Target[] {
  const seeds = readIkeSeeds();
  const x509 = readCertificateSeeds();
  const chains = [...seeds.chains, ...seeds.messages.map(outerChain)].map(withType);
  const certificates = [...seeds.certificates, x509.authority, x509.leaf, x509.intermediate];
  const names = certificates.map((der) => parseCertificate(der).subject.der);
  return [
    target("wire.message", seeds.messages, (bytes) => use(decodeMessage(bytes).payloads)),
    target("wire.payloads", chains, (bytes) => use(decodePayloads(bytes[0] ?? 0, bytes.subarray(1)))),
    target("wire.opened", chains, (bytes) =>
      use(openedPayloads({ firstType: bytes[0] ?? 0, bytes: bytes.subarray(1) })),
    ),
    bodyTarget(chains),
    target("x509.certificate", certificates, (der) => useCertificate(parseCertificate(der), x509)),
    target("x509.revocationList", [x509.revocationList], (der) => {
      parseRevocationList(der).isSignedBy(parseCertificate(x509.authority));
    }),
    target("x509.name", names, (der) => {
      const name = DistinguishedName.fromDer(der);
      name.toString();
      name.matches(DistinguishedName.fromText("C=*, CN=moon"));
    }),
    target("x509.nameText", ["C=CH, O=Lab, CN=moon", 'CN="a, b", OU=x+UID=\\2c'].map(bytesOf), (bytes) => {
      DistinguishedName.fromText(textOf(bytes));
    }),
    target("x509.pem", certificates.map(pemOf), (bytes) => {
      for (const der of pemBlocks(bytes, "CERTIFICATE")) parseCertificate(der);
    }),
  ];
}

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");

function pemOf(der: Uint8Array): Uint8Array {
  return bytesOf(`-----BEGIN CERTIFICATE-----\n${Buffer.from(der).toString("base64")}\n-----END CERTIFICATE-----\n`);
}

function outerChain(message: Uint8Array): Chain {
  return { firstType: message[16] ?? 0, bytes: message.subarray(28) };
}

function withType({ firstType, bytes }: Chain): Uint8Array {
  return concatBytes(new Uint8Array([firstType]), bytes);
}

function target(name: string, seeds: readonly Uint8Array[], read: (bytes: Uint8Array) => void): Target {
  return {
    name,
    make: (random) => mutated(random, seeds),
    run: (bytes) => {
      read(bytes);
      return ["accepted"];
    },
  };
}

/** One payload whose length always fits, so that every change reaches the decoder of its body. A case is its type and its body. */
function bodyTarget(chains: readonly Uint8Array[]): Target {
  const bodies = chains.flatMap((chain) => bodiesOf(chain[0] ?? 0, chain.subarray(1)));
  const byType = Map.groupBy(bodies, ({ type }) => type);
  return {
    name: "wire.body",
    make: (random: SeededRandom) => {
      const type = oneOf(random, PAYLOAD_TYPES);
      const seeds = (byType.get(type) ?? bodies).map(({ body }) => body);
      return concatBytes(new Uint8Array([type]), mutated(random, seeds));
    },
    run: (bytes) => {
      const body = bytes.subarray(1);
      const head = concatBytes(new Uint8Array([0, 0x80]), u16be(body.length + PAYLOAD_HEADER_BYTES));
      use(decodePayloads(bytes[0] ?? 0, concatBytes(head, body)));
      return ["accepted"];
    },
  };
}

function bodiesOf(firstType: number, chain: Uint8Array): { type: number; body: Uint8Array }[] {
  const found = [];
  const view = new DataView(chain.buffer, chain.byteOffset, chain.byteLength);
  for (let type = firstType, at = 0; type !== PAYLOAD.NONE && at < chain.length;) {
    const end = at + view.getUint16(at + 2);
    found.push({ type, body: chain.subarray(at + PAYLOAD_HEADER_BYTES, end) });
    type = view.getUint8(at);
    at = end;
  }
  return found;
}

/** What authentication does with decoded payloads; and what was read must be what would be written and read again. */
function use(payloads: readonly Payload[]): void {
  const { firstType, bytes } = encodePayloads(payloads);
  deepStrictEqual(decodePayloads(firstType, bytes), payloads);
  for (const payload of payloads) usePayload(payload);
  requestedAuthorities(payloads);
  readHashNotify(payloads);
}

function usePayload(payload: Payload): void {
  switch (payload.kind) {
    case "idi":
    case "idr":
      identityKey(payload);
      identityText(payload);
      return;
    case "auth":
      if (isSignatureMethod(payload.method)) readSignature(payload, { kind: "rsa", bits: 2048 }, true);
      return;
    default:
  }
}

const IDENTITIES = [
  { type: 2, data: bytesOf("moon.lab") },
  { type: 1, data: Uint8Array.of(198, 51, 100, 7) },
  { type: 5, data: fromHex("20010db8000000000000000000000007") },
  { type: 3, data: bytesOf("moon@lab.example") },
];

/** As a leaf, as an intermediate and as an authority. */
function useCertificate(certificate: Certificate, seeds: ReturnType<typeof readCertificateSeeds>): void {
  for (const identity of IDENTITIES) isIdentityOf(certificate, identity);
  isIdentityOf(certificate, { type: 9, data: certificate.subject.der });
  const [authority, leaf, intermediate] = [seeds.authority, seeds.leaf, seeds.intermediate].map(parseCertificate);
  if (authority === undefined || leaf === undefined || intermediate === undefined) return;
  const trust = {
    anchors: [authority],
    revocationLists: [parseRevocationList(seeds.revocationList)],
    revocation: "relaxed",
    otherUsages: [],
    known: new CertificateCache(),
  } as const;
  const own = { ...trust, anchors: [certificate] };
  acceptOrRefuse(() => validateChain(certificate, [intermediate, leaf], trust, NOW_MS));
  acceptOrRefuse(() => validateChain(leaf, [certificate, intermediate], own, NOW_MS));
}

function acceptOrRefuse(work: () => unknown): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
  }
}
