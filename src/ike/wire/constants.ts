/** Numbers of IKEv2: RFC 7296 §3 and the IANA registry "Internet Key Exchange Version 2 (IKEv2) Parameters". */

/** RFC 7296 §2. */
export const IKE_PORT = 500;

/** IKE header, RFC 7296 §3.1. */
export const IKE_HEADER_BYTES = 28;
/** Generic payload header, RFC 7296 §3.2. */
export const PAYLOAD_HEADER_BYTES = 4;
export const IKE_SPI_BYTES = 8;
export const ESP_SPI_BYTES = 4;
export const IKE_MAJOR_VERSION = 2;

export const FLAG_INITIATOR = 0x08;
export const FLAG_RESPONSE = 0x20;

export const EXCHANGE = {
  IKE_SA_INIT: 34,
  IKE_AUTH: 35,
  CREATE_CHILD_SA: 36,
  INFORMATIONAL: 37,
} as const;

export const PAYLOAD = {
  NONE: 0,
  SA: 33,
  KE: 34,
  IDI: 35,
  IDR: 36,
  CERT: 37,
  CERTREQ: 38,
  AUTH: 39,
  NONCE: 40,
  NOTIFY: 41,
  DELETE: 42,
  VENDOR: 43,
  TSI: 44,
  TSR: 45,
  ENCRYPTED: 46,
  CONFIGURATION: 47,
  EAP: 48,
  ENCRYPTED_FRAGMENT: 53,
} as const;

/** Security protocol identifiers, RFC 7296 §3.3.1. */
export const PROTOCOL = { NONE: 0, IKE: 1, AH: 2, ESP: 3 } as const;

/** Transform types, RFC 7296 §3.3.2. */
export const TRANSFORM = { ENCRYPTION: 1, PRF: 2, INTEGRITY: 3, DH: 4, ESN: 5 } as const;

/** The only transform attribute of RFC 7296 (§3.3.5), in bits. */
export const ATTRIBUTE_KEY_LENGTH = 14;

export const ENCRYPTION = {
  NULL: 11,
  AES_CBC: 12,
  AES_CTR: 13,
  AES_CCM_16: 16,
  AES_GCM_16: 20,
  CHACHA20_POLY1305: 28,
} as const;
export const PRF = { HMAC_SHA2_256: 5, HMAC_SHA2_384: 6, HMAC_SHA2_512: 7 } as const;
export const INTEGRITY = {
  NONE: 0,
  HMAC_SHA2_256_128: 12,
  HMAC_SHA2_384_192: 13,
  HMAC_SHA2_512_256: 14,
} as const;
export const DH_NONE = 0;
export const ESN = { NO: 0, YES: 1 } as const;

/** Identification types, RFC 7296 §3.5. */
export const ID_TYPE = {
  IPV4_ADDR: 1,
  FQDN: 2,
  RFC822_ADDR: 3,
  IPV6_ADDR: 5,
  DER_ASN1_DN: 9,
  DER_ASN1_GN: 10,
  KEY_ID: 11,
} as const;

/** Authentication methods, RFC 7296 §3.8, RFC 7427, RFC 7619. */
export const AUTH_METHOD = {
  RSA_SIGNATURE: 1,
  SHARED_KEY: 2,
  ECDSA_256: 9,
  ECDSA_384: 10,
  ECDSA_521: 11,
  NULL: 13,
  DIGITAL_SIGNATURE: 14,
} as const;

/** Certificate encodings, RFC 7296 §3.6: the one that we read and send. */
export const CERT_ENCODING = { X509_SIGNATURE: 4 } as const;

/** Hashes of SIGNATURE_HASH_ALGORITHMS, RFC 7427 §7; `IDENTITY` stands for Ed25519 (RFC 8420 §2). */
export const HASH_ALGORITHM = { SHA1: 1, SHA2_256: 2, SHA2_384: 3, SHA2_512: 4, IDENTITY: 5 } as const;

/** Traffic selector types, RFC 7296 §3.13.1. */
export const TS_TYPE = { IPV4_RANGE: 7, IPV6_RANGE: 8 } as const;

/** Notify types, RFC 7296 §3.10.1. Below 16384 they are errors. */
export const NOTIFY = {
  UNSUPPORTED_CRITICAL_PAYLOAD: 1,
  INVALID_IKE_SPI: 4,
  INVALID_MAJOR_VERSION: 5,
  INVALID_SYNTAX: 7,
  INVALID_MESSAGE_ID: 9,
  INVALID_SPI: 11,
  NO_PROPOSAL_CHOSEN: 14,
  INVALID_KE_PAYLOAD: 17,
  AUTHENTICATION_FAILED: 24,
  SINGLE_PAIR_REQUIRED: 34,
  NO_ADDITIONAL_SAS: 35,
  INTERNAL_ADDRESS_FAILURE: 36,
  FAILED_CP_REQUIRED: 37,
  TS_UNACCEPTABLE: 38,
  INVALID_SELECTORS: 39,
  TEMPORARY_FAILURE: 43,
  CHILD_SA_NOT_FOUND: 44,
  INITIAL_CONTACT: 16384,
  SET_WINDOW_SIZE: 16385,
  ADDITIONAL_TS_POSSIBLE: 16386,
  IPCOMP_SUPPORTED: 16387,
  NAT_DETECTION_SOURCE_IP: 16388,
  NAT_DETECTION_DESTINATION_IP: 16389,
  COOKIE: 16390,
  USE_TRANSPORT_MODE: 16391,
  HTTP_CERT_LOOKUP_SUPPORTED: 16392,
  REKEY_SA: 16393,
  ESP_TFC_PADDING_NOT_SUPPORTED: 16394,
  NON_FIRST_FRAGMENTS_ALSO: 16395,
  MOBIKE_SUPPORTED: 16396,
  NO_ADDITIONAL_ADDRESSES: 16399,
  MULTIPLE_AUTH_SUPPORTED: 16404,
  REDIRECT_SUPPORTED: 16406,
  EAP_ONLY_AUTHENTICATION: 16417,
  CHILDLESS_IKEV2_SUPPORTED: 16418,
  IKEV2_MESSAGE_ID_SYNC_SUPPORTED: 16420,
  IKEV2_MESSAGE_ID_SYNC: 16422,
  IKEV2_FRAGMENTATION_SUPPORTED: 16430,
  SIGNATURE_HASH_ALGORITHMS: 16431,
} as const;

/** First notify type that is a status and not an error (RFC 7296 §3.10.1). */
export const FIRST_STATUS_NOTIFY = 16384;

type Table = Readonly<Record<string, number>>;

function namesOf(table: Table): ReadonlyMap<number, string> {
  return new Map(Object.entries(table).map(([name, value]) => [value, name]));
}

const PAYLOAD_NAMES = namesOf(PAYLOAD);
const EXCHANGE_NAMES = namesOf(EXCHANGE);
const NOTIFY_NAMES = namesOf(NOTIFY);
const AUTH_METHOD_NAMES = namesOf(AUTH_METHOD);

/** Names for logs; a number without a name prints as `?(n)`. */
export function payloadName(type: number): string {
  return PAYLOAD_NAMES.get(type) ?? `?(${type})`;
}

export function exchangeName(type: number): string {
  return EXCHANGE_NAMES.get(type) ?? `?(${type})`;
}

export function notifyName(type: number): string {
  return NOTIFY_NAMES.get(type) ?? `?(${type})`;
}

/** Names for counters: all numbers without a name share one, for the peer chooses them and counters stay for ever. */
export function notifyCounter(type: number): string {
  return NOTIFY_NAMES.get(type) ?? "other";
}

export function authMethodName(method: number): string {
  return AUTH_METHOD_NAMES.get(method) ?? `?(${method})`;
}
