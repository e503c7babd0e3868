import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseCluster, readClusterFile } from "../../../src/config/cluster-file.ts";

import { readPsk } from "../../../src/config/psk.ts";
import { EsplexError } from "../../../src/core/errors.ts";

const GOOD = `cluster: lab
bus:
  coupling: 198.51.100.9:7700
dvipas:
  - address: 2001:DB8:0::0100
    interface: cli0
    distributor: d1
    targets: ALL
    ports: ALL
  - address: 192.0.2.100
    distributor: d1
    targets: [t1, t2]
    ports: [80, 443]
peers:
  - name: client
    address: 192.0.2.10
    identity: client.lab
    localIdentity: dvipa.lab
    psk: { file: client.psk }
  - name: anybody
    address: ANY
    identity: user@lab
    localIdentity: dvipa.lab
    psk: { file: any.psk }
    modes: [tunnel]
    remoteSubnets: [10.0.0.0/8, 2001:db8:1::/48]
    replayWindow: 4096
    inboundReplayWindow: 2048
    ikeProposals: [aes256gcm16-prfsha384-ecp384]
    espProposals: [chacha20poly1305, null-sha256]
    ahProposals: [sha512-sha256]
    esn: never
    childLifetime: { seconds: 600, bytes: 2000000000, packets: 3000000 }
    initiate: { start: none, mode: tunnel }
`;

/** The message for a broken file. */
function problem(text: string): string {
  try {
    parseCluster(text, "lab.yaml");
  } catch (error) {
    if (error instanceof EsplexError && error.code === "config.invalid") return error.message;
    throw error;
  }
  return "no problem";
}

const replaced = (from: string, to: string): string => {
  if (!GOOD.includes(from)) throw new Error(`no ${from}`);
  return problem(GOOD.replace(from, to));
};

test("a good file, with defaults filled in and addresses canonical", () => {
  expect(parseCluster(GOOD, "lab.yaml")).toEqual({
    cluster: "lab",
    bus: { coupling: { host: "198.51.100.9", port: 7700 }, port: 7701 },
    certificates: { authorities: [], revocationLists: [], revocation: "relaxed", extendedKeyUsages: [] },
    dvipas: [
      {
        address: "2001:db8::100",
        interface: "cli0",
        distributor: "d1",
        targets: "ALL",
        ports: "ALL",
        distribution: { method: "roundRobin", weights: {}, affinitySeconds: 0 },
        filter: null,
        gateways: [],
        certificates: [],
      },
      {
        address: "192.0.2.100",
        interface: null,
        distributor: "d1",
        targets: ["t1", "t2"],
        ports: [80, 443],
        distribution: { method: "roundRobin", weights: {}, affinitySeconds: 0 },
        filter: null,
        gateways: [],
        certificates: [],
      },
    ],
    peers: [
      {
        name: "client",
        address: "192.0.2.10",
        identity: "client.lab",
        localIdentity: "dvipa.lab",
        psk: { file: "client.psk" },
        certificate: null,
        modes: ["transport", "tunnel"],
        remoteSubnets: [],
        replayWindow: 32,
        inboundReplayWindow: 1024,
        ikeProposals: null,
        espProposals: null,
        ahProposals: null,
        esn: "allow",
        childLifetime: { seconds: 3_600, bytes: null, packets: null },
        ikeLifetime: { seconds: 14_400 },
        initiate: { start: "none", dvipa: null, mode: null },
      },
      {
        name: "anybody",
        address: "ANY",
        identity: "user@lab",
        localIdentity: "dvipa.lab",
        psk: { file: "any.psk" },
        certificate: null,
        modes: ["tunnel"],
        remoteSubnets: ["10.0.0.0/8", "2001:db8:1::/48"],
        replayWindow: 4096,
        inboundReplayWindow: 2048,
        ikeProposals: [{ cipher: { kind: "aes-gcm-16", keyBits: 256 }, prf: "hmac-sha2-384", group: 20 }],
        espProposals: [{ kind: "chacha20-poly1305" }, { kind: "null", integrity: "hmac-sha2-256" }],
        ahProposals: [
          { kind: "ah", integrity: "hmac-sha2-512" },
          { kind: "ah", integrity: "hmac-sha2-256" },
        ],
        esn: "never",
        childLifetime: { seconds: 600, bytes: 2_000_000_000n, packets: 3_000_000n },
        ikeLifetime: { seconds: 14_400 },
        initiate: { start: "none", dvipa: null, mode: "tunnel" },
      },
    ],
  });
});

test("a target's file has cluster and bus alone", () => {
  const config = parseCluster('cluster: lab\nbus: { coupling: "[2001:db8::9]:7700", port: 9 }\n', "t.yaml");
  expect(config).toMatchObject({
    bus: { coupling: { host: "2001:db8::9", port: 7700 }, port: 9 },
    dvipas: [],
    peers: [],
  });
});

test.each([
  ["cluster: lab", "cluster: Lab", 'lab.yaml:1:1: cluster: found "Lab"; allowed: a name of 1 to 32'],
  ["cluster: lab\n", "", "lab.yaml:1:1: cluster: found nothing; allowed: a name of 1 to 32"],
  ["9:7700", "9", 'lab.yaml:3:3: bus.coupling: found "198.51.100.9"; allowed: ADDRESS:PORT'],
  ["9:7700", "9:70000", "bus.coupling: found"],
  ["9:7700", "9:7700\n  prot: 5", "lab.yaml:4:3: bus.prot: found an unknown key; allowed: coupling, port"],
  [
    "192.0.2.100",
    "192.0.2.300",
    'lab.yaml:10:5: dvipas[1].address: found "192.0.2.300"; allowed: an IPv4 or IPv6 address',
  ],
  ...["fe80::1", "ff02::1", "::1", "::", "::ffff:192.0.2.1", "224.0.0.1", "127.0.0.1", "0.0.0.0", "169.254.1.1"].map(
    (address): [string, string, string] => [
      "192.0.2.100",
      `"${address}"`,
      `lab.yaml:10:5: dvipas[1].address: found "${address}"; allowed: an IPv4 or IPv6 address of one host`,
    ],
  ),
  ["192.0.2.10\n", '"fe80::10"\n', 'lab.yaml:16:5: peers[0].address: found "fe80::10"; allowed: ANY, or an IPv4 or'],
  [
    "192.0.2.100",
    "2001:db8::100",
    "lab.yaml:10:5: dvipas[1].address: found 2001:db8::100, as in dvipas[0]; allowed: each only once",
  ],
  ["192.0.2.100", "198.51.100.9", "dvipas[1].address: found 198.51.100.9, the address of bus.coupling"],
  ["[t1, t2]", "[t1, t1]", "lab.yaml:12:19: dvipas[1].targets[1]: found t1 again; allowed: each only once"],
  ["[t1, t2]", "SOME", 'dvipas[1].targets: found "SOME"; allowed: ALL, or a list of 1 to 256 node names'],
  ["[t1, t2]", "[]", "dvipas[1].targets: found a list of 0; allowed: ALL, or a list"],
  ["[80, 443]", "[80, 0]", "lab.yaml:13:17: dvipas[1].ports[1]: found 0; allowed: a port from 1 to 65535"],
  ["[80, 443]", "[80, 80]", "dvipas[1].ports[1]: found 80 again"],
  ["interface: cli0", "interface: a/b", "dvipas[0].interface: found"],
  ...[
    ['"2001:db8::1"', "dvipas[1].gateways[0]: found 2001:db8::1; allowed: IPv4 addresses, as the DVIPA's own"],
    ["192.0.2.100", "dvipas[1].gateways[0]: found 192.0.2.100, which is a DVIPA"],
    ["192.0.2.1, 192.0.2.1", "dvipas[1].gateways[1]: found 192.0.2.1, as in dvipas[1]; allowed: each only once"],
    ["127.0.0.1", 'dvipas[1].gateways[0]: found "127.0.0.1"; allowed: an IPv4 or IPv6 address of one host'],
    ["192.0.2.10", "peers[0].address: found 192.0.2.10, which is a gateway of a DVIPA"],
    ["192.0.2.1", "no problem"],
  ].map(([gateways, message]): [string, string, string] => [
    "[80, 443]",
    `[80, 443]\n    gateways: [${gateways}]`,
    message ?? "",
  ]),
  ["192.0.2.10\n", "192.0.2.100\n", "lab.yaml:16:5: peers[0].address: found 192.0.2.100, which is a DVIPA"],
  ["name: anybody", "name: client", "peers[1].name: found client, as in peers[0]"],
  ["    identity: client.lab\n", "", "lab.yaml:15:5: peers[0].identity: found nothing"],
  [
    "{ file: client.psk }",
    "geheim",
    "lab.yaml:19:5: peers[0].psk: found a string (not shown); allowed: a section with file",
  ],
  ["{ file: client.psk }", "{ file: [geheim] }", "peers[0].psk.file: found a list (not shown); allowed: a path"],
  ["[tunnel]", "[tunnel, tunnel]", "peers[1].modes[1]: found tunnel again"],
  ["[tunnel]", "[transport]", "peers[1].remoteSubnets: found subnets without tunnel mode"],
  ["[tunnel]", "[fast]", 'peers[1].modes[0]: found "fast"; allowed: a list of transport and tunnel'],
  ["10.0.0.0/8", "10.0.0.1/8", 'peers[1].remoteSubnets[0]: found "10.0.0.1/8"; allowed: ADDRESS/PREFIX'],
  ["10.0.0.0/8", "10.0.0.0/8, 10.1.0.0/16", "peers[1].remoteSubnets[1]: found 10.1.0.0/16, which overlaps 10.0.0.0/8"],
  ["10.0.0.0/8", "0.0.0.0/0", "peers[1].remoteSubnets[0]: found 0.0.0.0/0, which holds the DVIPA 192.0.2.100"],
  ["4096", "33", "peers[1].replayWindow: found 33; allowed: a power of two from 32 to 4096"],
  ["4096", "8192", "peers[1].replayWindow: found 8192"],
  ["2048", "8192", "peers[1].inboundReplayWindow: found 8192; allowed: a power of two from 32 to 4096"],
  ["null-sha256", "null", "peers[1].espProposals[1]: found an empty value; allowed: a list of 1 to 32 of strongSwan"],
  ["null-sha256", "null-null", 'peers[1].espProposals[1]: found "null-null"; allowed: a list'],
  ["null-sha256", "aes128gcm16-x25519", 'peers[1].espProposals[1]: found "aes128gcm16-x25519"; allowed: a list'],
  ["[chacha20poly1305, null-sha256]", "[]", "peers[1].espProposals: found a list of 0; allowed: a list of 1 to 32"],
  ["[chacha20poly1305, null-sha256]", "aes128gcm16", 'peers[1].espProposals: found "aes128gcm16"; allowed: a list'],
  ["sha512-sha256", "sha1", 'peers[1].ahProposals[0]: found "sha1"; allowed: a list of 1 to 32 of strongSwan'],
  ["sha512-sha256", "aes128-sha256", 'peers[1].ahProposals[0]: found "aes128-sha256"; allowed: a list of 1 to 32'],
  ["[sha512-sha256]", "[]", "peers[1].ahProposals: found a list of 0; allowed: a list of 1 to 32"],
  ["prfsha384-ecp384", "prfsha384-ecp192", 'peers[1].ikeProposals[0]: found "aes256gcm16-prfsha384-ecp192"; allowed:'],
  [
    "packets: 3000000",
    "packets: 999",
    "peers[1].childLifetime.packets: found 999; allowed: 1000 to 9007199254740991 (packets)",
  ],
  ["packets: 3000000", "packets: ~", "no problem"],
  ["seconds: 600", "seconds: 5", "peers[1].childLifetime.seconds: found 5; allowed: 30 to 2592000 (seconds)"],
  [
    "start: none",
    "start: onDemand",
    "peers[1].initiate: found start: onDemand with address ANY; allowed: the peer's address",
  ],
  ["start: none", "start: auto", "peers[1].initiate: found start: auto with address ANY; allowed: the peer's address"],
  ["mode: tunnel }", "mode: transport }", "peers[1].initiate: found mode: transport; allowed: one of the peer's modes"],
  [
    "start: none,",
    "dvipa: 192.0.2.101,",
    "peers[1].initiate: found dvipa: 192.0.2.101; allowed: one of the file's dvipas",
  ],
  ["start: none", "start: yes", 'peers[1].initiate.start: found "yes"; allowed: auto, onDemand or none'],
  ["esn: never", "esn: yes", 'peers[1].esn: found "yes"; allowed: prefer, allow or never'],
  ["cluster: lab", "cluster: lab\ncluster: lab", "lab.yaml:2:1: not YAML: Map keys must be unique"],
  ["[80, 443]", "[80, 443", "not YAML"],
  ["cluster: lab", "cluster: &a lab\nx: *a", "allowed: plain values"],
])("%j → %j: %s", (from, to, message) => {
  expect(replaced(from, to)).toContain(message);
});

test("all problems come at once, in the order of the file", () => {
  const text = GOOD.replace("lab", "LAB").replace("[80, 443]", "[0]").replace("4096", "5");
  expect(
    problem(text)
      .split("\n")
      .map((line) => line.split(":").slice(1, 2)[0]),
  ).toEqual(["1", "13", "27"]);
});

test("peers need a DVIPA, of their IP version", () => {
  const peers = GOOD.slice(GOOD.indexOf("peers:"));
  const head = GOOD.slice(0, GOOD.indexOf("dvipas:"));
  expect(problem(`${head}${peers}`)).toContain("peers[0].name: found a peer, but no DVIPA");
  const v6 = "dvipas: [{ address: '2001:db8::1', distributor: d1, targets: ALL, ports: ALL }]\n";
  expect(problem(`${head}${v6}${peers}`)).toContain(
    "peers[0].address: found 192.0.2.10; allowed: an address of a version",
  );
});

/** The distribution of a DVIPA whose targets are t1 and t2, or what is wrong with it. */
function distribution(text: string): unknown {
  const file = `cluster: lab
bus: { coupling: 198.51.100.9:7700 }
dvipas: [{ address: 192.0.2.100, distributor: d1, targets: [t1, t2], ports: ALL, distribution: ${text} }]
`;
  try {
    return parseCluster(file, "lab.yaml").dvipas[0]?.distribution;
  } catch (error) {
    return String(error);
  }
}

test("how connections are spread: method, weights and affinity", () => {
  expect(distribution("{ method: load, affinitySeconds: 60 }")).toEqual({
    method: "load",
    weights: {},
    affinitySeconds: 60,
  });
  expect(distribution("{ method: weighted, weights: { t1: 3 } }")).toMatchObject({ weights: { t1: 3 } });
});

test.each([
  ["{ method: fastest }", 'found "fastest"; allowed: roundRobin, weighted, leastConnections or load'],
  ["{ method: weighted, weights: { t1: 0 } }", "weights.t1: found 0; allowed: a whole number from 1 to 100"],
  ["{ method: weighted, weights: { t3: 2 } }", "weights.t3: found t3; allowed: the targets: t1, t2"],
  ["{ weights: { t1: 2 } }", "weights with method roundRobin"],
  ["{ affinitySeconds: 86401 }", "allowed: 0 to 86400 (seconds)"],
  ["{ affinity: 1 }", "allowed: method, weights, affinitySeconds"],
])("a distribution of %s is refused", (text, problem) => {
  expect(distribution(text)).toContain(problem);
});

/** A file whose one peer authenticates as `auth` says. */
function withAuth(auth: string, identity = "moon.lab", certificates = "", dvipa = ""): string {
  return `cluster: lab
bus: { coupling: 198.51.100.9:7700 }
${certificates}
dvipas: [{ address: 192.0.2.100, distributor: d1, targets: ALL, ports: ALL ${dvipa} }]
peers: [{ name: a, address: ANY, identity: "${identity}", localIdentity: sun.lab ${auth} }]
`;
}

const AUTHORITIES = "certificates: { authorities: [ca.pem] }";
const CREDENTIAL = ", certificates: [{ chain: sun.pem, key: sun.key }]";
const CERTIFICATE = ", certificate: {}";

const filtered = (filter: string): string =>
  GOOD.replace("    ports: [80, 443]\n", `    ports: [80, 443]\n    filter: ${filter}\n`);

test("a filter, with defaults filled in", () => {
  const rules = `[{ action: accept, identity: "*.lab", source: [10.0.0.0/8, 192.0.2.1], protocol: tcp, ports: [80, 8000-8010] },
      { name: no pings, action: drop, protocol: 1, log: true }]`;
  expect(parseCluster(filtered(`{ rules: ${rules} }`), "lab.yaml").dvipas[1]?.filter).toEqual({
    rules: [
      {
        ...{ name: null, identity: "*.lab", source: ["10.0.0.0/8", "192.0.2.1"], protocol: 6, sourcePorts: [] },
        ports: [
          { first: 80, last: 80 },
          { first: 8000, last: 8010 },
        ],
        ...{ action: "accept", log: false },
      },
      {
        ...{ name: "no pings", identity: null, source: [], protocol: 1, sourcePorts: [], ports: [] },
        ...{ action: "drop", log: true },
      },
    ],
    ...{ at: "target", policy: "drop", log: false },
  });
});

test.each([
  ["{ }", "dvipas[1].filter.rules: found nothing; allowed: a list of at most 256 rules"],
  ["{ rules: [], default: drop }", "filter.default: found an unknown key; allowed: at, rules, policy, log"],
  ["{ rules: [], policy: reject }", 'filter.policy: found "reject"; allowed: accept or drop'],
  ["{ rules: [{ ports: [80] }] }", "rules[0].action: found nothing; allowed: accept or drop"],
  [
    "{ rules: [{ action: drop, ports: [80] }] }",
    "rules[0].ports: found a list of 1; allowed: ports only with protocol",
  ],
  [
    "{ rules: [{ action: drop, protocol: icmp, sourcePorts: [1] }] }",
    "allowed: ports only with protocol tcp, udp or sctp",
  ],
  [
    "{ rules: [{ action: drop, protocol: gre }] }",
    'rules[0].protocol: found "gre"; allowed: icmp, tcp, udp, icmpv6, sctp',
  ],
  ["{ rules: [{ action: drop, protocol: tcp, ports: [9-8] }] }", "rules[0].ports[0]: found"],
  [
    "{ rules: [{ action: drop, protocol: tcp, ports: [70000] }] }",
    "rules[0].ports[0]: found 70000; allowed: a list of 1",
  ],
  [
    "{ rules: [{ action: drop, protocol: tcp, ports: [80, 70-90] }] }",
    "allowed: entries that share no address or port",
  ],
  [
    "{ rules: [{ action: drop, source: [10.0.0.0/8, 10.1.0.0/16] }] }",
    "allowed: entries that share no address or port",
  ],
  [
    "{ rules: [{ action: drop, source: [10.0.0.1/8] }] }",
    'rules[0].source[0]: found "10.0.0.1/8"; allowed: a list of 1',
  ],
  ["{ rules: [{ action: drop, source: [10.0.0.1; drop] }] }", "rules[0].source[0]: found"],
  [
    '{ rules: [{ action: drop, source: ["2001:db8::/32"] }] }',
    "found 2001:db8::/32; allowed: IPv4 addresses, as the DVIPA",
  ],
  [
    "{ rules: [{ action: drop, name: a }, { action: drop, name: a }] }",
    "rules[1].name: found a; allowed: another name",
  ],
  ["{ rules: [{ action: drop, name: 'a\"b' }] }", "rules[0].name: found"],
])("a filter of %s is refused", (filter, message) => {
  expect(problem(filtered(filter))).toContain(message);
});

test("a filter at the distributor needs peers with tunnels alone", () => {
  const text = filtered("{ at: distributor, rules: [] }");
  expect(problem(text)).toBe(
    "lab.yaml:16:5: peers[0].modes: found transport, tunnel; allowed: tunnel alone, where a DVIPA's filter is at the distributor",
  );
  expect(
    problem(text.replace("    psk: { file: client.psk }", "    psk: { file: client.psk }\n    modes: [tunnel]")),
  ).toBe("no problem");
});

test("filters that would not fit a message are refused", () => {
  const rule = `{ action: drop, source: [${Array.from({ length: 60 }, (_, i) => `10.0.${i}.1`).join(", ")}] }`;
  expect(problem(filtered(`{ rules: [${Array(17).fill(rule).join(", ")}] }`))).toContain("at most 1024");
});

test("a peer with certificates, wildcards in its identity and a distinguished name", () => {
  for (const identity of ["moon.lab", "*@example.com", "*.example.com", "*", "C=CH, O=Ex ample, CN=*", "CN=Bärn"]) {
    const { peers } = parseCluster(withAuth(CERTIFICATE, identity, AUTHORITIES, CREDENTIAL), "lab.yaml");
    expect(peers).toMatchObject([{ identity, psk: null, certificate: { authorities: [] } }]);
  }
  const own = ", certificate: { authorities: [a.pem, b.pem] }";
  expect(parseCluster(withAuth(own, "moon.lab", "", CREDENTIAL), "lab.yaml").certificates.authorities).toEqual([]);
});

const WRONG_AUTH: readonly [string, string, string][] = [
  ["neither", withAuth(""), "peers[0].psk: found neither psk nor certificate; allowed: one of psk and certificate"],
  ["both", withAuth(`, psk: { file: x }${CERTIFICATE}`), "found psk and certificate"],
  [
    "a wildcard with a psk",
    withAuth(", psk: { file: x }", "*@example.com"),
    "wildcards only for peers with certificate",
  ],
  ["any with a psk", withAuth(", psk: { file: x }", "%any"), "wildcards only"],
  ["no authorities", withAuth(CERTIFICATE, "moon.lab", "", CREDENTIAL), "peers[0].certificate: found no authorities"],
  ["no certificate of ours", withAuth(CERTIFICATE, "moon.lab", AUTHORITIES), "but no DVIPA has certificates"],
  ["a key ID", withAuth(CERTIFICATE, "keyid:00ff", AUTHORITIES, CREDENTIAL), "key IDs only for peers with psk"],
  ["a blank in a domain", withAuth(CERTIFICATE, "moon lab", AUTHORITIES, CREDENTIAL), 'identity: found "moon lab"'],
  ["a line break", withAuth(CERTIFICATE, "CN=a\\nb", AUTHORITIES, CREDENTIAL), "peers[0].identity: found"],
  [
    "the key itself",
    withAuth(CERTIFICATE, "moon.lab", AUTHORITIES, ", certificates: [{ chain: a, key: [s3cret] }]"),
    "key: found a list (not shown)",
  ],
  ["another policy", withAuth(CERTIFICATE, "a", "certificates: { revocation: maybe }"), "allowed: relaxed or strict"],
];
for (const [what, text, expected] of WRONG_AUTH) {
  test(`authentication of a peer: ${what}`, () => {
    const message = problem(text);
    expect(message).toContain(expected);
    expect(message).not.toContain("s3cret");
  });
}

test("the content of a wrongly placed key is never shown", () => {
  for (const psk of ["s3cret", "[s3cret]", "{ file: 5, key: s3cret }", "{ s3cret: x }"]) {
    const message = replaced("{ file: client.psk }", psk);
    if (psk !== "{ s3cret: x }") expect(message).not.toContain("s3cret");
  }
});

test("any text is a good file or a clear error", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json(), fc.constantFrom("", "[]", "- 1", "null", "peers: 5")), (text) => {
      expect(problem(text)).toMatch(/^lab\.yaml:\d+:\d+: /);
    }),
  );
});

let directory = "";
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), "esplex-config-"))));
afterAll(() => rm(directory, { recursive: true, force: true }));

const peer = (file: string) => ({ name: "client", psk: { file } });

async function psk(name: string, content: string, mode = 0o600): Promise<string> {
  await writeFile(join(directory, name), content, { mode });
  await chmod(join(directory, name), mode);
  return name;
}

const clusterFile = (): string => join(directory, "lab.yaml");
const readKey = async (file: string): Promise<string> =>
  Buffer.from((await readPsk(peer(file), clusterFile())).expose()).toString();

test("a key is read beside the cluster file, without its newline", async () => {
  expect(await readKey(await psk("plain", "key"))).toBe("key");
  expect(await readKey(await psk("newline", "key\n"))).toBe("key");
  expect(await readKey(await psk("crlf", "key\r\n"))).toBe("key");
  expect(await readKey(await psk("two", "key\n\n"))).toBe("key\n");
  expect(await readKey(await psk("long", `${"x".repeat(1024)}\n`))).toHaveLength(1024);
  await symlink("plain", join(directory, "link"));
  expect(await readKey("link")).toBe("key");
});

test("a key that others may read, that is no file, empty or too long is refused, without showing it", async () => {
  const wrong = [
    [await psk("readable", "s3cret", 0o640), "chmod 600"],
    [await psk("empty", "\n"), "1 to 1024 bytes"],
    [await psk("huge", "s3cret".repeat(1000)), "more than"],
    ["missing", "ENOENT"],
    [".", "not a regular file"],
  ] as const;
  for (const [file, text] of wrong) {
    const error = await readPsk(peer(file), clusterFile()).catch((caught: unknown) => caught);
    expect(String(error)).toContain(text);
    expect(String(error)).toContain("peer client");
    expect(String(error)).not.toContain("s3cret");
  }
  await execa("mkfifo", ["-m", "600", join(directory, "fifo")]);
  await expect(readPsk(peer("fifo"), clusterFile())).rejects.toMatchObject({ code: "config.invalid" });
});

test("a file that cannot be read says so", async () => {
  await expect(readClusterFile(join(directory, "none.yaml"))).rejects.toMatchObject({ code: "config.unreadable" });
  await mkdir(join(directory, "folder"));
  await expect(readClusterFile(join(directory, "folder"))).rejects.toMatchObject({ code: "config.unreadable" });
  await writeFile(clusterFile(), GOOD);
  expect((await readClusterFile(clusterFile())).cluster).toBe("lab");
});
