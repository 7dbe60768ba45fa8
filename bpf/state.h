/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the programs keep in the kernel. */
#ifndef TCPTRACE_STATE_H
#define TCPTRACE_STATE_H

#include "tcptrace.h"

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
};

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
