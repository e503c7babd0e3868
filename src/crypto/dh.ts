import {
  createDiffieHellman,
  createECDH,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  getDiffieHellman,
  type KeyObject,
} from "node:crypto";
import { concatBytes, equalBytes } from "../core/bytes.ts";
import { EsplexError, invariant } from "../core/errors.ts";
import { Secret } from "../core/secret.ts";

/** One side of a Diffie-Hellman exchange. The private value never leaves it. */
export interface DhKeyPair {
  /** As it stands in a KE payload. */
  readonly publicValue: Uint8Array;
  /**
   * The shared secret in the form that goes into the key derivation. Throws `wire.malformed` when the peer's value has the
   * wrong length, is outside the group, or gives a secret that anyone could know (RFC 6989 §2, RFC 8031 §2).
   */
  agree(peerPublic: Uint8Array): Secret;
}

/** A Diffie-Hellman group of the IANA registry "Transform Type 4". */
export interface DhGroup {
  /** Transform ID, and group number in the KE payload. */
  readonly id: number;
  /** As strongSwan prints it. */
  readonly name: string;
  /** Length of a public value in a KE payload. */
  readonly publicBytes: number;
  generate(): DhKeyPair;
  /** A key pair from a known private value: for test vectors. */
  fromPrivate(privateValue: Uint8Array): DhKeyPair;
}

function checkLength(name: string, value: Uint8Array, lengthBytes: number): void {
  if (value.length === lengthBytes) return;
  throw new EsplexError("wire.malformed", `${name}: public value has ${value.length} bytes, not ${lengthBytes}`);
}

function outside(name: string, what: string): EsplexError {
  return new EsplexError("wire.malformed", `${name}: ${what}`);
}

/** RFC 3526; node knows the primes by name. RFC 6989 §2.1: a public value r must satisfy 1 < r < p-1. */
function modpGroup(id: number, name: string, nodeName: string): DhGroup {
  const prime = getDiffieHellman(nodeName).getPrime();
  const primeBytes = prime.length;
  const one = leftPad(new Uint8Array([1]), primeBytes);
  const primeLessOne = new Uint8Array(prime);
  primeLessOne[primeBytes - 1] = (prime[primeBytes - 1] ?? 0) - 1;

  const pair = (side: Pick<ReturnType<typeof createDiffieHellman>, "getPublicKey" | "computeSecret">): DhKeyPair => ({
    publicValue: leftPad(side.getPublicKey(), primeBytes),
    agree: (peerPublic) => {
      checkLength(name, peerPublic, primeBytes);
      if (Buffer.compare(peerPublic, one) <= 0 || Buffer.compare(peerPublic, primeLessOne) >= 0) {
        throw outside(name, "public value is not between 1 and p-1");
      }
      return new Secret(leftPad(side.computeSecret(peerPublic), primeBytes));
    },
  });

  return {
    id,
    name,
    publicBytes: primeBytes,
    generate: () => {
      const side = getDiffieHellman(nodeName);
      side.generateKeys();
      return pair(side);
    },
    fromPrivate: (privateValue) => {
      const side = createDiffieHellman(prime, getDiffieHellman(nodeName).getGenerator());
      side.setPrivateKey(privateValue);
      side.generateKeys();
      return pair(side);
    },
  };
}

/** RFC 5903: a public value is x followed by y, the secret is x alone (§7). RFC 6989 §2.3: the point must be on the curve. */
function ecpGroup(id: number, name: string, curve: string, coordinateBytes: number): DhGroup {
  const UNCOMPRESSED = new Uint8Array([4]);
  const pair = (side: ReturnType<typeof createECDH>): DhKeyPair => ({
    publicValue: new Uint8Array(side.getPublicKey().subarray(1)),
    agree: (peerPublic) => {
      checkLength(name, peerPublic, 2 * coordinateBytes);
      try {
        return new Secret(leftPad(side.computeSecret(concatBytes(UNCOMPRESSED, peerPublic)), coordinateBytes));
      } catch {
        throw outside(name, "public value is not a point on the curve");
      }
    },
  });
  return {
    id,
    name,
    publicBytes: 2 * coordinateBytes,
    generate: () => {
      const side = createECDH(curve);
      side.generateKeys();
      return pair(side);
    },
    fromPrivate: (privateValue) => {
      const side = createECDH(curve);
      side.setPrivateKey(privateValue);
      return pair(side);
    },
  };
}

const X25519_BYTES = 32;
/** DER around a raw X25519 key (RFC 8410 §4, §7). */
const X25519_SPKI_PREFIX = Buffer.from("302a300506032b656e032100", "hex");
const X25519_PKCS8_PREFIX = Buffer.from("302e020100300506032b656e04220420", "hex");

/** RFC 8031: any 32 bytes are a public value, but a secret of all zeros must be refused (§2). */
function x25519Group(id: number, name: string): DhGroup {
  const pair = (privateKey: KeyObject): DhKeyPair => ({
    publicValue: new Uint8Array(
      createPublicKey(privateKey).export({ type: "spki", format: "der" }).subarray(X25519_SPKI_PREFIX.length),
    ),
    agree: (peerPublic) => {
      checkLength(name, peerPublic, X25519_BYTES);
      const der = Buffer.concat([X25519_SPKI_PREFIX, peerPublic]);
      const secret = x25519(privateKey, createPublicKey({ key: der, format: "der", type: "spki" }));
      if (secret === null || equalBytes(secret, new Uint8Array(X25519_BYTES))) {
        throw outside(name, "the shared secret is all zeros");
      }
      return new Secret(secret);
    },
  });
  return {
    id,
    name,
    publicBytes: X25519_BYTES,
    generate: () => pair(generateKeyPairSync("x25519").privateKey),
    fromPrivate: (privateValue) => {
      const der = Buffer.concat([X25519_PKCS8_PREFIX, privateValue]);
      return pair(createPrivateKey({ key: der, format: "der", type: "pkcs8" }));
    },
  };
}

/** OpenSSL itself refuses to give an all-zero secret. */
function x25519(privateKey: KeyObject, publicKey: KeyObject): Uint8Array | null {
  try {
    return new Uint8Array(diffieHellman({ privateKey, publicKey }));
  } catch {
    return null;
  }
}

function leftPad(value: Uint8Array, lengthBytes: number): Uint8Array {
  invariant(value.length <= lengthBytes, `a value of ${value.length} bytes does not fit into ${lengthBytes}`);
  const padded = new Uint8Array(lengthBytes);
  padded.set(value, lengthBytes - value.length);
  return padded;
}

/** Every group that esplex supports, the cheapest first: a new one is a line here. */
export const DH_GROUPS: readonly DhGroup[] = [
  x25519Group(31, "CURVE_25519"),
  ecpGroup(19, "ECP_256", "prime256v1", 32),
  ecpGroup(20, "ECP_384", "secp384r1", 48),
  ecpGroup(21, "ECP_521", "secp521r1", 66),
  modpGroup(14, "MODP_2048", "modp14"),
  modpGroup(15, "MODP_3072", "modp15"),
  modpGroup(16, "MODP_4096", "modp16"),
];

/** The group with this number, if it is supported. */
export function dhGroup(id: number): DhGroup | undefined {
  return DH_GROUPS.find((group) => group.id === id);
}
