import { RateLimit } from "../core/rate-limit.ts";
import { CookieJar } from "./cookie.ts";
import { initKey, statelessAnswer } from "./exchange/init.ts";
import type { Path } from "./events.ts";
import { Repetitions } from "./repetitions.ts";
import type { SessionTable } from "./session-table.ts";
import type { IkeSettings } from "./settings.ts";
import type { Step } from "./step.ts";
import { NOTIFY } from "./wire/constants.ts";
import type { IkeHeader } from "./wire/header.ts";
import { outlineInit } from "./wire/init-outline.ts";
import { notify } from "./wire/notify.ts";

/**
 * What an IKE_SA_INIT request must show while many are half open, before it is worth reading: our COOKIE (RFC 7296 §2.6). More of
 * them than we ask for one in each second are a flood: then only those that come a second time are asked, since a real
 * initiator repeats its request (§2.1), and a packet of the flood costs little more than its way up to us. A flood that repeats
 * its requests as an initiator does is answered.
 */
export class InitGate {
  readonly #cookies: CookieJar;
  readonly #demands: RateLimit;
  readonly #repetitions: Repetitions;

  constructor(randomBytes: (lengthBytes: number) => Uint8Array, { limits, timing }: IkeSettings) {
    this.#cookies = new CookieJar(randomBytes, timing.cookieSecretMs);
    this.#demands = new RateLimit(limits.cookiesPerSecond);
    this.#repetitions = new Repetitions(randomBytes);
  }

  /** True when the request may be read; otherwise it is counted, and answered with a COOKIE or not. Throws `wire.*`. */
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
    if (this.#repetitions.isRepeated(step.nowMs, remote, spiI) || this.#demands.take(step.nowMs)) {
      step.count("cookieDemanded");
      const demand = notify(NOTIFY.COOKIE, this.#cookies.issue(step.nowMs, subject));
      step.emit({ kind: "send", ...path, bytes: statelessAnswer(spiI, [demand]) });
    } else {
      step.count("cookieWithheld");
    }
    return false;
  }
}
