import { CookieJar } from "./cookie.ts";
import { initKey, statelessAnswer } from "./exchange/init.ts";
import type { Path } from "./events.ts";
import type { SessionTable } from "./session-table.ts";
import type { IkeSettings } from "./settings.ts";
import type { Step } from "./step.ts";
import { NOTIFY } from "./wire/constants.ts";
import type { IkeHeader } from "./wire/header.ts";
import { outlineInit } from "./wire/init-outline.ts";
import { notify } from "./wire/notify.ts";

/**
 * What an IKE_SA_INIT request must show while many are half open, before it is worth reading: our COOKIE (RFC 7296 §2.6). How
 * many requests come here at all is the kernel's part (`initGuard`).
 */
export class InitGate {
  readonly #cookies: CookieJar;

  constructor(randomBytes: (lengthBytes: number) => Uint8Array, { timing }: IkeSettings) {
    this.#cookies = new CookieJar(randomBytes, timing.cookieSecretMs);
  }

  /** True when the request may be read; otherwise it is counted and answered with a COOKIE. Throws `wire.*`. */
  passes(step: Step, table: SessionTable, path: Path, header: IkeHeader, bytes: Uint8Array): boolean {
    const { remote } = path;
    const fromSource = table.unprovenFrom(remote.address);
    const { cookieThreshold, cookieThresholdPerSource } = step.settings.limits;
    if (table.unproven < cookieThreshold && fromSource < cookieThresholdPerSource) return true;
    // A retransmission to a session that is half open gets its answer once more.
    if (fromSource > 0 && table.byInit(initKey(path, bytes)) !== undefined) return true;

    const { spiI } = header;
    const { nonce, cookie } = outlineInit(header, bytes);
    const subject = { nonceI: nonce, spiI, remote };
    if (cookie !== null) {
      if (this.#cookies.verify(step.nowMs, subject, cookie)) return true;
      step.count("wrongCookie");
    }
    step.count("cookieDemanded");
    const demand = notify(NOTIFY.COOKIE, this.#cookies.issue(step.nowMs, subject));
    step.emit({ kind: "send", ...path, bytes: statelessAnswer(spiI, [demand]) });
    return false;
  }
}
