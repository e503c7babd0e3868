/** The C structs of include/uapi/linux/xfrm.h that esplex uses. Names as there, members in camelCase. */
import { be16, be32, raw, s32, struct, u16, u32, u64, u8, type ValueOf } from "../core/struct.ts";
import { XFRM_INF } from "./constants.ts";

/** `xfrm_address_t`: IPv4 uses the first four bytes. */
const address = raw(16, 4);

/** `struct xfrm_id` */
const xfrmId = struct("xfrm_id", 24, { daddr: address, spi: be32, proto: u8 });

/** `struct xfrm_selector` */
export const xfrmSelector = struct("xfrm_selector", 56, {
  daddr: address,
  saddr: address,
  dport: be16,
  dportMask: be16,
  sport: be16,
  sportMask: be16,
  family: u16,
  prefixlenD: u8,
  prefixlenS: u8,
  proto: u8,
  ifindex: s32,
  user: u32,
});

/** `struct xfrm_lifetime_cfg`: limits; bytes and packets at `XFRM_INF`, seconds at 0 never end. */
const xfrmLifetimeCfg = struct("xfrm_lifetime_cfg", 64, {
  softBytes: u64,
  hardBytes: u64,
  softPackets: u64,
  hardPackets: u64,
  softAddSeconds: u64,
  hardAddSeconds: u64,
  softUseSeconds: u64,
  hardUseSeconds: u64,
});

/** `struct xfrm_lifetime_cur`: what was used; times in seconds since 1970. */
export const xfrmLifetimeCur = struct("xfrm_lifetime_cur", 32, {
  bytes: u64,
  packets: u64,
  addTime: u64,
  useTime: u64,
});

/** `struct xfrm_stats` */
const xfrmStats = struct("xfrm_stats", 12, { replayWindow: u32, replay: u32, integrityFailed: u32 });

/** `struct xfrm_usersa_info` */
export const xfrmUsersaInfo = struct("xfrm_usersa_info", 224, {
  sel: xfrmSelector,
  id: xfrmId,
  saddr: address,
  lft: xfrmLifetimeCfg,
  curlft: xfrmLifetimeCur,
  stats: xfrmStats,
  seq: u32,
  reqid: u32,
  family: u16,
  mode: u8,
  replayWindow: u8,
  flags: u8,
});

/** `struct xfrm_encap_tmpl`: the ports as they travel; the original address is for transport mode. */
export const xfrmEncapTmpl = struct("xfrm_encap_tmpl", 24, {
  type: u16,
  sourcePort: be16,
  destinationPort: be16,
  originalAddress: address,
});

/** `struct xfrm_usersa_id` */
export const xfrmUsersaId = struct("xfrm_usersa_id", 24, { daddr: address, spi: be32, family: u16, proto: u8 });

/** `struct xfrm_userspi_info` */
export const xfrmUserspiInfo = struct("xfrm_userspi_info", 232, { info: xfrmUsersaInfo, min: u32, max: u32 });

/** No limit of bytes, packets or time (time 0 is none), for states and policies. */
export const UNLIMITED: ValueOf<typeof xfrmLifetimeCfg> = {
  ...xfrmLifetimeCfg.decode(new Uint8Array(xfrmLifetimeCfg.size)),
  ...{ softBytes: XFRM_INF, hardBytes: XFRM_INF, softPackets: XFRM_INF, hardPackets: XFRM_INF },
};

/** `struct xfrm_userpolicy_info` */
export const xfrmUserpolicyInfo = struct("xfrm_userpolicy_info", 168, {
  sel: xfrmSelector,
  lft: xfrmLifetimeCfg,
  curlft: xfrmLifetimeCur,
  priority: u32,
  index: u32,
  dir: u8,
  action: u8,
  flags: u8,
  share: u8,
});

/** `struct xfrm_userpolicy_id` */
export const xfrmUserpolicyId = struct("xfrm_userpolicy_id", 64, { sel: xfrmSelector, index: u32, dir: u8 });

/** `struct xfrm_user_tmpl` */
export const xfrmUserTmpl = struct("xfrm_user_tmpl", 64, {
  id: xfrmId,
  family: u16,
  saddr: address,
  reqid: u32,
  mode: u8,
  share: u8,
  optional: u8,
  aalgos: u32,
  ealgos: u32,
  calgos: u32,
});

/** `struct xfrm_algo`, without its key. */
export const xfrmAlgo = struct("xfrm_algo", 68, { name: raw(64), keyBits: u32 });
/** `struct xfrm_algo_auth`, without its key. */
export const xfrmAlgoAuth = struct("xfrm_algo_auth", 72, { name: raw(64), keyBits: u32, truncBits: u32 });
/** `struct xfrm_algo_aead`, without its key. */
export const xfrmAlgoAead = struct("xfrm_algo_aead", 72, { name: raw(64), keyBits: u32, icvBits: u32 });

/** `struct xfrm_aevent_id`; the kernel ignores `saddr` and `reqid` in requests. */
export const xfrmAeventId = struct("xfrm_aevent_id", 48, {
  saId: xfrmUsersaId,
  saddr: address,
  flags: u32,
  reqid: u32,
});

/** `struct xfrm_replay_state`: a state with 32-bit numbers and a window of at most 32. */
export const xfrmReplayState = struct("xfrm_replay_state", 12, { oseq: u32, seq: u32, bitmap: raw(4, 4) });

/** `struct xfrm_replay_state_esn`, without its bitmap of `bmpWords` 32-bit words. */
export const xfrmReplayStateEsn = struct("xfrm_replay_state_esn", 24, {
  bmpWords: u32,
  oseq: u32,
  seq: u32,
  oseqHi: u32,
  seqHi: u32,
  replayWindow: u32,
});

/** `struct xfrm_user_expire` */
export const xfrmUserExpire = struct("xfrm_user_expire", 232, { state: xfrmUsersaInfo, hard: u8 });

/** `struct xfrm_user_acquire` */
export const xfrmUserAcquire = struct("xfrm_user_acquire", 280, {
  id: xfrmId,
  saddr: address,
  sel: xfrmSelector,
  policy: xfrmUserpolicyInfo,
  aalgos: u32,
  ealgos: u32,
  calgos: u32,
  seq: u32,
});

/** Payload of `XFRMA_LASTUSED`. */
export const xfrmLastused = struct("XFRMA_LASTUSED", 8, { seconds: u64 });
