import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { DVIPA } from "../../netns/layout.ts";
import type { LabNetwork } from "../../netns/network.ts";

const SENDER = fileURLToPath(new URL("send-datagrams.ts", import.meta.url));
const DIALLER = fileURLToPath(new URL("dial-bus.ts", import.meta.url));

/** One UDP datagram to send. */
export interface Datagram {
  /** One of the sender's own addresses; default: as the route says. */
  readonly sourceAddress?: string;
  readonly address: string;
  readonly port: number;
  readonly hex: string;
}

/** Sends datagrams from inside `node`. */
export async function sendDatagrams(network: LabNetwork, node: string, datagrams: readonly Datagram[]): Promise<void> {
  await network.run(node, [process.execPath, SENDER], { input: JSON.stringify(datagrams) });
}

/** One connection to the bus that says something wrong. */
export interface BusCall {
  readonly host: string;
  readonly port: number;
  /** Certificate and key files; null: plain TCP. */
  readonly credentials: readonly [string, string] | null;
  readonly hex: string;
  /** Whether to end the connection after the bytes, instead of waiting for the other side to do so. */
  readonly thenEnd: boolean;
}

/** Makes the call from inside `node`; tells whether it got through the handshake and whether the service hung up. */
export async function dialBus(
  network: LabNetwork,
  node: string,
  call: BusCall,
): Promise<{ readonly connected: boolean; readonly closedByPeer: boolean }> {
  const said = await network.run(node, [process.execPath, DIALLER], { input: JSON.stringify(call) });
  return JSON.parse(said) as { connected: boolean; closedByPeer: boolean };
}

/** Bytes that look random and are the same in every run. */
export function noise(seed: string, lengthBytes: number): Buffer {
  const blocks: Buffer[] = [];
  for (let have = 0, i = 0; have < lengthBytes; have += 32, i += 1) {
    blocks.push(createHash("sha256").update(`${seed} ${i}`).digest());
  }
  return Buffer.concat(blocks).subarray(0, lengthBytes);
}

/** An IKE header (RFC 7296 §3.1) with the given fields; `length` may lie. */
function ikeHeader(fields: {
  readonly nextPayload: number;
  readonly version?: number;
  readonly exchange?: number;
  readonly flags?: number;
  readonly messageId?: number;
  readonly length: number;
  readonly responderSpi?: Buffer;
}): Buffer {
  const header = Buffer.alloc(28);
  noise("initiator", 8).copy(header, 0);
  fields.responderSpi?.copy(header, 8);
  header.writeUInt8(fields.nextPayload, 16);
  header.writeUInt8(fields.version ?? 0x20, 17);
  header.writeUInt8(fields.exchange ?? 34, 18);
  header.writeUInt8(fields.flags ?? 0x08, 19);
  header.writeUInt32BE(fields.messageId ?? 0, 20);
  header.writeUInt32BE(fields.length, 24);
  return header;
}

/**
 * One of each kind of IKE message that must do no harm. Each comes three times: to port 500 of the DVIPA, to port 4500,
 * and to port 4500 behind the non-ESP marker.
 */
export function hostileIke(): Datagram[][] {
  const generic = (next: number, length: number, body: Buffer, critical = 0): Buffer => {
    const head = Buffer.from([next, critical, length >> 8, length & 0xff]);
    return Buffer.concat([head, body]);
  };
  const whole = (nextPayload: number, payloads: Buffer, changes: object = {}): Buffer =>
    Buffer.concat([ikeHeader({ nextPayload, length: 28 + payloads.length, ...changes }), payloads]);
  const messages: Buffer[] = [
    ...[1, 3, 4, 27, 28, 29, 100, 576, 1400].map((length) => noise(`random ${length}`, length)),
    noise("oversized", 60_000),
    whole(33, Buffer.alloc(0)),
    whole(0, Buffer.alloc(0), { version: 0x10 }),
    whole(0, Buffer.alloc(0), { version: 0x30 }),
    whole(0, Buffer.alloc(0), { version: 0x2f }),
    whole(0, Buffer.alloc(0), { length: 27 }),
    whole(0, Buffer.alloc(0), { length: 0xffff_ffff }),
    whole(33, generic(0, 3, Buffer.alloc(40))),
    whole(33, generic(0, 0xffff, Buffer.alloc(40))),
    whole(33, Buffer.concat(Array.from({ length: 300 }, () => generic(33, 4, Buffer.alloc(0))))),
    whole(200, generic(0, 12, Buffer.alloc(8), 0x80)),
    whole(
      33,
      Buffer.concat([
        generic(34, 20, noise("sa", 16)),
        generic(40, 24, noise("ke", 20)),
        generic(0, 20, noise("nonce", 16)),
      ]),
    ),
    whole(46, generic(0, 100, noise("sk", 96)), { exchange: 35, messageId: 1, responderSpi: noise("responder", 8) }),
    whole(46, generic(0, 100, noise("sk", 96)), {
      exchange: 37,
      messageId: 7,
      flags: 0x20,
      responderSpi: noise("r", 8),
    }),
    whole(53, generic(0, 60, Buffer.concat([Buffer.from([0, 9, 0, 3]), noise("fragment", 52)])), {
      exchange: 35,
      messageId: 1,
    }),
  ];
  return messages.map((message) => [
    { address: DVIPA, port: 500, hex: message.toString("hex") },
    { address: DVIPA, port: 4500, hex: message.toString("hex") },
    { address: DVIPA, port: 4500, hex: `00000000${message.subarray(0, 60_000).toString("hex")}` },
  ]);
}
