import type { LabNetwork } from "./network.ts";

/** The lab's own nftables table: its counters are evidence that does not depend on the daemons or on a capture. */
const TABLE = "esplex_lab";

/** The kernel's IPsec error counters of one node, by name (`/proc/net/xfrm_stat`; Documentation/networking/xfrm_proc.rst). */
export async function readXfrmStat(network: LabNetwork, node: string): Promise<ReadonlyMap<string, number>> {
  const text = await network.run(node, ["cat", "/proc/net/xfrm_stat"]);
  const rows = text.split("\n").map((line) => line.trim().split(/\s+/));
  return new Map(rows.flatMap(([name, value]) => (name && value ? [[name, Number(value)] as const] : [])));
}

/** Replies to pings that the client's kernel has got so far (`/proc/net/snmp`, `/proc/net/snmp6`). */
export async function echoReplies({ network }: { readonly network: LabNetwork }, version: 4 | 6): Promise<number> {
  if (version === 6) {
    const text = await network.run("client", ["cat", "/proc/net/snmp6"]);
    return Number(/^Icmp6InEchoReplies\s+(\d+)$/m.exec(text)?.[1] ?? Number.NaN);
  }
  const text = await network.run("client", ["cat", "/proc/net/snmp"]);
  const [names = [], values = []] = text
    .split("\n")
    .filter((line) => line.startsWith("Icmp:"))
    .map((line) => line.trim().split(/\s+/));
  return Number(values[names.indexOf("InEchoReps")] ?? Number.NaN);
}

/** Inbound packets the client's kernel threw away: too old or repeated (`replay`), or with a wrong ICV (`integrity`). */
export async function readClientDrops(
  network: LabNetwork,
): Promise<{ readonly replay: number; readonly integrity: number }> {
  const stat = await readXfrmStat(network, "client");
  return { replay: stat.get("XfrmInStateSeqError") ?? 0, integrity: stat.get("XfrmInStateProtoError") ?? 0 };
}

/** Counts, in a node, the TCP packets to the DVIPA that its own kernel decapsulated (they carry a secpath). */
export async function countDecapsulatedTcp(network: LabNetwork, node: string): Promise<void> {
  await network.run(node, ["nft", "-f", "-"], {
    input: `table inet ${TABLE} {
      counter decapsulated_tcp { }
      chain prerouting {
        type filter hook prerouting priority -400; policy accept;
        meta ipsec exists meta l4proto tcp counter name decapsulated_tcp
      }
    }\n`,
  });
}

/** Packets counted since `countDecapsulatedTcp`. */
export async function readDecapsulatedTcp(network: LabNetwork, node: string): Promise<number> {
  return readCounter(network, node, "inet", "decapsulated_tcp");
}

/**
 * Counts, as they enter any port of the two bridges, packets from or to the DVIPA that are neither ESP, AH nor IKE, nor
 * neighbour discovery, which is to IPv6 what ARP is to IPv4.
 */
export async function countCleartext(network: LabNetwork): Promise<void> {
  const header = network.ipVersion === 4 ? "ip" : "ip6";
  const discovery = network.ipVersion === 4 ? "" : "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } return";
  // Only the first fragment of ESP in UDP has ports: it speaks for the others.
  const laterFragment = network.ipVersion === 4 ? "meta l4proto udp ip frag-off & 0x1fff != 0 return" : "";
  const ports = network.nodes.flatMap((node) => node.interfaces.map((link) => link.port));
  await network.run("net", ["nft", "-f", "-"], {
    input: `table netdev ${TABLE} {
      counter from_dvipa { }
      counter to_dvipa { }
      chain from_dvipa {
        meta l4proto { esp, ah } return
        ${laterFragment}
        udp sport { 500, 4500 } return
        ${discovery}
        counter name from_dvipa
      }
      chain to_dvipa {
        meta l4proto { esp, ah } return
        ${laterFragment}
        udp dport { 500, 4500 } return
        ${discovery}
        counter name to_dvipa
      }
      chain ingress {
        type filter hook ingress devices = { ${ports.join(", ")} } priority 0; policy accept;
        ${header} saddr ${network.dvipa} goto from_dvipa
        ${header} daddr ${network.dvipa} goto to_dvipa
      }
    }\n`,
  });
}

/** Packets counted since `countCleartext`: what the cluster sent, and what others (a client without an SA) sent to it. */
export async function readCleartext(
  network: LabNetwork,
): Promise<{ readonly fromDvipa: number; readonly toDvipa: number }> {
  const [fromDvipa, toDvipa] = await Promise.all([
    readCounter(network, "net", "netdev", "from_dvipa"),
    readCounter(network, "net", "netdev", "to_dvipa"),
  ]);
  return { fromDvipa, toDvipa };
}

async function readCounter(network: LabNetwork, node: string, family: string, name: string): Promise<number> {
  const text = await network.run(node, ["nft", "-j", "list", "counter", family, TABLE, name]);
  const { nftables } = JSON.parse(text) as { nftables: { counter?: { packets: number } }[] };
  const packets = nftables.find((entry) => entry.counter !== undefined)?.counter?.packets;
  if (packets === undefined) throw new Error(`${node}: nft did not show the counter ${name}`);
  return packets;
}
