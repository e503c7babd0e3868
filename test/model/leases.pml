/*
 * Leases of one SA, from reserve to the wire: two nodes, each with a kernel state and an agent that may die and come back
 * while the state lives on, the coupling service with its disk, two owners one after the other, messages that are late,
 * lost or (grants) repeated. test/model/check searches all states within the bounds below, then each planted bug
 * , which must break an invariant: so the search cannot pass by looking at nothing.
 *
 * Invariants
 *   unique   no number leaves twice, whichever kernels send it
 *   own      a kernel sends only what its node was granted
 *   durable  nothing is granted at or above the ceiling on the disk
 *   fenced   nothing is granted on a request of an epoch older than one that an owner was told
 * With -DUNIQUE_ONLY only the first is looked at: a bug that breaks it must show there, not in a guard before it.
 *
 * Step here                     code (A, H: the invariants at the head of allocator.ts and holder.ts)
 *   reserve                     src/sequence/allocator.ts reserve, #refusal, #tryGrant; number-line.ts take (A1, A5)
 *   raise, written              allocator.ts #raise, #durable; src/sequence/journal-ceiling-store.ts raise, #writeAll (A2)
 *   Disk: a write fails         journal-ceiling-store.ts #failure, allocator.ts #stop (A4)
 *   restart of the service      allocator.ts constructor (A3)
 *   own, register, retire       allocator.ts own, register, retire (A5); epochs.ts raise
 *   hear                        src/sequence/holder.ts granted (H2), extended (H3); the answer to an earlier process of the
 *                               node does not reach this one: src/bus/client.ts
 *   hear: install, reinstall    src/xfrm/leases.ts install (one NEWAE); src/daemons/node/sa-keeper.ts #reinstall (NEWSA)
 *   extend                      leases.ts extend: read, then write the credit
 *   park                        holder.ts parkAllowed (H5), leases.ts park; allocator.ts release: the numbers stay spent
 *   added parked                src/xfrm/reconciler.ts by way of sa-keeper.ts #wanted: born with no credit
 *   restart of the agent        sa-keeper.ts #startRunner, holder.ts adopted
 *   KernelState                 xfrm_output: one number, one packet of the limit, under the state's lock; death at the limit
 *
 * An extension here is refused by a state that can send less than its agent gave it: one that was flushed or died, and was
 * added parked before the agent noticed (BUG_EXTEND_ANOTHER_STATE). leases.ts invariant 5 does that: it looks before it writes.
 *
 * Not here: windows and recalls (A7), which are about drops at the peer and never about uniqueness; the end of the
 * numbers at 2^32 or 2^64 (here END); keys and IVs.
 */
#define NODES 2
/* Numbers are 1 to END - 1. */
#ifndef END
#define END 5
#endif
/* How many things may go wrong, of any kind: a crash (an owner's means a takeover), a failed write, a repeated message. */
#ifndef FAULTS
#define FAULTS 1
#endif
/* Numbers in a grant, at most, and numbers by which a ceiling is raised. */
#define BLOCK 2
#ifndef STEP
#define STEP 3
#endif

byte faults = FAULTS;

mtype = { NOTHING, RAISE, OWN, REGISTER, RETIRE };

/* First and end of the block, life of the agent that asked. */
chan grants[NODES] = [1] of { byte, byte, byte };

typedef EspState {
  bool alive;
  byte oseq;
  byte left;
}
typedef Agent {
  byte epoch;
  byte life;
  bool isHeld;
  bool isAdopted;
  byte end;
  byte mark;
  byte reach; /* the last number that its kernel can send, at least */
}
EspState kernel[NODES];
Agent agent[NODES];

/* What survives the coupling service, and what does not. */
typedef Stored {
  byte ceiling;
  byte epoch;
  byte registered; /* epoch of the SA's registration */
  bool retired;
}
Stored disk, memory;
byte next = 1;
bool hasFailed;
mtype writing = NOTHING;
byte writingTo;
bool isWritten;

/* What only the model sees. */
byte toldEpoch = 1; /* the last that an owner was told */
byte sent;          /* a bit for each number */
byte granted[NODES];

/* Used within one atomic step. */
hidden byte life, first, end; /* of the message that the service works on */

#define BIT(number) (1 << (number))
#define LAST_SENDABLE(me) (kernel[me].oseq + kernel[me].left)
#define LESS(a, b) ((a) < (b) -> (a) : (b))

#ifdef UNIQUE_ONLY
#define GUARD(condition) skip
#else
#define GUARD(condition) assert(condition)
#endif

/* ---- a kernel state ---- */

proctype KernelState(byte me) {
  do
  :: atomic {
       kernel[me].alive && kernel[me].left > 0 ->
       kernel[me].oseq++;
       kernel[me].left--;
       assert(!(sent & BIT(kernel[me].oseq))); /* unique */
       GUARD(granted[me] & BIT(kernel[me].oseq)); /* own */
       sent = sent | BIT(kernel[me].oseq)
     }
  :: atomic { /* a packet at the limit */
       kernel[me].alive && kernel[me].left == 0 && kernel[me].oseq > 0 ->
       kernel[me].alive = false;
       kernel[me].oseq = 0
     }
  od
}

/* ---- a node's agent ---- */

/* The process dies and another comes up: it knows what the kernel says, and no more. */
inline restartAgent(me) {
  faults--;
  agent[me].life++;
#ifdef BUG_DELETE_READD
  kernel[me].oseq = 0; /* a new state with the rest of the credit, without the number reached */
#endif
#ifdef BUG_AGENT_KEEPS_LEASE_AFTER_RESTART
  if
  :: agent[me].isHeld -> /* it wrote down which lease it had, and installs that */
     kernel[me].alive = true;
     kernel[me].oseq = agent[me].end - BLOCK - 1;
     kernel[me].left = BLOCK
  :: else
  fi;
#endif
  agent[me].isHeld = kernel[me].alive && kernel[me].left > 0;
  agent[me].mark = (kernel[me].alive -> LAST_SENDABLE(me) + 1 : 0);
  agent[me].end = 0;
  agent[me].reach = 0;
  agent[me].isAdopted = agent[me].isHeld;
  to = 0; last = 0; left = 0
}

inline giveUp(me) {
  agent[me].isHeld = false;
  agent[me].isAdopted = false;
  agent[me].reach = 0;
  agent[me].end = 0
}

/* first, end, life: an answer. Ends with `to` set when it extends the lease: the credit is written in a later step. */
inline hear(me) {
  if
#ifndef BUG_GRANT_FROM_OLD_CONNECTION
  :: life != agent[me].life /* burnt */
#endif
#ifndef BUG_NO_MARK
  :: first < agent[me].mark /* burnt */
#endif
  :: else ->
     agent[me].mark = end;
     if
#ifdef BUG_EXTEND_NONCONTIGUOUS
     :: agent[me].isHeld && !agent[me].isAdopted ->
#else
     :: agent[me].isHeld && !agent[me].isAdopted && first == agent[me].end ->
#endif
        if
        :: !kernel[me].alive -> giveUp(me)
#ifndef BUG_EXTEND_ANOTHER_STATE
        :: kernel[me].alive && LAST_SENDABLE(me) < agent[me].reach -> giveUp(me) /* not the state it gave its lease */
#endif
        :: else ->
           agent[me].end = end;
           to = end;
           left = kernel[me].left;
#ifdef BUG_EXTEND_FROM_OSEQ
           last = kernel[me].oseq
#else
           last = LAST_SENDABLE(me)
#endif
        fi
     :: else ->
        if
        :: kernel[me].alive && first <= LAST_SENDABLE(me) -> giveUp(me)
        :: !kernel[me].alive -> giveUp(me) /* not noticed yet: an install finds nothing */
        :: !kernel[me].alive || first > LAST_SENDABLE(me) ->
           kernel[me].alive = true; /* reinstall, if it was dead: born with the lease */
           kernel[me].left = end - first;
#ifdef BUG_INSTALL_NOT_ATOMIC
           to = first; /* the number follows in a later step */
#else
           kernel[me].oseq = first - 1;
#endif
           agent[me].isHeld = true;
           agent[me].isAdopted = false;
           agent[me].end = end;
           agent[me].reach = end - 1
        fi
     fi
  fi
}

proctype NodeAgent(byte me) {
  byte to, last, left; /* of an extension between its read and its write */

  do
  :: atomic { to == 0 && nempty(grants[me]) -> grants[me]?first, end, life; hear(me) }
  :: atomic { /* the same again, later */
       to == 0 && faults > 0 && nempty(grants[me]) ->
       faults--;
       grants[me]?<first, end, life>;
       hear(me)
     }
  :: atomic {
       to > 0 ->
       if
       :: !kernel[me].alive -> giveUp(me)
#ifdef BUG_INSTALL_NOT_ATOMIC
       :: kernel[me].alive && last == 0 -> kernel[me].oseq = to - 1
#endif
       :: kernel[me].alive && to - 1 - last > left ->
          kernel[me].left = to - 1 - last;
          agent[me].reach = LAST_SENDABLE(me)
       :: else /* it would take credit away: left to the next block */
       fi;
       to = 0; last = 0; left = 0
     }
  :: atomic { /* park; to say so changes nothing about the numbers */
       to == 0 && agent[me].isHeld ->
       kernel[me].left = 0;
       giveUp(me);
#ifdef BUG_RELEASED_GIVEN_AGAIN
       if
       :: next == agent[me].mark -> next-- /* what a node knows of its kernel is old */
       :: else
       fi
#endif
     }
  :: atomic { to == 0 && !kernel[me].alive -> kernel[me].alive = true } /* added parked: oseq and credit are 0 */
  :: atomic { toldEpoch > agent[me].epoch -> agent[me].epoch = toldEpoch } /* hears of the new owner */
  :: atomic { faults > 0 -> restartAgent(me) }
  od
}

/* ---- the coupling service ---- */

#ifdef BUG_NO_FENCE
#define IS_CURRENT(e) true
#else
#define IS_CURRENT(e) ((e) == memory.epoch && memory.registered == memory.epoch)
#endif

#define CAN_GRANT(n) (nfull(grants[n]) && !hasFailed && !memory.retired && next < memory.ceiling && IS_CURRENT(agent[n].epoch))

/* Answers node n, which may ask at any time. */
inline reserve(n) {
  first = next;
  end = LESS(next + BLOCK, memory.ceiling);
  next = end;
  granted[n] = granted[n] | (BIT(end) - BIT(first));
  GUARD(next <= disk.ceiling); /* durable */
  assert(agent[n].epoch >= toldEpoch); /* fenced */
  if
  :: true -> grants[n]!first, end, agent[n].life
  :: true /* lost on the way */
  fi
}

inline write(what, value) {
  writing = what;
  writingTo = value;
  isWritten = false
}

#define CAN_WRITE (!hasFailed && writing == NOTHING)

proctype CouplingService() {
  do
  :: atomic { CAN_GRANT(0) -> reserve(0) }
  :: atomic { CAN_GRANT(1) -> reserve(1) }
  :: atomic { /* raise */
       CAN_WRITE && !memory.retired && memory.ceiling < END && memory.ceiling - next < BLOCK ->
       end = LESS(memory.ceiling + STEP, END);
       write(RAISE, end);
#ifdef BUG_GRANT_BEFORE_PERSIST
       memory.ceiling = writingTo
#endif
     }
  :: atomic { /* own: the older epoch gets nothing from here on, the new owner is told when it is durable */
       faults > 0 && CAN_WRITE && memory.epoch == 1 ->
       faults--;
       memory.epoch = 2;
       write(OWN, memory.epoch);
#ifdef BUG_EPOCH_NOT_DURABLE
       toldEpoch = memory.epoch
#endif
     }
  :: atomic { /* register, by the owner; that of an older one, delayed, is refused */
       CAN_WRITE && memory.epoch == toldEpoch && memory.registered < toldEpoch &&
#ifndef BUG_REGISTER_RETIRED
       !memory.retired ->
#else
       true ->
       if
       :: memory.retired -> next = 1; memory.retired = false /* opened as a new one, at its first number */
       :: else
       fi;
#endif
#ifdef BUG_TAKEOVER_STARTS_OVER
       next = 1;
#endif
       write(REGISTER, toldEpoch)
     }
  :: atomic { /* retire */
       CAN_WRITE && !memory.retired && memory.registered == memory.epoch ->
       memory.retired = true;
       write(RETIRE, 0)
     }
  :: atomic { /* written */
       writing != NOTHING && isWritten ->
       if
       :: writing == RAISE -> memory.ceiling = writingTo
       :: writing == OWN -> toldEpoch = writingTo
       :: writing == REGISTER -> memory.registered = writingTo
       :: writing == RETIRE
       fi;
       write(NOTHING, 0)
     }
  :: atomic { /* restart: what the disk has is all there is; what was being written is there or not */
       faults > 0 || hasFailed ->
       if
       :: hasFailed
       :: else -> faults--
       fi;
       hasFailed = false;
       memory.ceiling = disk.ceiling;
       memory.epoch = disk.epoch;
       memory.registered = disk.registered;
       memory.retired = disk.retired;
#ifdef BUG_RESTART_FROM_LOWER
       next = LESS(next, disk.ceiling - 1);
#else
       next = disk.ceiling;
#endif
       write(NOTHING, 0)
     }
  od
}

inline store() {
  if
  :: writing == RAISE -> disk.ceiling = writingTo
  :: writing == OWN -> disk.epoch = writingTo
  :: writing == REGISTER -> disk.registered = writingTo; disk.retired = memory.retired
  :: writing == RETIRE -> disk.retired = true
  fi
}

proctype Disk() {
  do
  :: atomic { writing != NOTHING && !isWritten -> store(); isWritten = true }
  :: atomic { /* a write fails: nobody knows what is there */
       faults > 0 && writing != NOTHING && !isWritten ->
       faults--;
       if
       :: true -> store()
       :: true
       fi;
#ifdef BUG_SERVE_AFTER_FAILED_WRITE
       isWritten = true
#else
       hasFailed = true
#endif
     }
  od
}

init {
  atomic {
    disk.ceiling = 1 + STEP; disk.epoch = 1; disk.registered = 1;
    memory.ceiling = 1 + STEP; memory.epoch = 1; memory.registered = 1;
    agent[0].epoch = 1; agent[1].epoch = 1;
    run KernelState(0); run KernelState(1);
    run NodeAgent(0); run NodeAgent(1);
    run CouplingService(); run Disk()
  }
}
