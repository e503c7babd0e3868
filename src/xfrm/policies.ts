/** Policies in the kernel, as `ip xfrm policy` shows them. */
import { u32, type ValueOf } from "../core/struct.ts";
import { hasOurPrefix } from "../net/ids.ts";
import {
  addressFromUnion,
  addressUnion,
  anyAddress,
  asFamily,
  familyOf,
  type AddressFamily,
} from "../net/inet-address.ts";
import {
  Attributes,
  MessageBuilder,
  numberBytes,
  type NetlinkMessage,
  type NetlinkRequest,
} from "../net/netlink-message.ts";
import type { NetlinkSocket } from "../net/netlink-socket.ts";
import {
  IPPROTO_AH,
  IPPROTO_ESP,
  XFRM_MODE_TRANSPORT,
  XFRM_MODE_TUNNEL,
  XFRM_MSG_DELPOLICY,
  XFRM_MSG_GETPOLICY,
  XFRM_MSG_NEWPOLICY,
  XFRM_MSG_UPDPOLICY,
  XFRMA_IF_ID,
  XFRMA_MARK,
  XFRMA_POLICY_TYPE,
  XFRMA_TMPL,
} from "./constants.ts";
import { selectorKey, type PolicySelector } from "./selectors.ts";
import type { StateProtocol } from "./states.ts";
import type { xfrmSelector } from "./structs.ts";
import { UNLIMITED, xfrmUserpolicyId, xfrmUserpolicyInfo, xfrmUserTmpl } from "./structs.ts";

/** Priorities of our policies; the lower number wins. Other key managers' are far above or at 0. */
export const POLICY_PRIORITY = {
  /** What must pass beside the SAs: IKE, forwarded ESP. */
  exemption: 45_501,
  /** Policies of SAs start here; wider selectors add up to `saSpan`. */
  sa: 46_000,
  saSpan: 998,
  /** Makes the kernel ask for an SA where there is none. */
  trap: 46_999,
  /** Nothing of a DVIPA in clear. */
  block: 47_000,
} as const;

const DIRECTIONS = ["in", "out", "fwd"] as const;
const ALL_ALGORITHMS = 0xffffffff;
const ACTION_ALLOW = 0;
const ACTION_BLOCK = 1;
const WHOLE_MARK = 0xffffffff;

/** What a packet must have gone through, or will: one transformation, of ESP or of AH. */
export interface PolicyTemplate {
  readonly protocol: StateProtocol;
  readonly mode: "transport" | "tunnel";
  readonly reqid: number;
  /** Tunnel end points; null in transport mode: those of the packet. */
  readonly endpoints: { readonly source: string; readonly destination: string } | null;
}

/** A policy as we want it. */
export interface PolicySpec {
  readonly direction: (typeof DIRECTIONS)[number];
  readonly selector: PolicySelector;
  readonly action: "allow" | "block";
  readonly priority: number;
  readonly template: PolicyTemplate | null;
  /** Only for packets with exactly this mark, one of ours; absent: for all. */
  readonly mark?: number | undefined;
}

/** A policy as the kernel has it. */
export interface KernelPolicy extends PolicySpec {
  readonly index: number;
  /** Has a part that our `PolicySpec` cannot express (mark, interface, several templates): never ours. */
  readonly isForeign: boolean;
}

/** Equivalent to `ip xfrm policy add`. EEXIST when there is one for the same direction and selector. */
export async function addPolicy(xfrm: NetlinkSocket, policy: PolicySpec): Promise<void> {
  await xfrm.request(policyRequest("add", policy));
}

/** Equivalent to `ip xfrm policy update`: adds, or replaces in one step. */
export async function updatePolicy(xfrm: NetlinkSocket, policy: PolicySpec): Promise<void> {
  await xfrm.request(policyRequest("update", policy));
}

/** ENOENT when it is not there. */
export async function deletePolicy(xfrm: NetlinkSocket, policy: PolicySpec): Promise<void> {
  await xfrm.request(deletePolicyRequest(policy));
}

/** Equivalent to `ip xfrm policy list`, without the policies of sockets. */
export async function listPolicies(xfrm: NetlinkSocket): Promise<KernelPolicy[]> {
  const build = (): NetlinkRequest => new MessageBuilder().request(XFRM_MSG_GETPOLICY, 0, "list policies");
  return xfrm.dump(build, decodePolicy);
}

/** Ours by priority, and by reqid where there is a template. */
export function isOurPolicy(policy: KernelPolicy): boolean {
  const { exemption, block } = POLICY_PRIORITY;
  const isOurRange = policy.priority >= exemption && policy.priority <= block;
  return !policy.isForeign && isOurRange && (policy.template === null || hasOurPrefix(policy.template.reqid));
}

/** The kernel has at most one policy per key. */
export function policyKey({ direction, selector, mark }: PolicySpec): string {
  return `${direction} ${selectorKey(selector)}${mark === undefined ? "" : ` mark 0x${mark.toString(16)}`}`;
}

/** True when the kernel's policy is what we want. */
export function samePolicy(a: PolicySpec, b: PolicySpec): boolean {
  return (
    policyKey(a) === policyKey(b) &&
    a.action === b.action &&
    a.priority === b.priority &&
    sameTemplate(a.template, b.template)
  );
}

export function policyRequest(verb: "add" | "update", policy: PolicySpec): NetlinkRequest {
  const { direction, selector, action, priority, template } = policy;
  const builder = new MessageBuilder().headOf(xfrmUserpolicyInfo, {
    sel: encodeSelector(selector),
    lft: UNLIMITED,
    priority,
    dir: DIRECTIONS.indexOf(direction),
    action: action === "allow" ? ACTION_ALLOW : ACTION_BLOCK,
  });
  if (template !== null) builder.attributeOf(XFRMA_TMPL, xfrmUserTmpl, templateOf(template, selectorFamily(selector)));
  if (policy.mark !== undefined) builder.attribute(XFRMA_MARK, ...exactMark(policy.mark));
  const type = verb === "add" ? XFRM_MSG_NEWPOLICY : XFRM_MSG_UPDPOLICY;
  return builder.request(type, 0, `${verb} policy ${policyKey(policy)}`);
}

export function deletePolicyRequest(policy: PolicySpec): NetlinkRequest {
  return namePolicy(policy).request(XFRM_MSG_DELPOLICY, 0, `delete policy ${policyKey(policy)}`);
}

/** ENOENT when there is none of this direction and selector. */
export function getPolicyRequest(policy: PolicySpec): NetlinkRequest {
  return namePolicy(policy).request(XFRM_MSG_GETPOLICY, 0, `read policy ${policyKey(policy)}`);
}

function namePolicy({ selector, direction, mark }: PolicySpec): MessageBuilder {
  const id = { sel: encodeSelector(selector), dir: DIRECTIONS.indexOf(direction) };
  const builder = new MessageBuilder().headOf(xfrmUserpolicyId, id);
  return mark === undefined ? builder : builder.attribute(XFRMA_MARK, ...exactMark(mark));
}

/** `struct xfrm_mark`: value and mask. */
function exactMark(mark: number): readonly [Uint8Array, Uint8Array] {
  return [numberBytes(u32, mark), numberBytes(u32, WHOLE_MARK)];
}

/** The mark of a policy of ours; null when it has none, undefined when it is no exact one of ours. */
function ourMark(bytes: Uint8Array | null): number | null | undefined {
  if (bytes === null) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length !== 8 || u32.read(view, 4) !== WHOLE_MARK) return undefined;
  const mark = u32.read(view, 0);
  return hasOurPrefix(mark) ? mark : undefined;
}

function sameTemplate(a: PolicyTemplate | null, b: PolicyTemplate | null): boolean {
  if (a === null || b === null) return a === b;
  const sameEnds = a.endpoints?.source === b.endpoints?.source && a.endpoints?.destination === b.endpoints?.destination;
  return a.protocol === b.protocol && a.mode === b.mode && a.reqid === b.reqid && sameEnds;
}

function selectorFamily(selector: PolicySelector): AddressFamily {
  return familyOf(selector.source.address);
}

function templateOf(
  { protocol, mode, reqid, endpoints }: PolicyTemplate,
  family: AddressFamily,
): Partial<ValueOf<typeof xfrmUserTmpl>> {
  const outer = endpoints === null ? family : familyOf(endpoints.source);
  const { source, destination } = endpoints ?? { source: anyAddress(family), destination: anyAddress(family) };
  return {
    id: { daddr: addressUnion(destination), spi: 0, proto: protocol },
    family: outer,
    saddr: addressUnion(source),
    reqid,
    mode: mode === "tunnel" ? XFRM_MODE_TUNNEL : XFRM_MODE_TRANSPORT,
    aalgos: ALL_ALGORITHMS,
    ealgos: ALL_ALGORITHMS,
    calgos: ALL_ALGORITHMS,
  };
}

function encodeSelector(selector: PolicySelector): ValueOf<typeof xfrmSelector> {
  const { source, destination, protocol, sourcePort, destinationPort } = selector;
  return {
    daddr: addressUnion(destination.address),
    saddr: addressUnion(source.address),
    dport: destinationPort.port,
    dportMask: destinationPort.mask,
    sport: sourcePort.port,
    sportMask: sourcePort.mask,
    family: selectorFamily(selector),
    prefixlenD: destination.prefixBits,
    prefixlenS: source.prefixBits,
    proto: protocol,
    ifindex: 0,
    user: 0,
  };
}

/** The selector of a policy, a state or an acquire. */
export function decodeSelector(sel: ValueOf<typeof xfrmSelector>): PolicySelector {
  const family = asFamily(sel.family);
  return {
    source: { address: addressFromUnion(sel.saddr, family), prefixBits: sel.prefixlenS },
    destination: { address: addressFromUnion(sel.daddr, family), prefixBits: sel.prefixlenD },
    protocol: sel.proto,
    sourcePort: { port: sel.sport, mask: sel.sportMask },
    destinationPort: { port: sel.dport, mask: sel.dportMask },
  };
}

/** The first template of an `XFRMA_TMPL` attribute; others than ours have protocols of any number. */
export function decodeTemplate(bytes: Uint8Array): Omit<PolicyTemplate, "protocol"> & { readonly protocol: number } {
  const { id, family, saddr, reqid, mode } = xfrmUserTmpl.decode(bytes);
  const outer = asFamily(family);
  const endpoints = { source: addressFromUnion(saddr, outer), destination: addressFromUnion(id.daddr, outer) };
  const isTunnel = mode === XFRM_MODE_TUNNEL;
  return { mode: isTunnel ? "tunnel" : "transport", reqid, endpoints: isTunnel ? endpoints : null, protocol: id.proto };
}

/** Null for a policy of a socket. */
export function decodePolicy(message: NetlinkMessage): KernelPolicy | null {
  const info = xfrmUserpolicyInfo.decode(message.body);
  const direction = DIRECTIONS[info.dir];
  if (direction === undefined) return null;
  const attributes = new Attributes(message.body, xfrmUserpolicyInfo.size);
  const bytes = attributes.bytes(XFRMA_TMPL);
  const found = bytes === null ? null : decodeTemplate(bytes);
  const template = found === null ? null : ourTemplate(found);
  const [type = 0] = attributes.bytes(XFRMA_POLICY_TYPE) ?? [];
  const mark = ourMark(attributes.bytes(XFRMA_MARK));
  const hasExtras = mark === undefined || attributes.has(XFRMA_IF_ID) || type !== 0 || info.sel.ifindex !== 0;
  return {
    direction,
    selector: decodeSelector(info.sel),
    action: info.action === ACTION_ALLOW ? "allow" : "block",
    priority: info.priority,
    template,
    ...(typeof mark === "number" ? { mark } : {}),
    index: info.index,
    isForeign:
      hasExtras ||
      (found !== null && template === null) ||
      (bytes?.length ?? 0) > xfrmUserTmpl.size ||
      info.sel.user !== 0,
  };
}

/** Null when it is of neither ESP nor AH. */
function ourTemplate({ protocol, ...template }: ReturnType<typeof decodeTemplate>): PolicyTemplate | null {
  return protocol === IPPROTO_ESP || protocol === IPPROTO_AH ? { protocol, ...template } : null;
}
