import { createPrivateKey, sign, type KeyObject } from "node:crypto";
import { concatBytes, fromHex, u16be } from "../../src/core/bytes.ts";
import type { IkeCredential, IkePeerConfig } from "../../src/ike/environment.ts";
import type { IkeLimits } from "../../src/ike/settings.ts";
import { AUTH_METHOD, NOTIFY, notifyName } from "../../src/ike/wire/constants.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { type Payload } from "../../src/ike/wire/payload.ts";
import type { TrustStore } from "../../src/x509/chain.ts";
import { NOW_MS, TestCertificate, trustIn, type CertificateWish } from "../support/certificates.ts";
import { childWish, type Initiator, type InitiatorOptions } from "./initiator.ts";
import { CLIENT, DVIPA, initiator, Lab, peerConfig } from "./lab.ts";

/** AlgorithmIdentifiers, RFC 7427 appendix A and RFC 8420 appendix A. */
export const ALGORITHM = {
  ecdsaSha1: "300906072a8648ce3d0401",
  ecdsaSha256: "300a06082a8648ce3d040302",
  ecdsaSha384: "300a06082a8648ce3d040303",
  rsaSha1: "300d06092a864886f70d0101050500",
  rsaSha256: "300d06092a864886f70d01010b0500",
  pssSha256:
    "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120",
  ed25519: "300506032b6570",
} as const;
export const HASHES = notify(NOTIFY.SIGNATURE_HASH_ALGORITHMS, concatBytes(...[2, 3, 4, 5].map(u16be)));

export const root = TestCertificate.root("C=CH, O=Lab, CN=Root");
export const sun = root.leaf("C=CH, O=Lab, CN=sun", { dns: ["sun.lab"] });
export const sunRsa = root.leaf("C=CH, O=Lab, CN=sun", { dns: ["sun.lab"], key: "rsa" });
export const sunEd = root.leaf("C=CH, O=Lab, CN=sun", { dns: ["sun.lab"], key: "ed25519" });
export const MOON: Partial<CertificateWish> = { dns: ["moon.lab"], emails: ["moon@lab.example"], ips: [CLIENT] };

export interface LabWish {
  readonly trust?: Partial<TrustStore>;
  readonly peer?: Partial<IkePeerConfig>;
  readonly credentials?: readonly IkeCredential[];
  readonly limits?: Partial<IkeLimits>;
}

export function certificateLab({
  trust = {},
  peer = {},
  credentials = [sun.credential],
  limits = {},
}: LabWish = {}): Lab {
  const auth = { kind: "certificate", trust: trustIn([root], trust) } as const;
  return new Lab({ peers: [peerConfig({ auth, ...peer })], credentials, limits, wallClockMs: NOW_MS });
}

export const keyOf = (certificate: TestCertificate): KeyObject => createPrivateKey(certificate.privatePem);
export const cert = (certificate: TestCertificate): Payload => ({
  kind: "cert",
  encoding: 4,
  data: certificate.certificate.der,
});

/** AUTH of method 14, made without the code under test. */
export function digitalSignature(algorithm: string, signature: Uint8Array): Payload {
  const der = fromHex(algorithm);
  const data = concatBytes(new Uint8Array([der.length]), der, signature);
  return { kind: "auth", method: AUTH_METHOD.DIGITAL_SIGNATURE, data };
}

export const ecdsaAuth = (
  key: KeyObject,
  octets: Uint8Array,
  digest = "sha256",
  algorithm: string = ALGORITHM.ecdsaSha256,
) => digitalSignature(algorithm, new Uint8Array(sign(digest, octets, key)));

/** CERT… AUTH of a client with this certificate. */
export const showing =
  (leaf: TestCertificate, ...others: readonly TestCertificate[]) =>
  (octets: Uint8Array): Payload[] => [cert(leaf), ...others.map(cert), ecdsaAuth(keyOf(leaf), octets)];

export interface Said {
  readonly said: string;
  readonly payloads: readonly Payload[];
  readonly client: Initiator;
}

/** IKE_SA_INIT and IKE_AUTH; what the responder said. */
export function authenticate(
  lab: Lab,
  proof: (octets: Uint8Array) => readonly Payload[],
  changes: Partial<InitiatorOptions> = {},
  extra: { readonly before?: readonly Payload[]; readonly payloads?: readonly Payload[] } = {},
): Said {
  const client = initiator(changes);
  client.readInit(lab.answer(client.initRequest({ before: extra.before ?? [HASHES] })));
  const { bytes } = client.authRequest(childWish(CLIENT, DVIPA), { proof, payloads: extra.payloads ?? [] });
  const payloads = client.open(lab.answer(bytes));
  const said = payloads.map((payload) => (payload.kind === "notify" ? notifyName(payload.type) : payload.kind));
  return { said: said.join(" "), payloads, client };
}

export const GOOD = "idr cert auth USE_TRANSPORT_MODE sa tsi tsr";
