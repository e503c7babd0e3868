/** How long an offer of ours may take to be answered and installed; after it the SPI is one like any other. Our choice: longer than IKE repeats a request. */
const OFFER_MS = 300_000;

/** Offers that are remembered; each refused exchange of a peer may leave one. Our choice. */
const MAX_OFFERS = 16_384;

interface Offer {
  readonly untilMs: number;
  readonly installed: Promise<void>;
  readonly finish: () => void;
}

/**
 * Inbound SPIs that we have told a peer, and that are not in the kernels of all nodes yet. A peer may send as soon as it has
 * answered (RFC 7296 §2.8), so its first packets may be here before its answer is, or before the targets have the SA.
 */
export class OfferedSpis {
  readonly #offers = new Map<number, Offer>();

  offer(spi: number, nowMs: number): void {
    this.#forgetOld(nowMs);
    const [oldest] = this.#offers.keys();
    if (oldest !== undefined && this.#offers.size >= MAX_OFFERS) this.settle(oldest);
    let finish = (): void => {};
    const installed = new Promise<void>((resolve) => (finish = resolve));
    this.#offers.set(spi, { untilMs: nowMs + OFFER_MS, installed, finish });
  }

  has(spi: number): boolean {
    return this.#offers.has(spi);
  }

  /** Resolves when the SA is installed, or will not be; null for an SPI that nobody waits for. */
  untilInstalled(spi: number): Promise<void> | null {
    return this.#offers.get(spi)?.installed ?? null;
  }

  /** The SA is on all nodes, or will never be. */
  settle(spi: number): void {
    this.#offers.get(spi)?.finish();
    this.#offers.delete(spi);
  }

  /** Offers are made in the order of time, so the old ones stand first. */
  #forgetOld(nowMs: number): void {
    for (const [spi, { untilMs }] of this.#offers) {
      if (untilMs > nowMs) return;
      this.settle(spi);
    }
  }
}
