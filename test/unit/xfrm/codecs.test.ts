import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fromHex, toHex } from "../../../src/core/bytes.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { Secret } from "../../../src/core/secret.ts";
import {
  finishFrame,
  Attributes,
  MessageBuilder,
  parseMessages,
  type NetlinkRequest,
} from "../../../src/net/netlink-message.ts";
import { ESP_SUITES, suiteLengths, suiteName } from "../../../src/sa/suite.ts";
import { decodeAlgorithms, sameKeys } from "../../../src/xfrm/algorithms.ts";
import { IPPROTO_ESP } from "../../../src/xfrm/constants.ts";
import { decodeEvent } from "../../../src/xfrm/events.ts";
import {
  decodePolicy,
  deletePolicyRequest,
  isOurPolicy,
  policyRequest,
  samePolicy,
  type KernelPolicy,
  type PolicySpec,
} from "../../../src/xfrm/policies.ts";
import { decodeReplay, encodeReplay, freshReplay, receivedNumbers } from "../../../src/xfrm/replay.ts";
import { ANY_PORT } from "../../../src/xfrm/selectors.ts";
import {
  decodeState,
  deleteStateRequest,
  movePortsRequest,
  newStateRequest,
  type StateSpec,
} from "../../../src/xfrm/states.ts";
import { xfrmUsersaInfo } from "../../../src/xfrm/structs.ts";
import * as golden from "./iproute2-messages.ts";

const HEADER_BYTES = 16;
const counting = (first: number, length: number): Secret =>
  new Secret(Uint8Array.from({ length }, (_, i) => first + i));

const GCM_TUNNEL: StateSpec = {
  id: { destination: "192.0.2.2", spi: 0x1234, protocol: 50 },
  source: "192.0.2.1",
  mode: "tunnel",
  reqid: 0x45500001,
  suite: { kind: "aes-gcm-16", keyBits: 128 },
  encryptionKey: counting(0, 20),
  integrityKey: null,
  esn: false,
  replayWindowPackets: 0,
  encapsulation: null,
  allowance: { kind: "lease", range: { first: 100n, end: 110n } },
  eventThresholdPackets: 5,
};
const CBC_ESN: StateSpec = {
  ...GCM_TUNNEL,
  id: { destination: "192.0.2.2", spi: 0x1235, protocol: 50 },
  mode: "transport",
  suite: { kind: "aes-cbc", keyBits: 128, integrity: "hmac-sha2-256" },
  encryptionKey: counting(0x20, 16),
  integrityKey: counting(0, 32),
  esn: true,
  replayWindowPackets: 64,
  allowance: { kind: "unlimited" },
};

/** Payloads of XFRMA_ALG_AEAD, _CRYPT and _AUTH_TRUNC: the kernel's names and lengths in bits, from its documentation. */
describe("names and lengths are the kernel's", () => {
  const head = (name: string, ...numbers: number[]): string => {
    const bytes = new Uint8Array(64 + 4 * numbers.length);
    bytes.set(new TextEncoder().encode(name));
    numbers.forEach((value, i) => new DataView(bytes.buffer).setUint32(64 + 4 * i, value, true));
    return toHex(bytes);
  };
  const cases: readonly [StateSpec["suite"], string | null, string | null, string | null][] = [
    [{ kind: "aes-gcm-16", keyBits: 256 }, head("rfc4106(gcm(aes))", 288, 128), null, null],
    [{ kind: "aes-ccm-16", keyBits: 128 }, head("rfc4309(ccm(aes))", 152, 128), null, null],
    [{ kind: "chacha20-poly1305" }, head("rfc7539esp(chacha20,poly1305)", 288, 128), null, null],
    [
      { kind: "aes-ctr", keyBits: 128, integrity: "hmac-sha2-384" },
      null,
      head("rfc3686(ctr(aes))", 160),
      head("hmac(sha384)", 384, 192),
    ],
    [{ kind: "null", integrity: "hmac-sha2-512" }, null, head("ecb(cipher_null)", 0), head("hmac(sha512)", 512, 256)],
    [{ kind: "ah", integrity: "hmac-sha2-256" }, null, null, head("hmac(sha256)", 256, 128)],
    [{ kind: "ah", integrity: "hmac-sha2-384" }, null, null, head("hmac(sha384)", 384, 192)],
  ];
  it.each(cases.map((each) => [suiteName(each[0]), ...each] as const))("%s", (_, suite, aead, crypt, auth) => {
    const { encryptionKeyBytes, integrityKeyBytes } = suiteLengths(suite);
    const integrityKey = integrityKeyBytes === 0 ? null : counting(0x80, integrityKeyBytes);
    const encryptionKey = counting(0, encryptionKeyBytes);
    const { attributes } = bodyOf(hexOf(newStateRequest({ ...GCM_TUNNEL, suite, encryptionKey, integrityKey })));
    const shown = (type: number): string | null => {
      const bytes = attributes.bytes(type);
      return bytes === null ? null : toHex(bytes);
    };
    const withKey = (start: string | null, key: Secret | null): string | null =>
      start === null ? null : start + toHex(key?.expose() ?? new Uint8Array());
    expect([shown(18), shown(2), shown(20)]).toEqual([
      withKey(aead, encryptionKey),
      withKey(crypt, encryptionKey),
      withKey(auth, integrityKey),
    ]);
  });
});

describe("messages are those of iproute2", () => {
  it("NEWSA with AES-GCM: fixed part and algorithm", () => {
    const theirs = bodyOf(golden.NEWSA_GCM);
    const ours = bodyOf(hexOf(newStateRequest(GCM_TUNNEL, 7n)));
    expect(toHex(ours.head)).toBe(toHex(theirs.head));
    expect(ours.attributes.bytes(18)).toEqual(theirs.attributes.bytes(18));
    // Born with its lease: oseq 99 before the first number 100, 2^32 − 10 packets used, and an age.
    expect(toHex(ours.attributes.bytes(10) ?? new Uint8Array())).toBe("630000000000000000000000");
    const lifetime = "0000000000000000" + "f6ffffff00000000" + "0700000000000000" + "0000000000000000";
    expect(toHex(ours.attributes.bytes(9) ?? new Uint8Array())).toBe(lifetime);
  });

  it("NEWSA with AES-CBC, HMAC and extended numbers: fixed part, algorithms, window", () => {
    const theirs = bodyOf(golden.NEWSA_CBC_ESN);
    const ours = bodyOf(hexOf(newStateRequest(CBC_ESN, 7n)));
    expect(toHex(ours.head)).toBe(toHex(theirs.head));
    for (const type of [2, 20]) expect(ours.attributes.bytes(type)).toEqual(theirs.attributes.bytes(type));
    // iproute2 leaves the empty bitmap out.
    expect(ours.attributes.bytes(23)?.subarray(0, 24)).toEqual(theirs.attributes.bytes(23));
  });

  it("AH in IPv4 is aligned to 4 bytes, in IPv6 and for ESP the flag has no meaning (RFC 4302 §2.6)", () => {
    const flags = (changes: Partial<StateSpec>): number => {
      const bytes = fromHex(hexOf(newStateRequest({ ...CBC_ESN, esn: false, ...changes })));
      return xfrmUsersaInfo.decode(bytes.subarray(16)).flags;
    };
    const ah = { suite: { kind: "ah", integrity: "hmac-sha2-256" }, encryptionKey: counting(0, 0) } as const;
    expect(flags({ ...ah, id: { destination: "192.0.2.2", spi: 0x1235, protocol: 51 } })).toBe(64);
    expect(flags({ ...ah, source: "2001:db8::1", id: { destination: "2001:db8::2", spi: 0x1235, protocol: 51 } })).toBe(
      0,
    );
    expect(flags({})).toBe(0);
  });

  it("a policy of AH is another one than of ESP, and its template comes back", () => {
    const policy = (protocol: 50 | 51): PolicySpec => ({
      direction: "out",
      selector: {
        source: { address: "192.0.2.2", prefixBits: 32 },
        destination: { address: "192.0.2.1", prefixBits: 32 },
        protocol: 0,
        sourcePort: ANY_PORT,
        destinationPort: ANY_PORT,
      },
      action: "allow",
      priority: 46_000,
      template: { protocol, mode: "transport", reqid: 0x45500001, endpoints: null },
    });
    const listed = (protocol: 50 | 51): KernelPolicy | null => {
      const bytes = fromHex(hexOf(policyRequest("add", policy(protocol))));
      return decodePolicy({ type: 0, flags: 0, seq: 0, port: 0, body: bytes.subarray(16) });
    };
    for (const protocol of [50, 51] as const) {
      const found = listed(protocol);
      expect(found).toMatchObject({ ...policy(protocol), isForeign: false });
      expect(found !== null && isOurPolicy(found)).toBe(true);
      expect(found !== null && samePolicy(found, policy(protocol))).toBe(true);
      expect(found !== null && samePolicy(found, policy(protocol === 50 ? 51 : 50))).toBe(false);
    }
  });

  it("a policy's mark comes back where it is one of ours, exactly; another one is foreign", () => {
    const policy: PolicySpec = {
      direction: "in",
      selector: {
        source: { address: "0.0.0.0", prefixBits: 0 },
        destination: { address: "192.0.2.1", prefixBits: 32 },
        protocol: 6,
        sourcePort: ANY_PORT,
        destinationPort: ANY_PORT,
      },
      action: "allow",
      priority: 45_501,
      template: null,
    };
    const listed = (mark: number | undefined, mask = "ffffffff"): KernelPolicy | null => {
      const hex = hexOf(policyRequest("add", { ...policy, mark }));
      const value = Buffer.from(new Uint32Array([mark ?? 0]).buffer).toString("hex");
      const body = fromHex(hex.replace(`${value}ffffffff`, `${value}${mask}`)).subarray(16);
      return decodePolicy({ type: 0, flags: 0, seq: 0, port: 0, body });
    };
    expect(listed(0x4553ffff)).toMatchObject({ ...policy, mark: 0x4553ffff, isForeign: false });
    expect(listed(undefined)).not.toHaveProperty("mark");
    expect(listed(7)).toMatchObject({ isForeign: true });
    expect(listed(0x4553ffff, "ffff0000")).toMatchObject({ isForeign: true });
    const [marked, plain] = [listed(0x4553ffff), listed(undefined)];
    expect(marked !== null && plain !== null && samePolicy(marked, plain)).toBe(false);
    expect(hexOf(deletePolicyRequest({ ...policy, mark: 0x4553ffff }))).toContain("ffff5345ffffffff");
  });

  it("policies", () => {
    const tunnel: PolicySpec = {
      direction: "out",
      selector: {
        source: { address: "192.0.2.2", prefixBits: 32 },
        destination: { address: "192.0.2.0", prefixBits: 24 },
        protocol: 17,
        sourcePort: { port: 500, mask: 0xffff },
        destinationPort: ANY_PORT,
      },
      action: "allow",
      priority: 46_035,
      template: {
        protocol: IPPROTO_ESP,
        mode: "tunnel",
        reqid: 0x45500001,
        endpoints: { source: "192.0.2.2", destination: "192.0.2.9" },
      },
    };
    const block: PolicySpec = {
      direction: "in",
      selector: {
        source: { address: "::", prefixBits: 0 },
        destination: { address: "2001:db8::1", prefixBits: 128 },
        protocol: 0,
        sourcePort: ANY_PORT,
        destinationPort: ANY_PORT,
      },
      action: "block",
      priority: 47_000,
      template: null,
    };
    expect(withoutFlags(hexOf(policyRequest("add", tunnel)))).toBe(withoutFlags(golden.NEWPOLICY_TUNNEL));
    expect(withoutFlags(hexOf(policyRequest("add", block)))).toBe(withoutFlags(golden.NEWPOLICY_BLOCK));
    expect(withoutFlags(hexOf(deletePolicyRequest(block)))).toBe(withoutFlags(golden.DELPOLICY));
  });

  it("DELSA: fixed part (iproute2 adds an empty source address)", () => {
    const ours = fromHex(hexOf(deleteStateRequest(GCM_TUNNEL.id))).subarray(HEADER_BYTES);
    expect(toHex(ours)).toBe(toHex(fromHex(golden.DELSA).subarray(HEADER_BYTES, HEADER_BYTES + 24)));
  });
});

describe("decoding", () => {
  it("reads back what a NEWSA holds, keys for comparing only", () => {
    for (const spec of [GCM_TUNNEL, CBC_ESN]) {
      const body = fromHex(hexOf(newStateRequest(spec))).subarray(HEADER_BYTES);
      const state = decodeState(body);
      expect(state).toMatchObject({
        id: spec.id,
        source: spec.source,
        mode: spec.mode,
        reqid: spec.reqid,
        esn: spec.esn,
      });
      const keyed = decodeAlgorithms(new Attributes(body, xfrmUsersaInfo.size));
      expect(keyed !== null && sameKeys(keyed, spec)).toBe(true);
      expect(keyed !== null && sameKeys({ ...keyed, encryptionKey: counting(1, 20) }, spec)).toBe(false);
      expect(JSON.stringify(keyed)).toContain("[secret]");
    }
  });

  it("a state in UDP: the attribute of iproute2, and back; another kind of UDP is not ours", () => {
    const encapsulation = { sourcePort: 4500, destinationPort: 40_000 };
    for (const message of [newStateRequest, movePortsRequest]) {
      const hex = hexOf(message({ ...GCM_TUNNEL, encapsulation }));
      expect(hex).toContain(golden.ENCAP_ATTRIBUTE);
      expect(hexOf(message(GCM_TUNNEL))).not.toContain(golden.ENCAP_ATTRIBUTE.slice(0, 8));
      const decoded = (text: string): unknown => decodeState(fromHex(text).subarray(HEADER_BYTES))?.encapsulation;
      expect(decoded(hex)).toEqual(encapsulation);
      expect(decoded(hex.replace("1c00040002001194", "1c00040007001194"))).toBe("other");
      expect(decoded(hexOf(message(GCM_TUNNEL)))).toBeNull();
    }
  });

  const keyed = (spec: StateSpec): Attributes =>
    new Attributes(fromHex(hexOf(newStateRequest(spec))).subarray(HEADER_BYTES), xfrmUsersaInfo.size);
  const specOf = (suite: StateSpec["suite"]): StateSpec => {
    const { encryptionKeyBytes, integrityKeyBytes } = suiteLengths(suite);
    const integrityKey = integrityKeyBytes === 0 ? null : counting(0x80, integrityKeyBytes);
    return { ...GCM_TUNNEL, suite, encryptionKey: counting(0, encryptionKeyBytes), integrityKey };
  };

  it.each(ESP_SUITES.map((suite) => [suiteName(suite), suite] as const))(
    "reads %s back, and as itself alone",
    (_, suite) => {
      const read = decodeAlgorithms(keyed(specOf(suite)));
      expect(read?.suite).toEqual(suite);
      for (const other of ESP_SUITES) {
        expect(read !== null && sameKeys(read, specOf(other))).toBe(other === suite);
      }
    },
  );

  const strangers: readonly [string, number, string, number, number][] = [
    ["a name we do not know", 18, "rfc4543(gcm(aes))", 160, 128],
    ["a shorter ICV", 18, "rfc4106(gcm(aes))", 160, 64],
    ["a key of 192 bits", 18, "rfc4106(gcm(aes))", 224, 128],
    ["ChaCha20 with a key of 128 bits", 18, "rfc7539esp(chacha20,poly1305)", 160, 128],
    ["the other cipher's salt", 18, "rfc4309(ccm(aes))", 160, 128],
  ];
  it.each(strangers)("is no suite of ours: %s", (_, type, name, keyBits, icvBits) => {
    const head = new Uint8Array(72);
    head.set(new TextEncoder().encode(name));
    new DataView(head.buffer).setUint32(64, keyBits, true);
    new DataView(head.buffer).setUint32(68, icvBits, true);
    const builder = new MessageBuilder().attribute(type, head, new Uint8Array(keyBits / 8));
    expect(decodeAlgorithms(new Attributes(frameOf(builder.request(0, 0, "")).subarray(HEADER_BYTES)))).toBeNull();
  });

  it("replay state: decode(encode(x)) = x, in the struct that the kernel chooses", () => {
    const number = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    fc.assert(
      fc.property(fc.boolean(), fc.integer({ min: 0, max: 4096 }), number, (esn, window, oseq) => {
        const state = freshReplay(esn, window, esn ? oseq : oseq & 0xffffffffn);
        const builder = new MessageBuilder().attribute(...encodeReplay(state));
        const attributes = new Attributes(frameOf(builder.request(0, 0, "")).subarray(HEADER_BYTES));
        expect(decodeReplay(attributes, window)).toEqual(state);
        expect(state.isLegacy).toBe(!esn && window <= 32);
      }),
    );
  });

  it("replay state: what counts as received from the start is read back as it was", () => {
    const numbers = fc.uniqueArray(fc.integer({ min: 0, max: 200 }), { minLength: 1 });
    const highest = fc.oneof(fc.bigInt(1n, 5_000n), fc.bigInt(2n ** 32n - 100n, 2n ** 32n + 5_000n));
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.constantFrom(32, 64, 96, 128, 4096),
        highest,
        numbers,
        (esn, window, top, offsets) => {
          const bits = new Uint8Array(window / 8);
          for (const offset of offsets.filter((at) => at < window))
            bits[offset >> 3] = (bits[offset >> 3] ?? 0) | (1 << (offset & 7));
          const received = { highest: esn ? top : top & 0xffffffffn, bits };
          const [, bytes] = encodeReplay(freshReplay(esn, window, 0n, received));
          const type = !esn && window <= 32 ? 10 : 23;
          const request = new MessageBuilder().attribute(type, bytes).request(0, 0, "");
          const state = decodeReplay(new Attributes(frameOf(request).subarray(HEADER_BYTES)), window);
          expect(receivedNumbers(state)).toEqual(received);
        },
      ),
    );
  });

  it("random bytes throw only our error", () => {
    const types = [0x10, 0x11, 0x17, 0x18, 0x1a, 0x1c, 0x1e, 0x40];
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.constantFrom(...types), (body, type) => {
        onlyOurErrors(() => decodeEvent({ type, flags: 0, seq: 0, port: 0, body }));
        onlyOurErrors(() => decodeState(body));
        onlyOurErrors(() => parseMessages(body));
        onlyOurErrors(() => new Attributes(body).nested(1));
      }),
      { numRuns: 500 },
    );
  });
});

function onlyOurErrors(run: () => unknown): void {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(EsplexError);
  }
}

function frameOf(request: NetlinkRequest): Uint8Array {
  return finishFrame(request, 0, 0, 0);
}

function hexOf(request: NetlinkRequest): string {
  return toHex(frameOf(request));
}

/** Acknowledgements and exclusivity are asked for by the socket, not by the message. */
function withoutFlags(hex: string): string {
  return hex.slice(0, 12) + hex.slice(16);
}

function bodyOf(hex: string): { head: Uint8Array; attributes: Attributes } {
  const body = fromHex(hex).subarray(HEADER_BYTES);
  return { head: body.subarray(0, xfrmUsersaInfo.size), attributes: new Attributes(body, xfrmUsersaInfo.size) };
}
