/**
 * The proof. From the ledger:
 *
 * L1 Grants of an SA follow on each other: each begins where the last ended, or, after a restart of the service, at the
 *    ceiling that it found. So no number is granted twice.
 * L2 A grant ends at or below the ceiling that was durable before it; ceilings only rise.
 * L3 A grant bears the epoch of its SA, which is the current one of its DVIPA; epochs only rise. An SA that ended stays so.
 * L4 A burnt range was granted, and is burnt once.
 *
 * From captures: L5 no (protocol, SPI, destination, sequence number) comes twice, L6 each lies in a grant, L7 no IV comes twice under one
 * key (one SA, one key) where the IV is made from the number.
 *
 * A process that was killed may have granted numbers that it had not written yet. They lie between its last record and the
 * ceiling that the next one found: a packet there is `unrecorded`, neither proved nor refuted. L5 and L7 hold for it too.
 */
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import type { IpsecProtocol } from "../sa/suite.ts";
import { LedgerAccount, type UnusedReason } from "./ledger-account.ts";
import type { LedgerLine, LedgerRecord } from "./ledger-record.ts";

/** How many violations are named; all are counted. */
const MAX_NAMED = 20;

/** An ESP or AH packet of a capture. */
export interface SeenPacket {
  readonly protocol: IpsecProtocol;
  readonly source: string;
  readonly destination: string;
  readonly spi: number;
  /** The low 32 bits that travel. */
  readonly sequence: number;
  /** The first 8 bytes after the ESP header; null when the capture does not hold them, and for AH. */
  readonly iv: bigint | null;
  /** Wall clock. */
  readonly atMs: number;
}

/** What was proved, or what stands against it. */
export interface LedgerVerdict {
  readonly proven: boolean;
  /** Breaches of L1 to L4. */
  readonly violations: number;
  readonly duplicates: number;
  readonly duplicateIvs: number;
  readonly outsideLease: number;
  /** Packets with numbers that a killed process may have granted without a record. */
  readonly unrecorded: number;
  readonly sas: number;
  readonly grants: number;
  /** Packets of the ledger's SAs; others are left out. */
  readonly packets: number;
  /** Numbers. `used` were seen; `outstanding` were granted, are not burnt and were not seen: held, or sent where no capture looked. */
  readonly granted: bigint;
  readonly used: bigint;
  readonly outstanding: bigint;
  readonly burnt: Readonly<Partial<Record<UnusedReason, bigint>>>;
  /** The first breaches of all kinds, in words. */
  readonly named: readonly string[];
}

/** Takes the records of one or more ledgers in order, then the packets of captures. */
export class LedgerVerifier {
  /** By SA id; by LINE within the process that is read; by what names an SA on the wire (RFC 4301 §4.1). */
  readonly #accounts = new Map<string, LedgerAccount>();
  readonly #lines = new Map<number, LedgerAccount>();
  readonly #onWire = new Map<string, LedgerAccount[]>();
  readonly #owners = new Map<string, { readonly epoch: bigint; readonly owner: string }>();
  readonly #dvipas = new Set<string>();
  readonly #named: string[] = [];
  readonly #count = { violations: 0, duplicates: 0, outsideLease: 0, unrecorded: 0, grants: 0, packets: 0 };
  #process: "none" | "running" | "stopped" = "none";
  #endedInOrder = false;

  /** `where` names the record in what is said about it. */
  take(record: LedgerRecord, where: string): void {
    const breach = this.#breach(record);
    if (breach === null) return;
    this.#count.violations++;
    this.#name(`${where}: ${breach}`);
  }

  /** True when the packet counts: it is of an SA of the ledger, or claims to come from one of its DVIPAs. */
  takePacket(packet: SeenPacket): boolean {
    const { source, sequence, iv } = packet;
    const name = wireName(packet);
    const account = this.#accountOf(packet);
    if (account === null) {
      if (!this.#dvipas.has(source)) return false;
      this.#count.packets++;
      this.#count.outsideLease++;
      this.#name(`${name}: number ${sequence} was sent on an SA that the ledger does not know`);
      return true;
    }
    this.#count.packets++;
    const number = account.wholeNumber(sequence);
    if (iv !== null && account.line.counterNonce) account.ivs.add(iv);
    if (!account.seen.add(number)) {
      this.#count.duplicates++;
      this.#name(`${name}: number ${number} was sent twice`);
      return true;
    }
    const standing = account.standing(number);
    if (standing === "granted") account.usedNumbers++;
    else if (standing === "unrecorded") this.#count.unrecorded++;
    else {
      this.#count.outsideLease++;
      this.#name(`${name}: number ${number} was sent and never granted`);
    }
    return true;
  }

  verdict(): LedgerVerdict {
    let duplicateIvs = 0;
    const burnt: Partial<Record<UnusedReason, bigint>> = {};
    let [granted, used, burntOfGranted] = [0n, 0n, 0n];
    for (const account of this.#accounts.values()) {
      for (const iv of account.ivs.repeated()) {
        duplicateIvs++;
        this.#name(`SA ${account.line.sa}: IV ${iv.toString(16).padStart(16, "0")} was used twice under its key`);
      }
      granted += account.grantedNumbers;
      used += BigInt(account.usedNumbers);
      for (const [reason, numbers] of account.unused()) {
        burnt[reason] = (burnt[reason] ?? 0n) + numbers;
        if (reason !== "serviceStop" && reason !== "serviceCrash") burntOfGranted += numbers;
      }
    }
    const { violations, duplicates, outsideLease } = this.#count;
    const proven = violations + duplicates + duplicateIvs + outsideLease === 0;
    const outstanding = granted - used - burntOfGranted;
    const numbers = { granted, used, outstanding, burnt };
    return { proven, ...this.#count, duplicateIvs, sas: this.#accounts.size, ...numbers, named: this.#named };
  }

  /** Applies a record; says which rule it breaks. */
  #breach(record: LedgerRecord): string | null {
    if (record.kind === "start") {
      this.#endedInOrder = this.#process === "stopped";
      this.#process = "running";
      this.#lines.clear();
      return null;
    }
    const isRunning = this.#process === "running";
    if (record.kind === "stop") this.#process = "stopped";
    if (!isRunning) return `"${record.kind}" after the end of a process or before its start`;
    switch (record.kind) {
      case "stop":
        return null;
      case "own":
        return this.#own(record.dvipa, record.epoch, record.owner);
      case "line":
        return this.#line(record);
      default:
    }
    const account = this.#lines.get(record.line);
    if (account === undefined) return `line ${record.line} was not opened`;
    if (account.isRetired) return `${record.kind} on SA ${account.line.sa}, which has ended (L3)`;
    switch (record.kind) {
      case "epoch":
        if (record.epoch < account.epoch) return `the epoch of SA ${account.line.sa} goes back to ${record.epoch} (L3)`;
        account.epoch = record.epoch;
        return null;
      case "ceiling":
        if (record.ceiling <= account.ceiling) return `the ceiling of SA ${account.line.sa} does not rise (L2)`;
        account.ceiling = record.ceiling;
        return null;
      case "grant":
        return this.#grant(account, record);
      case "burnt":
        return burntBreach(account, record);
      case "retired":
        account.isRetired = true;
        return null;
    }
  }

  #own(dvipa: string, epoch: bigint, owner: string): string | null {
    const known = this.#owners.get(dvipa);
    this.#dvipas.add(dvipa);
    this.#owners.set(dvipa, { epoch, owner });
    // A process repeats at its start what it found.
    if (known === undefined || epoch > known.epoch || (epoch === known.epoch && owner === known.owner)) return null;
    return `${dvipa} goes from epoch ${known.epoch} of ${known.owner} to epoch ${epoch} of ${owner} (L3)`;
  }

  #line(line: LedgerLine): string | null {
    this.#dvipas.add(line.dvipa);
    const known = this.#accounts.get(line.sa);
    if (known === undefined) {
      const account = new LedgerAccount(line);
      this.#accounts.set(line.sa, account);
      this.#lines.set(line.line, account);
      if (line.spi !== null && line.peer !== null) {
        const { protocol, spi } = line;
        const name = wireName({ protocol, destination: ipFromBytes(ipToBytes(line.peer)), spi });
        this.#onWire.set(name, [...(this.#onWire.get(name) ?? []), account]);
      }
      return line.first <= line.ceiling ? null : `SA ${line.sa} begins above its ceiling (L2)`;
    }
    this.#lines.set(line.line, known);
    if (line.origin === "opened") return `SA ${line.sa} was opened before (L1)`;
    if (known.isRetired) return `SA ${line.sa} has ended and is back (L3)`;
    const { ceiling } = known;
    known.skip(line.ceiling > ceiling ? line.ceiling : ceiling, this.#endedInOrder ? "serviceStop" : "serviceCrash");
    known.epoch = line.epoch;
    return line.ceiling >= ceiling ? null : `the ceiling of SA ${line.sa} fell from ${ceiling} to ${line.ceiling} (L2)`;
  }

  #grant(account: LedgerAccount, record: LedgerRecord & { kind: "grant" }): string | null {
    const { first, end, epoch } = record;
    const { sa, dvipa } = account.line;
    this.#count.grants++;
    const name = `[${first}, ${end}) of SA ${sa}`;
    if (first >= end) return `${name} is no range (L1)`;
    if (first !== account.next) {
      const why = first < account.next ? "was granted before" : "leaves numbers out";
      if (end > account.next) account.grant(first > account.next ? first : account.next, end);
      return `${name} ${why}: the next number was ${account.next} (L1)`;
    }
    account.grant(first, end);
    if (end > account.ceiling) return `${name} goes beyond the ceiling ${account.ceiling} (L2)`;
    if (epoch !== account.epoch) return `${name} was granted under epoch ${epoch}, the SA has ${account.epoch} (L3)`;
    const current = this.#owners.get(dvipa)?.epoch;
    if (epoch !== current) return `${name} was granted under epoch ${epoch}, ${dvipa} has ${current ?? "none"} (L3)`;
    return null;
  }

  /** The SA that a packet is of; an SPI that was used again is another SA from its registration on. */
  #accountOf(packet: SeenPacket): LedgerAccount | null {
    const { atMs } = packet;
    const accounts = this.#onWire.get(wireName(packet));
    if (accounts === undefined) return null;
    return accounts.findLast(({ line }) => line.atMs <= atMs) ?? accounts[0] ?? null;
  }

  #name(breach: string): void {
    if (this.#named.length < MAX_NAMED) this.#named.push(breach);
  }
}

function burntBreach(account: LedgerAccount, record: LedgerRecord & { kind: "burnt" }): string | null {
  const { first, end, reason } = record;
  const name = `[${first}, ${end}) of SA ${account.line.sa}`;
  if (first >= end) return `${name} is no range (L4)`;
  if (!account.wasGranted(first, end)) return `${name} is burnt and was never granted (L4)`;
  const before = account.burn(first, end, reason);
  return before === 0 ? null : `${before} numbers of ${name} were burnt before (L4)`;
}

function wireName({ protocol, destination, spi }: Pick<SeenPacket, "protocol" | "destination" | "spi">): string {
  return `${destination}${protocol === "ah" ? " AH" : ""} SPI 0x${spi.toString(16).padStart(8, "0")}`;
}
