import type { InboxItem } from "./inbox.ts";
import type { GrantBody, ReserveBody } from "./reserve-batch.ts";

/** What a connection does with the outcome of a `reserve`. */
export interface ReservationEnds {
  granted(id: number, body: GrantBody): void;
  refused(id: number, error: unknown): void;
}

/** A `reserve` on its way through the inbox. One object, and no closures: there are hundreds of thousands a second. */
export class Reservation implements InboxItem {
  readonly type = "reserve";
  readonly #handler: (body: ReserveBody) => GrantBody | Promise<GrantBody>;
  readonly #id: number;
  readonly #body: ReserveBody;
  readonly #ends: ReservationEnds;

  constructor(
    handler: (body: ReserveBody) => GrantBody | Promise<GrantBody>,
    id: number,
    body: ReserveBody,
    ends: ReservationEnds,
  ) {
    this.#handler = handler;
    this.#id = id;
    this.#body = body;
    this.#ends = ends;
  }

  run(): GrantBody | Promise<GrantBody> {
    return this.#handler(this.#body);
  }

  done(result: unknown): void {
    this.#ends.granted(this.#id, result as GrantBody);
  }

  failed(error: unknown): void {
    this.#ends.refused(this.#id, error);
  }
}
