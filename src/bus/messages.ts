/**
 * Every message of the cluster bus: one table of requests, one of notices. The schemas check what comes in; `encode`
 * turns bodies whose program form is not plain JSON into their wire form.
 */
import { z } from "zod";
import { dvipaFilter } from "./filter-wire.ts";
import { ipAddress, nodeName, saId, u16, u32, u64 } from "./fields.ts";
import { MAX_SELECTORS, selector, sharedSa, sharedSaToWire } from "./sa-wire.ts";
import { MAX_WINDOW_PACKETS } from "../sa/spec.ts";

/** One cluster: nodes, and the DVIPAs that one of them distributes. */
export const MAX_MEMBERS = 256;
const MAX_DVIPAS = 256;
const MAX_PORTS = 1024;
/** SAs that one node mirrors. */
const MAX_SAS = 65_536;
/** SAs in one part of a snapshot; the frame limit binds earlier. */
const MAX_SAS_A_PART = 4096;

/** Peers that traffic brings up: as many as a cluster file has. */
export const MAX_TRAPS = 4096;
/** SAs in one question for what a node has received on them. */
export const MAX_ASKED_SAS = 256;
/** SAs in one report of what they carried. */
export const MAX_USE_REPORTS = 256;

const empty = z.strictObject({});
const ok = z.strictObject({ ok: z.boolean() });
const useCounts = z.strictObject({ inBytes: u64, inPackets: u64, outBytes: u64, outPackets: u64 });
/** `ReceivedNumbers`; the bits in hex on the wire. */
const receivedNumbers = z.strictObject({
  highest: u64,
  bits: z
    .string()
    .max(MAX_WINDOW_PACKETS / 4)
    .regex(/^([0-9a-f]{2})*$/)
    .transform((text): Uint8Array => new Uint8Array(Buffer.from(text, "hex"))),
});
const digest = z.string().regex(/^[0-9a-f]{64}$/);

const member = z.strictObject({
  name: nodeName,
  /** Where it takes targets' connections; null for a node that distributes nothing. */
  listen: z.strictObject({ address: ipAddress, port: u16.min(1) }).nullable(),
  /** DVIPAs that the cluster file lets it distribute. */
  distributes: z.array(ipAddress).max(MAX_DVIPAS),
  connected: z.boolean(),
});

/** One node as the coupling service knows it. */
export type Member = z.output<typeof member>;

const members = z.array(member).max(MAX_MEMBERS);

/** When packets may go out on the outbound half: at once, or not before `saUseOutbound`. */
const outbound = z.enum(["now", "hold"]);

const dvipa = z.strictObject({
  address: ipAddress,
  epoch: u64,
  /** TCP ports that are distributed. */
  ports: z.union([z.literal("ALL"), z.array(u16.min(1)).max(MAX_PORTS)]),
  /** The distributor decrypts what goes to the targets, or some of it, and hands it over in GRE. */
  handsOver: z.boolean(),
});

/** A TCP connection to a DVIPA, seen from the client. */
const connection = z.strictObject({ client: ipAddress, clientPort: u16, dvipa: ipAddress, port: u16 });
/** Connections in one question; each costs the target a look-up. */
export const MAX_ASKED_CONNECTIONS = 512;
/** Connections in one part of a snapshot, and in one notice: far below a frame. */
export const MAX_TOLD_CONNECTIONS = 2048;
/** Ports of DVIPAs that one target's applications listen on. */
export const MAX_LISTENERS = 8192;
/** From 0, idle, to 1, full. */
const load = z.number().min(0).max(1);

/** Requests: each is answered once, by its response or by an error. */
export const REQUESTS = {
  // node → coupling service
  /** The first message of a node. `instance` is new with every start of its process. */
  hello: {
    request: z.strictObject({
      node: nodeName,
      instance: z.string().regex(/^[0-9a-zA-Z-]{1,64}$/),
      listen: z.strictObject({ address: ipAddress, port: u16.min(1) }).nullable(),
      distributes: z.array(ipAddress).max(MAX_DVIPAS),
    }),
    /** `instance` is the coupling service's own. */
    response: z.strictObject({ instance: z.string().max(64), members }),
  },
  /** Makes the sender the owner of a DVIPA under a new epoch; SAs of older epochs get no numbers any more. */
  own: { request: z.strictObject({ dvipa: ipAddress }), response: z.strictObject({ epoch: u64 }) },
  /** Opens an SA's number line, or carries it over into a new epoch. Owner only. */
  registerSa: {
    request: z.strictObject({
      sa: saId,
      dvipa: ipAddress,
      epoch: u64,
      firstNumber: u64,
      windowPackets: u32.min(1).max(65_536),
      esn: z.boolean(),
      /** The cipher makes its IV from the number: the nonce budget ends the line. */
      counterNonce: z.boolean(),
      /** SPI and destination of the SA's packets: without them the ledger cannot be held against captures. */
      spi: u32.min(256).optional(),
      /** Of the SPI; ESP when absent. */
      protocol: z.enum(["esp", "ah"]).optional(),
      peer: ipAddress.optional(),
    }),
    response: empty,
  },
  /**
   * Before a kernel state of the SA's outbound key may send: how many the sender's process has made that may, this one included.
   * `cluster.exhausted`: the nonce budget has no room for it.
   */
  countInstances: {
    request: z.strictObject({ sa: saId, epoch: u64, count: u32.min(1) }),
    response: empty,
  },
  /** Ends an SA's number line for good. Owner only. */
  retireSa: { request: z.strictObject({ sa: saId, dvipa: ipAddress, epoch: u64 }), response: empty },
  /**
   * Asks for numbers. `nextUnsent` is the lowest number that the sender's kernel may still send, 0 when it holds none.
   * The answer may hold fewer than `count`. `[first, end)`; `highWater` is the end of the last grant to anyone.
   * The hot message: `request` and its grants travel in batches (`reserve-batch.ts`), an error as any other.
   */
  reserve: {
    request: z.strictObject({ sa: saId, epoch: u64, count: u32.min(1), nextUnsent: u64 }),
    response: z.strictObject({
      first: u64,
      end: u64,
      highWater: u64,
      /** Nodes that hold a live lease, the asking one included. */
      holders: z.number().int().min(1).max(MAX_MEMBERS),
      /** The SA's numbers come to their end: negotiate a new one now. */
      rekeySoon: z.boolean(),
    }),
  },
  /**
   * The sender's kernel can send nothing on this SA any more; what it had left is burnt. `nextUnsent` is 0, or lies above numbers
   * that the kernel may have used without a lease: the SA is spoilt.
   */
  release: { request: z.strictObject({ sa: saId, epoch: u64, nextUnsent: u64 }), response: empty },

  /** After a recall: from where on the sender's kernel sends now. Others wait for it. */
  reportLease: { request: z.strictObject({ sa: saId, epoch: u64, nextUnsent: u64 }), response: empty },

  /** Who was granted the number of a packet, of which the low 32 bits are known? Null: not known, or no longer. Owner only. */
  holderOf: {
    request: z.strictObject({ sa: saId, dvipa: ipAddress, sequence: u32 }),
    response: z.strictObject({ node: nodeName.nullable() }),
  },

  // target → distributor
  /** The first message of a target; the distributor follows with a snapshot. */
  join: {
    request: z.strictObject({
      node: nodeName,
      shadow: z.array(saId).max(MAX_SAS),
      /** Its address on the trusted link of the IP version that the bus does not use; null when it has none. */
      otherAddress: ipAddress.nullable(),
    }),
    response: empty,
  },
  /**
   * What the sender's kernel has carried on SAs with a lifesize: cumulative (`sa/use.ts`). The answer says, for each SA of the
   * report that is there, how much the sender may carry before it reports again.
   */
  saUse: {
    request: z.strictObject({
      /** New with every start of the sender's process. */
      process: z.string().regex(/^[0-9a-f]{32}$/),
      round: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER),
      sas: z
        .array(z.strictObject({ sa: saId, total: useCounts, start: useCounts, now: useCounts }))
        .min(1)
        .max(MAX_USE_REPORTS),
    }),
    response: z.strictObject({
      shares: z
        .array(z.strictObject({ sa: saId, bytes: u64.nullable(), packets: u64.nullable() }))
        .max(MAX_USE_REPORTS),
    }),
  },
  /** The connections to its DVIPAs that the target has, in parts 0, 1, …: after a join, and when it missed the end of some. */
  connections: {
    request: z.strictObject({
      part: u32,
      last: z.boolean(),
      connections: z.array(connection).max(MAX_TOLD_CONNECTIONS),
    }),
    response: empty,
  },
  /**
   * A program of the target opens this connection, and its first segment waits (seeds: NEWCONN). `ok`: its answers will be sent on to the
   * target, which holds a lease.
   */
  openConnection: { request: z.strictObject({ connection }), response: ok },
  /** May I give my lease back? `ok` means that the distributor takes the target as inactive from now on. */
  leaseIdle: { request: z.strictObject({ sa: saId }), response: ok },

  // distributor → target
  /** The whole set, in parts: parts 0, 1, … in order, applied when `last` arrives. */
  snapshot: {
    request: z.strictObject({
      part: u32,
      last: z.boolean(),
      dvipas: z.array(dvipa).max(MAX_DVIPAS),
      sas: z
        .array(
          z.strictObject({
            sa: sharedSa,
            outbound,
            /** What the nodes have authenticated so far: a state that is made now starts there. */
            received: receivedNumbers.nullable(),
          }),
        )
        .max(MAX_SAS_A_PART),
      /** The filters of those DVIPAs that have one; in the first part. */
      filters: z
        .array(z.strictObject({ dvipa: ipAddress, filter: dvipaFilter }))
        .max(MAX_DVIPAS)
        .optional(),
    }),
    response: empty,
  },
  /** Traffic of the target's DVIPAs that may ask for an SA (`acquire`): all of it, in parts 0, 1, …, applied when `last` arrives. */
  traps: {
    request: z.strictObject({
      part: u32,
      last: z.boolean(),
      traps: z
        .array(
          z.strictObject({
            dvipa: ipAddress,
            peer: ipAddress,
            mode: z.enum(["transport", "tunnel"]),
            local: z.array(selector).min(1).max(MAX_SELECTORS),
            remote: z.array(selector).min(1).max(MAX_SELECTORS),
          }),
        )
        .max(MAX_TRAPS),
    }),
    response: empty,
  },
  saInstall: { request: z.strictObject({ sa: sharedSa, epoch: u64, outbound }), response: empty },
  saUseOutbound: { request: z.strictObject({ id: saId }), response: empty },
  /** The peer of an SA in UDP has another port. */
  saMove: { request: z.strictObject({ id: saId, peerUdpPort: u16.min(1) }), response: empty },
  saRemove: { request: z.strictObject({ id: saId }), response: empty },
  /** Answered once the target's kernel holds a live lease; `ok: false` when it cannot get one. */
  leaseWant: { request: z.strictObject({ sa: saId }), response: ok },
  /** Which of these has the target? One answer for each, in order; `closing`: only late segments are answered. */
  haveConnections: {
    request: z.strictObject({ connections: z.array(connection).max(MAX_ASKED_CONNECTIONS) }),
    response: z.strictObject({
      presences: z.array(z.enum(["open", "halfOpen", "closing", "absent"])).max(MAX_ASKED_CONNECTIONS),
    }),
  },
  /** What has the target's kernel received on these inbound states? One answer for each, in order; null: it does not have it. */
  received: {
    request: z.strictObject({ sas: z.array(saId).min(1).max(MAX_ASKED_SAS) }),
    response: z.strictObject({
      received: z.array(receivedNumbers.extend({ bornSeconds: u64 }).nullable()).max(MAX_ASKED_SAS),
    }),
  },
  /** Compares sets; `ok: false` when the target's differs (it then sends `resync`). */
  digest: { request: z.strictObject({ digest }), response: ok },
} as const;

/** Notices: one way, no answer. */
const NOTICES = {
  // coupling service → node
  members: z.strictObject({ members }),
  /** Your lease lags behind: refresh it, or park. */
  recall: z.strictObject({ sa: saId, highWater: u64, holders: z.number().int().min(0).max(MAX_MEMBERS) }),
  /** To all but the new owner: the DVIPA has a new owner, or the same one a new epoch. SAs registered under an older epoch get no numbers. */
  fenced: z.strictObject({ dvipa: ipAddress, epoch: u64 }),
  /** To the owner: the SA's numbers come to their end. */
  rekeySoon: z.strictObject({ sa: saId }),
  // target → distributor
  resync: empty,
  /** All ports of its DVIPAs on which applications listen, with the fill of their accept queues; `cpuLoad` is the host's. */
  listeners: z.strictObject({
    listeners: z.array(z.strictObject({ dvipa: ipAddress, port: u16.min(1), load })).max(MAX_LISTENERS),
    cpuLoad: load,
  }),
  /** The target has these connections no more. */
  closed: z.strictObject({ connections: z.array(connection).max(MAX_TOLD_CONNECTIONS) }),
  /** A packet from the DVIPA to `destination` needs an SA that is not there (seeds: NEWCONN). */
  acquire: z.strictObject({ dvipa: ipAddress, destination: ipAddress }),
} as const;

export type RequestType = keyof typeof REQUESTS;
export type NoticeType = keyof typeof NOTICES;
/** A request's body in its program form (`bigint`, `Secret`). */
export type RequestBody<T extends RequestType> = z.output<(typeof REQUESTS)[T]["request"]>;
export type ResponseBody<T extends RequestType> = z.output<(typeof REQUESTS)[T]["response"]>;
export type NoticeBody<T extends NoticeType> = z.output<(typeof NOTICES)[T]>;

/** Request types whose handler may take long without holding up the messages behind it. */
export const CONCURRENT_REQUESTS: ReadonlySet<RequestType> = new Set<RequestType>([
  "reserve",
  "countInstances",
  "leaseWant",
  "leaseIdle",
  "haveConnections",
  "openConnection",
  "received",
]);

export function isRequestType(type: unknown): type is RequestType {
  return typeof type === "string" && Object.hasOwn(REQUESTS, type);
}

export function isNoticeType(type: unknown): type is NoticeType {
  return typeof type === "string" && Object.hasOwn(NOTICES, type);
}

/** JSON text of a request's body. */
export function encodeRequest<T extends RequestType>(type: T, body: RequestBody<T>): string {
  if (type === "saInstall") {
    const { sa, ...rest } = body as RequestBody<"saInstall">;
    return encodeBody({ ...rest, sa: sharedSaToWire(sa) });
  }
  if (type === "snapshot") {
    const { sas, ...rest } = body as RequestBody<"snapshot">;
    return encodeBody({ ...rest, sas: sas.map((entry) => ({ ...entry, sa: sharedSaToWire(entry.sa) })) });
  }
  return encodeBody(body);
}

/** JSON text of a response's body. */
export function encodeResponse<T extends RequestType>(_type: T, body: ResponseBody<T>): string {
  return encodeBody(body);
}

/** JSON text of a notice's body. */
export function encodeNotice<T extends NoticeType>(_type: T, body: NoticeBody<T>): string {
  return encodeBody(body);
}

function encodeBody(body: unknown): string {
  return JSON.stringify(body, (_key, value: unknown) => {
    if (typeof value === "bigint") return value.toString();
    return value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value;
  });
}

/** The body of a request, checked; null when it breaks the schema. */
export function decodeRequest<T extends RequestType>(type: T, body: unknown): RequestBody<T> | null {
  const parsed = REQUESTS[type].request.safeParse(body);
  return parsed.success ? (parsed.data as RequestBody<T>) : null;
}

/** The body of a response, checked; null when it breaks the schema. */
export function decodeResponse<T extends RequestType>(type: T, body: unknown): ResponseBody<T> | null {
  const parsed = REQUESTS[type].response.safeParse(body);
  return parsed.success ? (parsed.data as ResponseBody<T>) : null;
}

/** The body of a notice, checked; null when it breaks the schema. */
export function decodeNotice<T extends NoticeType>(type: T, body: unknown): NoticeBody<T> | null {
  const parsed = NOTICES[type].safeParse(body);
  return parsed.success ? (parsed.data as NoticeBody<T>) : null;
}
