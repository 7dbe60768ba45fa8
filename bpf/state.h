/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the programs keep in the kernel. */
#ifndef TCPTRACE_STATE_H
#define TCPTRACE_STATE_H

#include "tcptrace.h"

/* Why unsent bytes are held: indices of the `held` arrays. */
enum tt_hold {
	TT_HOLD_NONE = 0,
	TT_HOLD_NAGLE = 1,
	TT_HOLD_CORK = 2,
	TT_HOLD_CWND = 3,
	TT_HOLD_RWND = 4,
	TT_HOLD_PACING = 5,
	TT_HOLD_SNDBUF = 6,
	TT_HOLDS = 8, /* so that a mask proves the index to the verifier */
};

enum tt_phase {
	TT_PHASE_IDLE = 0,
	TT_PHASE_WRITING = 1, /* from the first write on */
	TT_PHASE_READING = 2, /* from the first arrival on */
};

/* Which way round the turns of a connection go at this end. */
enum tt_turns {
	TT_TURNS_UNKNOWN = 0,
	TT_TURNS_ASKS = 1,    /* writes, then reads */
	TT_TURNS_ANSWERS = 2, /* reads, then writes */
};

/*
 * The turns of one socket: its data flows in bursts, writing and reading by turns. A turn is two bursts; its
 * record leaves when the third begins. Every instant is CLOCK_MONOTONIC ns, 0 when not seen in this burst.
 * Unless said otherwise a field is written with the socket's lock held.
 */
struct tt_budget {
	/* the burst of writes */
	__u64 first_write_ns;
	__u64 last_write_ns;
	__u64 write_end_ns;      /* last return of a write (without the lock) */
	__u64 no_room_ns;        /* no buffer for the writer, and nothing has left since */
	__u64 between_ns;        /* the application's own time between its writes */
	__u64 held_in[TT_HOLDS]; /* while it was inside a write */
	__u64 held_out
		[TT_HOLDS]; /* since its last write returned: its own time if another follows */
	__u64 first_departed_ns;
	__u64 departed_ns; /* the last new byte, handed to the device */
	__u64 resent_ns;   /* the last retransmission that was not spurious */
	__u64 resent_before_ns;
	__u64 release_ns;
	/* the burst of reads */
	__u64 arrived_ns;
	__u64 arrived_last_ns;
	__u64 ready_ns;
	__u64 first_read_ns;
	__u64 last_read_ns; /* the last copy to the application */
	__s64 wakeup_ns;    /* -1: not known */
	/* the send queue */
	__u64 mark_ns; /* up to here the time of unsent bytes has an owner */
	__u64 held_ns[TT_HOLDS];
	__u64 unread_ns;
	__u64 unread_since_ns;
	__u64 min_sample_ns;
	__u32 write_start;    /* sequence numbers: the burst of writes begins here, */
	__u32 write_end;      /* ended there when the answer came, */
	__u32 departed_end;   /* has been handed to the device up to here, */
	__u32 resent_end;     /* and retransmitted up to here */
	__u32 read_start;     /* the burst of reads begins here */
	__u32 read_end;       /* and has been read up to here */
	__u32 acknowledged;   /* what this end's last segment acknowledged */
	__u32 departed_bytes; /* of the last segment or aggregate */
	__u32 retransmits_before;
	__u32 resent_stamp; /* the timestamp of the last retransmission */
	__s32 writes;
	__s32 reads;
	__s32 retransmits;
	__u32 seq;
	__u32 pipelined;
	__u8 ready; /* begun; 2: not to be followed at all */
	__u8 phase;
	__u8 turns;
	__u8 greeting; /* the first burst went against the turns: it makes one of its own */
	__u8 in_read;  /* (without the lock) */
	__u8 in_write; /* (without the lock) */
	__u8 blocked;  /* a write had no room: the writer waits for it outside (without the lock) */
	__u8 hold;     /* cause since mark_ns, as far as it has been decided */
	__u8 nagle;    /* tp->nonagle at the last write or acknowledgement */
	__u8 more;     /* MSG_MORE at the last write */
	__u8 write_bad; /* the burst of writes is part of no turn */
	__u8 read_bad;
	__u8 read_before; /* there is a burst of reads before the burst of writes, and the reverse */
	__u8 wrote_before;
	__u8 flags; /* enum tt_exchange_flag: of the burst of writes, of that of reads */
	__u8 read_flags;
	__u8 awaited;           /* somebody waited for the data when it became ready */
	__u8 acknowledged_late; /* with a segment without data, and no data has come since */
	__u8 lingers;           /* the connection is closed, its last answer still to be read */
	__u8 resent_undo;       /* the last retransmission may yet be undone */
	__u8 resent_first;      /* it began with the first byte that was not acknowledged */
	__u8 resent_unseen;     /* a retransmission was hidden from us: when, is not known */
	__u8 pad[6];
};

/* State of one socket between its first sight and its record. Never leaves the kernel. */
struct tt_socket {
	__u64 connection_id;
	__s64 cookie; /* 0: not asked for yet, -1: none to be had */
	__u64 seen_ns;
	__u64 entered_ns; /* when `state` was entered */
	__u64 ended_ns;
	__u64 emitted_ns; /* last interim record, 0: none */
	__s64 started_ns;
	__s64 handshake_ns;
	__u64 state_ns[16]; /* by state; 16 so that a mask proves the index to the verifier */
	__u32 visited;      /* bit n: state_ns[n] was observed from its entry to its exit */
	__u32 total_retrans;
	__s32 syn_retransmits;
	__s32 synack_retransmits;
	__s32 pid;
	char comm[TT_COMM_LEN];
	__u8 state;
	__u8 role;
	__u8 flags;
	__u8 initiator;
	__u8 close_reason;
	__s8 handshake_exact;
	__u8 entry_known; /* entered_ns is when the state was entered, not when we first looked */
	__u8 established;
	__u8 reset_sent;
	__u8 reset_received;
	__u8 pending; /* closed; whether by reset shows in the next event of the socket */
	__u8 done;    /* the record has left */
	__u8 journaled;
	__u8 retransmits_unknown;
	__u8 restored;  /* put into ESTABLISHED by TCP_REPAIR: no handshake took place */
	__u8 had_error; /* closed with an error that may be an older one's */
	__u8 pad[16];   /* whole cache lines */
	struct tt_budget budget;
	struct tt_exchange one; /* made here, with the socket locked: the stack has no room */
	__u32 slot;             /* of the table; means nothing elsewhere */
	__u32 pad1;
	/* sums, by side, over exchanges without a record; empty: summed 0 */
	struct tt_exchange rest[2];
};

/* What is known of a thread's time: kept by thread id, the last thread with the same slot wins. */
struct tt_thread {
	__u64 tid;          /* 0: free */
	__u64 run_delay_ns; /* how long it has waited for a CPU, ever, at last_ns */
	__u64 last_ns;      /* its last event on any socket that is followed */
	__u64 grown_ns;     /* by how much run_delay_ns grew when it grew last: */
	__u64 before_ns;    /* after this event */
	__u64 woke_ns;      /* and before this one */
	__u64 pad[2];
};

#define TT_THREADS 4096

struct tt_counters {
	__u64 value[TT_COUNTERS];
};

#ifndef TT_JOURNAL_SLOTS
#define TT_JOURNAL_SLOTS 16384
#endif

struct tt_comm {
	char name[TT_COMM_LEN];
};

#endif
