/**
 * What a node has sent on the outbound half of an SA, though leases rewrite the kernel's counters all the time.
 *
 * Packets are counted by the sequence numbers that the state went through, bytes by the kernel's counter. A write sets that counter
 * to what was read before it (`leases.ts`), so the bytes of the packets that left between reading and writing are lost to the
 * kernel. How many packets those were is known after an extension, and after an install (it sets the number as well) from the
 * rate since the last write; their bytes are taken for those of the packets before. A state that died at its limit has used
 * all its numbers, and so has one that is found missing: what it may have sent counts as sent.
 */
import { max, min } from "../core/bigint.ts";

/** What the kernel says, as `LeaseReading` has it. */
interface Reading {
  readonly oseq: bigint;
  readonly leftNumbers: bigint;
  readonly lastSendable: bigint;
  readonly bytes: bigint;
}

/** What was sent since the first reading, with the kernel's marks then and now (`sa/use.ts`, U4). */
export interface Sent {
  readonly bytes: bigint;
  readonly packets: bigint;
  readonly start: SentMark;
  readonly now: SentMark;
}

interface SentMark {
  readonly bytes: bigint;
  /** The last sequence number. */
  readonly number: bigint;
}

interface Look extends Reading {
  readonly atMs: number;
}

/** Counts one SA's outbound half over all its kernel states. Pure: every reading and write of the state comes here, in order. */
export class OutboundUse {
  #bytes = 0n;
  #packets = 0n;
  #start: SentMark | null = null;
  #mark: SentMark = { bytes: 0n, number: 0n };
  /** The last reading; null while there is no state. */
  #last: Look | null = null;
  /** The one after the last write. */
  #written: Look | null = null;

  get sent(): Sent {
    return { bytes: this.#bytes, packets: this.#packets, start: this.#start ?? this.#mark, now: this.#mark };
  }

  /** A state was added that may send the numbers `[first, end)`. */
  born(first: bigint, end: bigint, nowMs: number): void {
    this.#start ??= { bytes: 0n, number: 0n };
    this.#last = { oseq: first - 1n, leftNumbers: end - first, lastSendable: end - 1n, bytes: 0n, atMs: nowMs };
    this.#written = this.#last;
  }

  /** The state was read. */
  looked(reading: Reading, nowMs: number): void {
    const last = this.#last;
    this.#start ??= { bytes: reading.bytes, number: reading.oseq };
    if (last !== null) {
      this.#packets += max(0n, reading.oseq - last.oseq);
      this.#bytes += max(0n, reading.bytes - last.bytes);
    }
    this.#see(reading, nowMs);
    this.#written ??= this.#last;
  }

  /** The credit alone was written, and the state read again: an extension, or a park. */
  credited(credit: bigint, after: Reading, nowMs: number): void {
    this.#wrote(after.lastSendable - credit, after, nowMs);
  }

  /** A lease that starts at `first` was written, and the state read again. */
  installed(first: bigint, after: Reading, nowMs: number): void {
    const before = this.#last;
    if (before === null) return;
    this.#wrote(before.oseq + this.#sentDuring(before, nowMs), after, nowMs, first - 1n);
  }

  /** The state is gone; `bytes` is what it had counted, null when nobody knows. */
  ended(bytes: bigint | null): void {
    const last = this.#last;
    if (last === null) return;
    const rest = last.lastSendable - last.oseq;
    this.#bytes += bytes === null || bytes < last.bytes ? rest * this.#bytesEach(last) : bytes - last.bytes;
    this.#packets += rest;
    this.#mark = { bytes: max(last.bytes, bytes ?? 0n), number: last.lastSendable };
    this.#last = this.#written = null;
  }

  /** We take the state away: the numbers that it has left go unused. */
  retired(): void {
    this.#last = this.#written = null;
  }

  /** `writtenAt`: the last number when the write took effect; `from`: what the write made of it. */
  #wrote(writtenAt: bigint, after: Reading, nowMs: number, from = writtenAt): void {
    const before = this.#last;
    if (before === null) return;
    const unseen = max(0n, writtenAt - before.oseq);
    this.#bytes += unseen * this.#bytesEach(before) + max(0n, after.bytes - before.bytes);
    this.#packets += unseen + max(0n, after.oseq - from);
    this.#see(after, nowMs);
    this.#written = this.#last;
  }

  #see({ oseq, leftNumbers, lastSendable, bytes }: Reading, atMs: number): void {
    this.#last = { oseq, leftNumbers, lastSendable, bytes, atMs };
    this.#mark = { bytes, number: oseq };
  }

  /** Of a packet since the last write, rounded up; of all packets when there was none. */
  #bytesEach({ oseq, bytes }: Look): bigint {
    const written = this.#written;
    const packets = written === null ? 0n : oseq - written.oseq;
    if (written !== null && packets > 0n) return (bytes - written.bytes + packets - 1n) / packets;
    return this.#packets === 0n ? 0n : (this.#bytes + this.#packets - 1n) / this.#packets;
  }

  /**
   * Packets that left between a reading and now, at the rate since the last write, and for no longer than that rate was watched: of
   * a burst that was seen a millisecond after a write nobody knows how long it went on.
   */
  #sentDuring({ oseq, leftNumbers, atMs }: Look, nowMs: number): bigint {
    const written = this.#written;
    if (written === null || atMs <= written.atMs) return 0n;
    const watchedMs = atMs - written.atMs;
    const perMs = Number(oseq - written.oseq) / watchedMs;
    return min(leftNumbers, BigInt(Math.ceil(Math.max(0, perMs * Math.min(watchedMs, nowMs - atMs)))));
  }
}
