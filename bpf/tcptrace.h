/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The one definition of everything that crosses from the kernel to Python: records, enums,
 * configuration and loss counters. tcptrace/trace/wire.py is generated from the BTF of this header.
 *
 * Rules for records:
 *   - `kind` first; fixed-width fields; padding explicit and zero;
 *   - a signed field is -1 when the fact was not observed; an unsigned field is always known;
 *   - times are CLOCK_MONOTONIC ns; ports and integers are in host order; addresses are 16 bytes in
 *     network order, IPv4 as ::ffff:a.b.c.d;
 *   - size + 8 (the ring buffer's header) is a power of two, so a ring is one numpy array.
 */
#ifndef TCPTRACE_H
#define TCPTRACE_H

/* Raised when a record's layout or meaning changes; stored in every trace. */
enum tt_wire { TT_WIRE_VERSION = 2 };

#define TT_COMM_LEN 16
#define TT_ADDR_LEN 16

enum tt_kind {
	TT_KIND_CONNECTION = 1,
	TT_KIND_RETRANSMIT = 2,        /* a segment of a known socket: SYN, data or FIN */
	TT_KIND_SYNACK_RETRANSMIT = 3, /* has no full socket yet: joined by its tuple */
	TT_KIND_RESET_SENT = 4, /* for a packet without a connection, or after its record left */
	TT_KIND_DROP = 5,       /* the kernel freed a TCP packet and said why */
	TT_KIND_SIGHTING = 6,   /* a connection was seen; its own record may never come */
	TT_KIND_EXCHANGE = 7,   /* one request and its answer, as one end saw them */
	TT_KIND_EXCHANGES = 8,  /* the sums over exchanges that have no record of their own */
};

/* Which end of an exchange: the one that wrote first, or the one that answered. */
enum tt_side {
	TT_SIDE_CLIENT = 1,
	TT_SIDE_SERVER = 2,
};

enum tt_exchange_flag {
	TT_EXCHANGE_DELAYED_ACK =
		1, /* this end acknowledged 30-210 ms late, with a segment of its own */
	TT_EXCHANGE_HOLD_AMBIGUOUS = 2, /* nagle_ns or cork_ns: MSG_MORE could not be seen */
	TT_EXCHANGE_RTO = 4,            /* kinds of the retransmissions of this end's bytes */
	TT_EXCHANGE_FAST = 8,
	TT_EXCHANGE_TLP = 16,
	TT_EXCHANGE_SMALL_QUEUE = 32, /* part of pacing_ns was TCP small queues or autocorking */
	TT_EXCHANGE_BEFORE_QUEUE =
		64, /* departures were seen before the queueing discipline only */
};

enum tt_role {
	TT_ROLE_UNKNOWN = 0,
	TT_ROLE_ACTIVE = 1,
	TT_ROLE_PASSIVE = 2,
};

enum tt_family {
	TT_FAMILY_IPV4 = 4,
	TT_FAMILY_IPV6 = 6,
};

enum tt_close_reason {
	TT_CLOSE_UNKNOWN = 0,
	TT_CLOSE_FIN = 1,
	TT_CLOSE_RESET_SENT = 2,
	TT_CLOSE_RESET_RECEIVED = 3,
	TT_CLOSE_REFUSED = 4,
	TT_CLOSE_TIMEOUT = 5,
	TT_CLOSE_ABORTED = 6,
	TT_CLOSE_OPEN = 7,
};

enum tt_initiator {
	TT_INITIATOR_UNKNOWN = 0,
	TT_INITIATOR_LOCAL = 1,
	TT_INITIATOR_REMOTE = 2,
	TT_INITIATOR_SIMULTANEOUS = 3,
};

/* How a connection's first sight and its transitions relate to what really happened. */
enum tt_flag {
	TT_FLAG_FIRST_MISSED =
		1, /* first seen after its birth: open before, or the kernel skipped us */
	TT_FLAG_STATES_BROKEN = 2, /* a transition was skipped: the times in its states are null */
	TT_FLAG_SEEDED = 4,        /* found open by the walk over all sockets */
	TT_FLAG_AT_DESTROY =
		8, /* the record left at the socket's destruction: its CLOSE was skipped */
};

/* One connection's end. Emitted when it closes, or by the walk at the end of the recording. */
struct tt_connection {
	__u8 kind;
	__u8 role;
	__u8 family;
	__u8 v4_mapped;
	__u8 close_reason;
	__u8 initiator;
	__u8 flags;
	__u8 state; /* the state it was in before CLOSE, or is in (enum of include/net/tcp_states.h) */
	__u64 connection_id;
	__s64 cookie;
	__u8 local_addr[TT_ADDR_LEN];
	__u8 remote_addr[TT_ADDR_LEN];
	__u16 local_port; /* 0: never bound */
	__u16 remote_port;
	__u32 netns;
	char comm[TT_COMM_LEN]; /* means something only when pid is not -1 */
	char congestion_control[TT_COMM_LEN];
	__s64 started_ns; /* SYN sent, or SYN-ACK sent */
	__s64 ended_ns;   /* -1 while open */
	__s64 seen_ns;    /* first sight, always known */
	__s64 handshake_ns;
	__s64 syn_sent_ns;
	__s64 syn_recv_ns;
	__s64 established_ns;
	__s64 fin_wait1_ns;
	__s64 fin_wait2_ns;
	__s64 closing_ns;
	__s64 close_wait_ns;
	__s64 last_ack_ns;
	__s64 snd_isn; /* or one more, where the role is unknown */
	__s64 rcv_isn;
	__s64 bytes_sent;
	__s64 bytes_received;
	__s64 segments_sent;
	__s64 segments_received;
	__s32 pid;
	__s32 retransmits;
	__s32 syn_retransmits;
	__s32 synack_retransmits;
	__s32 srtt_us;
	__s32 min_rtt_us;
	__s32 mss;
	__s8 handshake_exact;
	__s8 snd_wscale;
	__s8 rcv_wscale;
	__s8 sack;
	__s8 timestamps;
	__s8 ecn;
	__s8 tfo;
	__u8 pad0[5];
	/* how long unsent bytes were held, by cause, over the whole connection */
	__s64 held_nagle_ns;
	__s64 held_cork_ns;
	__s64 held_cwnd_ns;
	__s64 held_rwnd_ns;
	__s64 held_pacing_ns;
	__s64 held_sndbuf_ns;
	__s64 unread_ns;     /* how long received bytes waited for a read, while any did */
	__s64 min_sample_ns; /* least time from data handed to the device to its own ACK's arrival */
	__s32 exchanges;     /* complete turns */
	__s32 pipelined;     /* changes of direction that were no turns */
	__u64 pad1[19];
};

/* One exchange as one end saw it; or, for TT_KIND_EXCHANGES, sums over several of one connection and side.
 * Every stage is the difference of two instants, -1 when one of them was not observed. */
struct tt_exchange {
	__u8 kind;
	__u8 side;
	__u8 flags; /* enum tt_exchange_flag */
	__u8 pad0;
	__u32 seq; /* counts the exchanges of a connection from 0 */
	__u64 connection_id;
	__s64 started_ns;
	__s64 total_ns;
	__s64 app_ns;
	__s64 sndbuf_ns;
	__s64 nagle_ns;
	__s64 cork_ns;
	__s64 cwnd_ns;
	__s64 rwnd_ns;
	__s64 pacing_ns;
	__s64 kernel_tx_ns;
	__s64 loss_recovery_ns;
	__s64 wire_ns; /* client: request last handed to the device -> answer arrived; network and peer */
	__s64 kernel_rx_ns;
	__s64 wakeup_ns;
	__s64 app_late_ns;
	__s64 transfer_ns;
	__s64 residence_ns; /* server: last byte of the request arrived -> first of the answer to the device */
	__s64 release_ns; /* a Nagle hold's end: the releasing ACK after the transmission it acknowledges */
	__u64 request_bytes;
	__u64 response_bytes;
	__s32 writes;
	__s32 reads;
	__s32 retransmits; /* of this end's bytes */
	__u32 request_end; /* TCP sequence number behind the request's last byte, the same at both ends */
	__u32 summed; /* how many exchanges: 1, or more for sums */
	__u8 pad1[4];
	__u64 pad2[6];
};

/* A rare event. Fields that a kind does not have are -1. */
struct tt_event {
	__u8 kind;
	__u8 family;
	__u8 v4_mapped;
	__s8 state;
	__s8 ca_state; /* icsk_ca_state: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss */
	__s8 pending;  /* icsk_pending: the armed timer */
	__u8 tcp_flags;
	__s8 role;
	__u64 time_ns;
	__s64 connection_id;
	__u8 local_addr[TT_ADDR_LEN]; /* of the end in this host that sends or drops */
	__u8 remote_addr[TT_ADDR_LEN];
	__u16 local_port;
	__u16 remote_port;
	__s32 reason; /* number of the running kernel's skb_drop_reason or sk_rst_reason */
	__s64 netns;
	__s64 sequence;      /* first sequence number of the segment */
	__s64 first_sent_ns; /* when this SYN-ACK was sent first; when a sighted connection started */
	__s32 length_bytes;
	__u8 pad1[4];
	__u64 pad2[3];
};

/* Every connection that was seen and has no record yet has a slot here: what tells of it when the kernel
 * skips the programs at its end. One cache line; slot = connection_id modulo the number of slots. */
struct tt_journal {
	__u64 connection_id; /* 0: free */
	__s64 started_ns;
	__u8 local_addr[TT_ADDR_LEN];
	__u8 remote_addr[TT_ADDR_LEN];
	__u16 local_port;
	__u16 remote_port;
	__u32 netns;
	__u8 role;
	__u8 family;
	__u8 v4_mapped;
	__u8 pad0[5];
};

_Static_assert(sizeof(struct tt_journal) == 64, "cache line");
_Static_assert(sizeof(struct tt_connection) + 8 == 512, "ring slot");
_Static_assert(sizeof(struct tt_event) + 8 == 128, "ring slot");
_Static_assert(sizeof(struct tt_exchange) + 8 == 256, "ring slot");

/* Per-CPU counters. The first group is what was lost; the trace keeps every one by its name. */
enum tt_counter {
	TT_LOST_CONNECTION_RING = 0, /* a connection's record found its ring full */
	TT_LOST_EVENT_RING = 1,      /* an event's record found its ring full */
	TT_LOST_STATE = 2,           /* no memory, or a full map, for a socket's state */
	TT_LOST_TRANSITION = 3,   /* the kernel skipped us: a state does not follow the last one */
	TT_COUNT_TRACKED = 4,     /* connections seen for the first time */
	TT_COUNT_FINISHED = 5,    /* connections whose fate is settled: emitted, lost or filtered */
	TT_COUNT_CONNECTIONS = 6, /* connection records emitted */
	TT_COUNT_EVENTS = 7,      /* event records emitted */
	TT_COUNT_WALK_FULL =
		8, /* an interim record found the ring full; the next walk repeats it */
	TT_COUNT_DISPLACED = 9, /* sightings emitted because another connection needed the slot */
	TT_COUNT_REGAINED = 10, /* of these, connections that ended with a record all the same */
	TT_COUNT_SEEDED = 11,   /* connections that the first walk met first */
	TT_LOST_EXCHANGE_RING =
		12,           /* sums over exchanges found the ring full: their time is missing */
	TT_COUNT_SUMS = 13,   /* records of sums over exchanges */
	TT_COUNT_SINGLE = 14, /* exchanges that have a record of their own */
	TT_COUNT_SUMMED = 15, /* exchanges that are in sums alone: the ring was too full for each */
	TT_LOST_RETURN =
		16, /* a program at a function's return did not run: its write is part of no exchange */
	TT_COUNTERS = 17,
};

/* What user space decides before the programs are loaded. Constant to the verifier: what is switched
 * off is not even translated. */
struct tt_config {
	__u32 cpus;      /* possible CPUs: connection ids of different CPUs interleave */
	__u8 use_table;  /* per-socket state in a table first */
	__u8 use_hash;   /* per-socket state in a hash, for kernels without socket storage here */
	__u8 has_cookie; /* bpf_get_socket_cookie may be called */
	__u8 has_retransmit_err; /* tcp_retransmit_skb tells failed retransmissions apart */
	__u8 has_send_reset;     /* tcp_send_reset is attached: an abort waits for it */
	__u8 has_reset_reason;   /* tcp_send_reset gives a reason */
	__u8 has_drop_socket;    /* kfree_skb gives the receiving socket */
	__u8 filter_port;
	__u8 filter_peer;
	__u8 filter_pid;
	__u8 filter_comm;
	__u8 filter_netns;
	__u8 budget;        /* exchanges are timed */
	__u8 has_write;     /* a write shows when it enters */
	__u8 has_write_end; /* and when it returns */
	__u8 end_called;    /* at its function's return: not of writes that come another way */
	__u8 has_page_end;  /* a sendfile's writes show when they return, too */
	__u8 write_called; /* a write shows when it is called: before it waits for its connection */
	__u8 has_departure;  /* packets show when they are handed to the device */
	__u8 has_arrival;    /* received packets carry the time of their arrival */
	__u8 has_segment;    /* received segments show when they reach TCP */
	__u8 has_ready;      /* the data's readiness shows */
	__u8 has_read;       /* a read shows */
	__u8 has_read_end;   /* and when it returns */
	__u8 has_retransmit; /* data retransmissions show */
	__u8 has_run_delay;  /* a task knows how long it has waited for a CPU */
	__u8 before_queue;   /* departures show before the queueing discipline only */
	__u8 pad0[1];
	__u64 drop_reasons[4]; /* bit n: drops with reason n are recorded */
};

/* Written by user space while the programs run, and by the walk. */
struct tt_control {
	__u64 stopping;           /* no new connection is tracked any more */
	__u64 seeded;             /* the first walk is complete */
	__u64 interval_ns;        /* between two interim records of one open connection */
	__u64 spilled;            /* the table was full once: look further, too */
	__u64 first_jiffies;      /* set by the first walk: what happened before is not ours */
	__s64 realtime_offset_ns; /* CLOCK_REALTIME - CLOCK_MONOTONIC; 0: not known */
	__u64 sampling;           /* one exchange in 2^sampling has a record of its own */
};

/* Who holds a socket's file, found in /proc before a walk; the key is the inode. */
struct tt_holder {
	__s32 pid;
	char comm[TT_COMM_LEN];
};

/* Key of the longest-prefix match of --peer. */
struct tt_prefix {
	__u32 prefix_len;
	__u8 addr[TT_ADDR_LEN];
};

#endif
