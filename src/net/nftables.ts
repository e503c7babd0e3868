import { execa } from "execa";
import { EsplexError } from "../core/errors.ts";
import { Attributes } from "./netlink-message.ts";
import { NETLINK_NETFILTER, NetlinkSocket } from "./netlink-socket.ts";
import { nfgenmsg } from "./nfnetlink.ts";

export type NftFamily = "ip" | "ip6" | "inet" | "netdev";

/** include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h: `NFNL_SUBSYS_NFTABLES` is 10. */
const NFNLGRP_NFTABLES = 7;
const NFT_MSG_DELTABLE = (10 << 8) | 2;
const NFTA_TABLE_NAME = 1;

const NFT_TIMEOUT_MS = 10_000;
/** Our rulesets have tens of lines; this bounds what a listing may return. */
const NFT_OUTPUT_MAX_BYTES = 16 * 1024 * 1024;
/** `nft` stands in /usr/sbin, which a user's PATH may lack. */
const PATH = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;

/** One object of `nft -j list`: `{ "rule": {…} }` and the like (libnftables-json(5)). */
export type NftObject = Readonly<Record<string, unknown>>;

/**
 * Applies a whole ruleset text in one kernel transaction: all of it or nothing. `kernel.refused` carries nft's first
 * complaint in `details.extack`; `kernel.missing` when there is no `nft`.
 */
export async function applyRuleset(ruleset: string): Promise<void> {
  await nft(["-f", "-"], "apply nftables ruleset", ruleset);
}

/** Deletes the table if it is there, atomically and without an error if it is not. */
export async function deleteTable(family: NftFamily, name: string): Promise<void> {
  const table = `table ${family} ${checkedName(name)}`;
  await nft(["-f", "-"], `delete ${table}`, `add ${table}\ndelete ${table}\n`);
}

/** The objects of one table, or null when it is not there. */
export async function listTable(family: NftFamily, name: string): Promise<readonly NftObject[] | null> {
  const tables = await listObjects(["list", "tables", family]);
  const isThere = tables.some((object) =>
    JSON.stringify(object).includes(`"name":${JSON.stringify(checkedName(name))}`),
  );
  return isThere ? listObjects(["list", "table", family, name]) : null;
}

/**
 * Calls `onDeleted` when a table whose name begins so has been deleted in the current namespace, by whomever, or events were
 * lost.
 */
export function watchDeletedTables(
  prefix: string,
  onDeleted: () => void,
  onFault: (error: unknown) => void,
): NetlinkSocket {
  return NetlinkSocket.open(NETLINK_NETFILTER, {
    groups: [NFNLGRP_NFTABLES],
    onMessage: ({ type, body }) => {
      if (type !== NFT_MSG_DELTABLE) return;
      const name = new Attributes(body, nfgenmsg.size).text(NFTA_TABLE_NAME);
      if (name?.startsWith(prefix) === true) onDeleted();
    },
    onOverrun: onDeleted,
    onFault,
  });
}

/** Names of the tables of a family. */
export async function listTables(family: NftFamily): Promise<string[]> {
  const objects = await listObjects(["list", "tables", family]);
  return objects.flatMap(({ table }) => (isNamed(table) ? [table.name] : []));
}

/** Packets and bytes of the named counters of a table; null when it is not there. */
export async function listCounters(
  family: NftFamily,
  name: string,
): Promise<ReadonlyMap<string, { readonly packets: number; readonly bytes: number }> | null> {
  if (!(await listTables(family)).includes(checkedName(name))) return null;
  const objects = await listObjects(["list", "counters", "table", family, name]);
  return new Map(
    objects.flatMap(({ counter }) => {
      if (!isNamed(counter) || !("packets" in counter) || !("bytes" in counter)) return [];
      return [[counter.name, { packets: Number(counter.packets), bytes: Number(counter.bytes) }]];
    }),
  );
}

function isNamed(object: unknown): object is { readonly name: string } {
  return typeof object === "object" && object !== null && "name" in object && typeof object.name === "string";
}

async function listObjects(command: readonly string[]): Promise<readonly NftObject[]> {
  const text = await nft(["-j", ...command], `nft ${command.join(" ")}`);
  const parsed: unknown = JSON.parse(text);
  if (typeof parsed === "object" && parsed !== null && "nftables" in parsed && Array.isArray(parsed.nftables)) {
    return parsed.nftables.filter((entry): entry is NftObject => typeof entry === "object" && entry !== null);
  }
  throw new EsplexError("wire.malformed", "nft printed JSON without a list called nftables");
}

async function nft(args: readonly string[], operation: string, input = ""): Promise<string> {
  const options = {
    input,
    reject: false,
    timeout: NFT_TIMEOUT_MS,
    maxBuffer: NFT_OUTPUT_MAX_BYTES,
    env: { PATH },
  } as const;
  const result = await execa("nft", args, options);
  if (result.code === "ENOENT") {
    throw new EsplexError("kernel.missing", "no program called nft: install nftables", { operation });
  }
  if (result.failed) {
    const [firstLine = "no message"] = result.stderr.split("\n");
    throw new EsplexError("kernel.refused", `${operation}: ${firstLine}`, { operation, extack: firstLine });
  }
  return result.stdout;
}

function checkedName(name: string): string {
  if (!/^[A-Za-z][\w.-]*$/.test(name)) throw new EsplexError("config.invalid", `not an nftables name: ${name}`);
  return name;
}
