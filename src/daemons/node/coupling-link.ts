import { BusClient } from "../../bus/client.ts";
import type { BusConnection } from "../../bus/connection.ts";
import type { Member, NoticeBody, RequestBody, RequestType, ResponseBody } from "../../bus/messages.ts";
import type { BusOptions } from "../../bus/server.ts";
import { EsplexError } from "../../core/errors.ts";

export interface CouplingLinkOptions {
  readonly bus: BusOptions;
  readonly host: string;
  readonly port: number;
  /** New with every start of the process. */
  readonly instance: string;
  readonly listen: { readonly address: string; readonly port: number } | null;
  readonly distributes: readonly string[];
  /** Called each time the service has answered the hello; a rejection makes the link dial again. */
  readonly onOpen: () => Promise<void>;
  readonly onMembers: (members: readonly Member[]) => void;
  readonly onRecall: (recall: NoticeBody<"recall">) => void;
  readonly onFenced: (fenced: NoticeBody<"fenced">) => void;
  readonly onRekeySoon: (rekey: NoticeBody<"rekeySoon">) => void;
}

/** What a node may ask of the coupling service once it has said hello. */
type CouplingRequest = Extract<
  RequestType,
  "own" | "registerSa" | "countInstances" | "retireSa" | "reserve" | "release" | "reportLease" | "holderOf"
>;

/** The node's standing connection to the coupling service: dials for ever, says hello, passes notices on. */
export class CouplingLink {
  readonly #options: CouplingLinkOptions;
  readonly #client: BusClient;
  #ready: BusConnection | null = null;

  constructor(options: CouplingLinkOptions) {
    this.#options = options;
    this.#client = new BusClient({
      ...options.bus,
      host: options.host,
      port: options.port,
      expect: { kind: "coupling", cluster: options.bus.cluster },
      handlers: () => ({
        notices: {
          members: ({ members }) => options.onMembers(members),
          recall: options.onRecall,
          fenced: options.onFenced,
          rekeySoon: options.onRekeySoon,
        },
      }),
      onOpen: (connection) => this.#opened(connection),
      onClose: (_connection, reason) => {
        this.#ready = null;
        options.bus.log.warn("the coupling service is out of reach; leases run out until it is back", { reason });
      },
    });
  }

  get isOpen(): boolean {
    return this.#ready !== null;
  }

  /** `bus.closed` at once while the service is out of reach. */
  async request<T extends CouplingRequest>(type: T, body: RequestBody<T>): Promise<ResponseBody<T>> {
    if (this.#ready === null) throw new EsplexError("bus.closed", `${type}: the coupling service is out of reach`);
    return this.#ready.request(type, body);
  }

  close(): void {
    this.#client.close();
  }

  async #opened(connection: BusConnection): Promise<void> {
    const { bus, instance, listen, distributes, onOpen, onMembers } = this.#options;
    const { members } = await connection.request("hello", {
      node: bus.self,
      instance,
      listen: listen === null ? null : { ...listen },
      distributes: [...distributes],
    });
    this.#ready = connection;
    bus.log.info("connected to the coupling service");
    onMembers(members);
    await onOpen();
  }
}
