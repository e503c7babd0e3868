/** What one message may carry at most. Hostile input is refused beyond it; real peers stay far below (measured). */
export const WIRE_LIMITS = {
  /** A whole IKE message; our choice: four times strongSwan's largest with certificates. */
  messageBytes: 16_384,
  /** Payloads in a message, outside or inside the encryption; our choice. */
  payloads: 64,
  /** Proposals in an SA payload; our choice, strongSwan sends 2, libreswan 4. */
  proposals: 32,
  /** Transforms in a proposal; our choice, strongSwan sends 50. */
  transforms: 128,
  /** Attributes of a transform; RFC 7296 knows one. */
  attributes: 4,
  /** Selectors in a TS payload; our choice. */
  trafficSelectors: 32,
  /** SPIs in a Delete payload; our choice. */
  deletedSpis: 256,
  /** RFC 7296 §2.10. */
  nonceMinBytes: 16,
  nonceMaxBytes: 256,
  /** Identification data; our choice. */
  identityBytes: 512,
  /** A COOKIE notify carries 1 to 64 bytes (RFC 7296 §2.6). */
  cookieMaxBytes: 64,
  /** Fragments that one message may come in; strongSwan's default size makes 14 of the largest. Our choice. */
  fragments: 64,
  /** An IKE message that we send goes in fragments above this: 1280 bytes of IPv6 without its header, UDP's and the marker (RFC 7383 §2.5.1). */
  unfragmentedBytes: 1228,
  /** Certificates of one peer that we look at; our choice, chains have 1 to 3. */
  certificates: 8,
  /** Authorities that our CERTREQ names: IKE_SA_INIT must fit one datagram and not amplify a forged one. Our choice. */
  ownAuthorities: 32,
  /** Authorities in all CERTREQ payloads of a message that we look at; our choice. */
  certificateAuthorities: 256,
  /** SPI field of a proposal or notify; IKE has 8, ESP 4. */
  spiBytes: 16,
} as const;
