/** Wanted states and policies as lines for `ip -batch`: the same algorithms, windows, limits, selectors and priorities. */
import type { PolicySpec } from "../../src/xfrm/policies.ts";
import type { PolicySelector } from "../../src/xfrm/selectors.ts";
import type { Wanted } from "../../src/xfrm/shadow.ts";
import { LEASE_PACKET_LIMIT, type StateSpec } from "../../src/xfrm/states.ts";

/** In the order of the reconciler: what blocks, then states, then the policies that use them. The lines hold keys. */
export function installLines({ states, policies }: Wanted): string[] {
  const isBlock = ({ template }: PolicySpec): boolean => template === null;
  return [
    ...policies.filter(isBlock).map(addPolicyLine),
    ...states.map(addStateLine),
    ...policies.filter((policy) => !isBlock(policy)).map(addPolicyLine),
  ];
}

export function removeLines({ states, policies }: Wanted): string[] {
  return [
    ...policies.map(({ direction, selector }) => `xfrm policy delete ${selectorWords(selector)} dir ${direction}`),
    ...states.map(({ id, source }) => `xfrm state delete src ${source} dst ${id.destination} proto esp spi ${id.spi}`),
  ];
}

function addStateLine({ id, source, mode, reqid, suite, encryptionKey, esn, ...state }: StateSpec): string {
  if (suite.kind !== "aes-gcm-16" || esn) throw new Error("the batch knows AES-GCM with 32-bit numbers alone");
  const key = Buffer.from(encryptionKey.expose()).toString("hex");
  const window = state.replayWindowPackets > 0 ? ` replay-window ${state.replayWindowPackets}` : "";
  const limit = state.allowance.kind === "unlimited" ? "" : ` limit packet-hard ${LEASE_PACKET_LIMIT}`;
  return (
    `xfrm state add src ${source} dst ${id.destination} proto esp spi ${id.spi} reqid ${reqid} mode ${mode}${window} ` +
    `aead rfc4106(gcm(aes)) 0x${key} 128${limit}`
  );
}

function addPolicyLine({ direction, selector, action, priority, template }: PolicySpec): string {
  if (template !== null && template.endpoints !== null) throw new Error("the batch knows transport mode alone");
  const words = template === null ? "" : ` tmpl proto esp reqid ${template.reqid} mode ${template.mode}`;
  const verdict = action === "block" ? " action block" : "";
  return `xfrm policy add ${selectorWords(selector)} dir ${direction} priority ${priority}${verdict}${words}`;
}

function selectorWords({ source, destination, protocol, sourcePort, destinationPort }: PolicySelector): string {
  if (protocol !== 0 || sourcePort.mask !== 0 || destinationPort.mask !== 0) {
    throw new Error("the batch knows selectors of addresses alone");
  }
  return `src ${source.address}/${source.prefixBits} dst ${destination.address}/${destination.prefixBits}`;
}
