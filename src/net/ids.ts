/**
 * The numbers by which everything of esplex in a kernel is recognised: it lists, changes and deletes nothing that
 * does not carry one of them, and another program must not use them. All are our choice; none is taken in iproute2's
 * `rt_protos`. 0x455 is "EP".
 */

/** `rtm_protocol` of our routes. */
export const ROUTE_PROTOCOL = 155;
/** `FRA_PROTOCOL` of our ip rules. */
export const RULE_PROTOCOL = 155;
/** `IFA_PROTO` of our addresses (kernel 5.18 and later). */
export const ADDRESS_PROTOCOL = 155;

/** Preference of the rules that send a marked packet to its target's table. */
export const STEERING_RULE_PRIORITY = 90;
/** Where the rule for the `local` table goes, so that the steering rules come first (measured). */
export const LOCAL_RULE_PRIORITY = 100;

/** Highest target index of a node. */
const STEERING_INDEX_MAX = 0xfffff;
/** Upper bits of our packet marks, routing table numbers and reqids. */
const ID_PREFIX = 0x45500000;
const ID_PREFIX_MASK = 0xfff00000;

/** Steering rules compare the whole mark. */
export const STEERING_MARK_MASK = 0xffffffff;

/**
 * The packet mark of target number `index` (1…`STEERING_INDEX_MAX`). Its routing table has the same number: one
 * number to look for.
 */
export function steeringMark(index: number): number {
  return withPrefix(index);
}

/**
 * Marks of packets that this node decrypts for target number `index` and hands over in GRE: first while it is protected still,
 * and must not be routed on, then when it has passed the filter. They differ in `HAND_OVER_PENDING` alone.
 */
export function pendingMark(index: number): number {
  return withPrefix(HAND_OVER_PENDING | HAND_OVER | handOverIndex(index));
}

/** As `steeringMark`, for the way in GRE; the routing table has the same number. */
export function handOverMark(index: number): number {
  return withPrefix(HAND_OVER | handOverIndex(index));
}

export const HAND_OVER_PENDING = 0x80000;
const HAND_OVER = 0x40000;
/** `mark & PENDING_MASK` is `PENDING_VALUE` for pending marks, whatever the target. */
export const PENDING_MASK = 0xfffc0000;
export const PENDING_VALUE = 0x455c0000;
/** On a target: what came in GRE from a distributor, which has decrypted and filtered it. */
export const HANDED_OVER_MARK = 0x4553ffff;
/** On a distributor: what came back in GRE from a target, to be protected here. */
export const RETURNED_MARK = 0x4553fffd;
/** An ICMP error about a packet that this node has sent, as its distributor knows. */
export const ICMP_ERROR_MARK = 0x4553fffe;
/** Apart from targets' tables, which have small numbers, and from marks. */
const RETURN_TABLES = 0x20000;
/** Key (RFC 2890) of the GRE between nodes: other tunnels of their hosts stay apart. */
export const GRE_KEY = 0x45500001;
/** What the names of our GRE interfaces begin with. */
export const GRE_NAME_PREFIX = "esplexg";

/** Targets have small numbers; the rest is for marks of other kinds. */
function handOverIndex(index: number): number {
  if (!Number.isInteger(index) || index < 1 || index >= 0x20000) throw new RangeError(`no target has number ${index}`);
  return index;
}

/** The routing table of target number `index`. */
export function steeringTable(index: number): number {
  return withPrefix(index);
}

/** On a target: the routing table of the way back to the distributor, for DVIPA number `index` of those that have one. */
export function returnTable(index: number): number {
  return withPrefix(RETURN_TABLES + index);
}

/** The reqid of tunnel number `index` (1…0xfffff): joins our XFRM policies and states. */
export function tunnelReqid(index: number): number {
  return withPrefix(index);
}

/** The reqid of policies that wait for an SA: no state ever has it, so that a packet that needs one makes the kernel ask. */
export const TRAP_REQID = withPrefix(STEERING_INDEX_MAX);

/** True for marks, tables and reqids made here. */
export function hasOurPrefix(id: number): boolean {
  return (id & ID_PREFIX_MASK) >>> 0 === ID_PREFIX;
}

function withPrefix(index: number): number {
  if (!Number.isInteger(index) || index < 1 || index > STEERING_INDEX_MAX) {
    throw new RangeError(`index ${index} is not in 1…${STEERING_INDEX_MAX}`);
  }
  return ID_PREFIX + index;
}
