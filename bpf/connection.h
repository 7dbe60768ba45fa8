/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* One connection's life: how its state begins, what ended it, and the record that leaves the kernel. */
#ifndef TCPTRACE_CONNECTION_H
#define TCPTRACE_CONNECTION_H

#include "turn.h"

static __always_inline void tt_begin(struct tt_socket *s, __u64 now, int state)
{
	__u64 n = tt_mint();

	__builtin_memset(s, 0, __builtin_offsetof(struct tt_socket, one));
	s->rest[0].summed = s->rest[1].summed = 0;
	s->connection_id = n * TT_CONFIG(cpus) + bpf_get_smp_processor_id() + 1;
	s->seen_ns = now;
	s->entered_ns = now;
	s->state = state;
	s->started_ns = -1;
	s->handshake_ns = -1;
	s->handshake_exact = -1;
	s->syn_retransmits = -1;
	s->synack_retransmits = -1;
	s->pid = -1;
}

static __always_inline __s64 tt_cookie_of(struct sock *sk, struct tt_socket *s)
{
	if (s->cookie <= 0)
		s->cookie = tt_cookie(sk);
	return s->cookie;
}

/* Retransmissions of a connection met on its way may be its handshake's: those of data are told by the bytes. */
static __always_inline void tt_met_later(struct sock *sk, struct tt_socket *s, int state)
{
	struct tcp_sock *tp = tt_tcp_sock(sk);

	if (!tp || state == TCP_SYN_SENT || state == TCP_SYN_RECV)
		return;
	s->established = 1;
	s->total_retrans = TT_READ(tp, total_retrans);
	/* a FIN has no bytes either */
	if (s->total_retrans &&
	    ((state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT) || TT_READ(tp, bytes_retrans)))
		s->retransmits_unknown = 1;
}

/* A socket met after its birth: open before the recording, or its birth was skipped. */
static __always_inline struct tt_socket *tt_first_sight(struct sock *sk, int state, __u64 now,
							__u8 flags)
{
	struct tt_control *c = tt_control();
	struct tt_socket *s;

	if (!c || c->stopping || !tt_may_be_wanted(sk))
		return 0;
	s = tt_state_get(sk, 1);
	if (!s) {
		tt_count(TT_LOST_STATE);
		return 0;
	}
	if (s->connection_id)
		return s; /* another CPU was first */
	tt_begin(s, now, state);
	s->flags = TT_FLAG_FIRST_MISSED | flags;
	s->cookie = tt_cookie(sk);
	tt_met_later(sk, s, state);
	if (flags & TT_FLAG_SEEDED)
		tt_count(TT_COUNT_SEEDED);
	else if (c->seeded)
		tt_count(TT_LOST_TRANSITION);
	return s;
}

/* A socket destroyed without ever having been seen: a connection of this recording whose every
 * transition was skipped, or one that ended before it (its last ACK is older than the recording). */
static __always_inline int tt_lived_unseen(struct sock *sk)
{
	struct tt_control *c = tt_control();
	struct tcp_sock *tp;

	if (!c || !c->seeded || c->stopping || TT_READ(sk, sk_protocol) != IPPROTO_TCP ||
	    !TT_READ(sk, __sk_common.skc_dport))
		return 0;
	tp = tt_tcp_sock(sk);
	return tp && (__s32)(TT_READ(tp, rcv_tstamp) - (__u32)c->first_jiffies) > 0;
}

/* Only transitions that a system call of the owner makes call this: connect, close, shutdown. The lock
 * tells its process context from a peer's segment in a softirq that merely borrows the name. */
static __always_inline void tt_owner(struct sock *sk, struct tt_socket *s)
{
	struct task_struct *task;

	if (s->pid >= 0 || !TT_READ(sk, sk_lock.owned))
		return;
	task = (struct task_struct *)bpf_get_current_task();
	/* a deferred close runs in a kernel worker; a kernel socket's connect is its owner's */
	if (s->state != TCP_SYN_SENT && (TT_PROBE(task, flags) & PF_KTHREAD))
		return;
	s->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(s->comm, sizeof(s->comm));
}

static __always_inline __s64 tt_state_time(struct tt_socket *s, int state)
{
	if (s->flags & TT_FLAG_STATES_BROKEN || !((s->visited >> state) & 1))
		return -1;
	return s->state_ns[state];
}

static __always_inline __s64 tt_inode(struct sock *sk)
{
	struct socket *socket = TT_READ(sk, sk_socket);

	if (!socket)
		return -1;
	return TT_PROBE((struct socket_alloc *)socket, vfs_inode.i_ino);
}

/* Who talks to whom. The kernel keeps the IPv4-mapped form of IPv4 addresses up to date itself
 * (sk_daddr_set, sk_rcv_saddr_set), so one copy serves both families. */
static __always_inline void tt_fill_who(struct sock *sk, struct tcp_sock *tp, struct tt_socket *s,
					struct tt_connection *r)
{
	TT_COPY(r->local_addr, sk, __sk_common.skc_v6_rcv_saddr);
	TT_COPY(r->remote_addr, sk, __sk_common.skc_v6_daddr);
	r->remote_port = TT_BE16(TT_READ(sk, __sk_common.skc_dport));
	/* skc_num is 0 once closed; inet_sport survives */
	r->local_port = TT_BE16(TT_READ(tp, inet_conn.icsk_inet.inet_sport));
	r->netns = TT_READ(TT_READ(sk, __sk_common.skc_net.net), ns.inum);
	r->cookie = tt_cookie_of(sk, s);
	if (tt_is_mapped(r->remote_addr)) {
		r->family = TT_FAMILY_IPV4;
		r->v4_mapped = TT_READ(sk, __sk_common.skc_family) == AF_INET6;
	} else {
		r->family = TT_FAMILY_IPV6;
		r->v4_mapped = 0;
	}
}

static __always_inline void tt_fill_states(struct tt_socket *s, struct tt_connection *r)
{
	r->syn_sent_ns = tt_state_time(s, TCP_SYN_SENT);
	r->established_ns = tt_state_time(s, TCP_ESTABLISHED);
	r->fin_wait1_ns = tt_state_time(s, TCP_FIN_WAIT1);
	r->fin_wait2_ns = tt_state_time(s, TCP_FIN_WAIT2);
	r->closing_ns = tt_state_time(s, TCP_CLOSING);
	r->close_wait_ns = tt_state_time(s, TCP_CLOSE_WAIT);
	r->last_ack_ns = tt_state_time(s, TCP_LAST_ACK);
	/* the child's own SYN_RECV is the processing of the third ACK; the request's was the half-open time */
	r->syn_recv_ns =
		s->role == TT_ROLE_PASSIVE ? s->handshake_ns : tt_state_time(s, TCP_SYN_RECV);
}

static __always_inline void tt_fill_agreed(struct tcp_sock *tp, struct tt_socket *s,
					   struct tt_connection *r)
{
	__u32 acked = TT_READ(tp, bytes_acked), una = TT_READ(tp, snd_una);

	/* bytes_acked counts the SYN of an active end; a passive end begins after it. Where the role is not
	 * known, this is the number or one more: good enough to find the other end by (analysis/pairs.py) */
	r->snd_isn = -1;
	if (s->role == TT_ROLE_ACTIVE &&
	    TT_READ(tp, segs_out)) /* 0: no free port, no SYN, no number */
		r->snd_isn = (__u32)(una - acked);
	else if (s->role == TT_ROLE_PASSIVE)
		r->snd_isn = (__u32)(una - acked - 1);
	else if (s->role == TT_ROLE_UNKNOWN && !s->restored)
		r->snd_isn = (__u32)(una - acked);
	if (!s->established) {
		r->rcv_isn = -1;
		r->mss = -1;
		r->snd_wscale = r->rcv_wscale = r->sack = r->timestamps = r->ecn = r->tfo = -1;
		return;
	}
	/* bytes_received counts the FIN, as rcv_nxt does */
	r->rcv_isn = (__u32)(TT_READ(tp, rcv_nxt) - (__u32)TT_READ(tp, bytes_received) - 1);
	if (s->restored)
		r->rcv_isn = -1;
	tt_read_options(tp, r);
	/* TCP_ECN_OK, or accurate ECN (TCP_ECN_MODE_ACCECN) */
	r->ecn = (TT_READ(tp, ecn_flags) & 0x11) != 0;
}

static __always_inline void tt_fill_volume(struct sock *sk, struct tcp_sock *tp,
					   struct tt_socket *s, struct tt_connection *r)
{
	__u32 min_rtt_us = TT_READ(tp, rtt_min.s[0].v), srtt_us = TT_READ(tp, srtt_us) >> 3;

	r->bytes_sent = TT_READ(tp, bytes_sent) - TT_READ(tp, bytes_retrans);
	r->bytes_received = TT_READ(tp, bytes_received) - tt_fin_received(sk);
	r->segments_sent = TT_READ(tp, segs_out);
	r->segments_received = TT_READ(tp, segs_in);
	/* total_retrans goes on from the handshake's */
	r->retransmits = -1;
	if (!s->retransmits_unknown)
		r->retransmits = s->established ? TT_READ(tp, total_retrans) - s->total_retrans : 0;
	r->syn_retransmits = s->syn_retransmits;
	if (!s->established && s->role == TT_ROLE_ACTIVE && s->syn_retransmits < 0)
		r->syn_retransmits = TT_READ(tp, total_retrans);
	r->synack_retransmits = s->synack_retransmits;
	r->srtt_us = srtt_us ? (__s32)srtt_us : -1;
	r->min_rtt_us = min_rtt_us == ~0U ? -1 : (__s32)min_rtt_us;
}

/* Where the hooks that tell are missing, a cause was not observed. */
static __always_inline void tt_fill_budget(struct tt_socket *s, struct tt_connection *r)
{
	struct tt_budget *b = &s->budget;

	r->held_nagle_ns = r->held_cork_ns = r->held_cwnd_ns = r->held_rwnd_ns = -1;
	r->held_pacing_ns = r->held_sndbuf_ns = r->unread_ns = r->min_sample_ns = -1;
	r->exchanges = r->pipelined = -1;
	if (!TT_CONFIG(budget) || b->ready == 2)
		return;
	if (b->min_sample_ns)
		r->min_sample_ns = b->min_sample_ns;
	if (TT_CONFIG(has_read)) { /* else no turn is seen to end, nor data to be read */
		r->exchanges = b->seq + b->lingers;
		r->pipelined = b->pipelined;
		if (TT_CONFIG(has_ready))
			r->unread_ns = b->unread_ns;
	}
	if (!TT_CONFIG(has_segment) || !TT_CONFIG(has_departure))
		return;
	r->held_nagle_ns = b->held_ns[TT_HOLD_NAGLE];
	r->held_cork_ns = b->held_ns[TT_HOLD_CORK];
	r->held_cwnd_ns = b->held_ns[TT_HOLD_CWND];
	r->held_rwnd_ns = b->held_ns[TT_HOLD_RWND];
	r->held_pacing_ns = b->held_ns[TT_HOLD_PACING];
	r->held_sndbuf_ns = b->held_ns[TT_HOLD_SNDBUF];
}

/* Builds and submits the record. 0 when the ring is full. */
static __always_inline int tt_emit(struct sock *sk, struct tt_socket *s, __u8 close_reason,
				   __s64 ended_ns)
{
	struct tcp_sock *tp = tt_tcp_sock(sk);
	struct tt_connection *r;

	if (!tp)
		return 0;
	r = tt_reserve_connection();
	if (!r)
		return 0;
	r->kind = TT_KIND_CONNECTION;
	r->role = s->role;
	r->close_reason = close_reason;
	r->initiator = s->initiator;
	r->flags = s->flags;
	r->state = s->state;
	r->connection_id = s->connection_id;
	r->started_ns = s->started_ns;
	r->ended_ns = ended_ns;
	r->seen_ns = s->seen_ns;
	r->handshake_ns = s->handshake_ns;
	r->handshake_exact = s->handshake_exact;
	r->pid = s->pid;
	__builtin_memcpy(r->comm, s->comm, sizeof(r->comm));
	__builtin_memset(r->pad0, 0, sizeof(r->pad0));
	__builtin_memset(r->pad1, 0, sizeof(r->pad1));
	tt_fill_budget(s, r);
	__builtin_memset(r->congestion_control, 0, sizeof(r->congestion_control));
	const struct tcp_congestion_ops *ca = TT_READ(&tp->inet_conn, icsk_ca_ops);

	if (ca)
		TT_COPY_STRING(r->congestion_control, ca, name);
	tt_fill_who(sk, tp, s, r);
	tt_fill_states(s, r);
	tt_fill_agreed(tp, s, r);
	tt_fill_volume(sk, tp, s, r);
	tt_submit_connection(r);
	tt_count(TT_COUNT_CONNECTIONS);
	return 1;
}

/* The end's cause where nothing told it before the socket went away. */
static __always_inline void tt_settle(struct sock *sk, struct tt_socket *s)
{
	if (s->close_reason)
		return;
	if (s->reset_received) {
		s->close_reason = TT_CLOSE_RESET_RECEIVED;
		s->initiator = s->initiator ?: TT_INITIATOR_REMOTE;
	} else if (s->reset_sent) {
		s->close_reason = TT_CLOSE_RESET_SENT;
		s->initiator = s->initiator ?: TT_INITIATOR_LOCAL;
	} else if (TT_READ(sk, sk_err) == ETIMEDOUT || s->had_error) {
		s->close_reason = TT_CLOSE_TIMEOUT;
	} else if (s->state == TCP_FIN_WAIT2 || s->state == TCP_LAST_ACK ||
		   s->state == TCP_CLOSING || (s->state == TCP_FIN_WAIT1 && tt_fin_received(sk))) {
		/* both FINs, or FIN_WAIT2, which goes on as a timewait socket; the peer's alone is no end */
		s->close_reason = TT_CLOSE_FIN;
	}
}

static __always_inline void tt_budget_end(struct sock *sk, struct tt_socket *s)
{
	if (!TT_CONFIG(budget))
		return;
	tt_turn_end(sk, s, 1);
	if (!tt_rest_leave(s))
		tt_count(TT_LOST_EXCHANGE_RING);
}

/* The connection is over and everything about it is known that will be. */
static __always_inline void tt_finish(struct sock *sk, struct tt_socket *s)
{
	tt_settle(sk, s);
	/* time in FIN_WAIT2 goes on in the timewait socket */
	if (s->state == TCP_FIN_WAIT2 && !tt_fin_received(sk))
		s->visited &= ~(1 << TCP_FIN_WAIT2);
	s->pending = 0;
	s->done = 1;
	tt_budget_end(sk, s); /* its sums leave whatever becomes of the record */
	/* tcp_disconnect() has forgotten the tuple and every count: the journal tells of the connection */
	if (s->journaled && !TT_READ(sk, __sk_common.skc_dport) && tt_owner_wanted(s))
		return;
	tt_journal_clear(s);
	if (tt_wanted(sk, s) && !tt_emit(sk, s, s->close_reason, s->ended_ns))
		tt_count(TT_LOST_CONNECTION_RING);
	tt_count(TT_COUNT_FINISHED);
}

/* On entry to CLOSE from `old`, and again when a pending end's reset shows. */
static __always_inline void tt_close(struct sock *sk, struct tt_socket *s, int old)
{
	struct tcp_sock *tp = tt_tcp_sock(sk);
	int err = TT_READ(sk, sk_err);

	if (!s->established) {
		if (s->reset_received || (old == TCP_SYN_SENT && err && err != ETIMEDOUT &&
					  err != ECONNABORTED /* tcp_abort() */)) {
			s->close_reason = TT_CLOSE_REFUSED; /* by a reset or an ICMP error */
			s->initiator = TT_INITIATOR_REMOTE;
		} else if (err == ETIMEDOUT) {
			s->close_reason = TT_CLOSE_TIMEOUT;
		} else {
			s->close_reason = TT_CLOSE_ABORTED;
			s->initiator = TT_INITIATOR_LOCAL;
			if (err != ECONNABORTED) /* by somebody else, such as ss -K */
				tt_owner(sk, s);
		}
	} else if (err == ETIMEDOUT) { /* first: a keepalive time-out sends a reset as well */
		s->close_reason = TT_CLOSE_TIMEOUT;
	} else if (s->reset_received || s->reset_sent) {
		tt_settle(sk, s);
	} else if (err == ECONNRESET || err == EPIPE) { /* tcp_reset(), its tracepoint skipped */
		s->reset_received = 1;
		tt_settle(sk, s);
	} else if (old == TCP_CLOSING || old == TCP_LAST_ACK ||
		   (old == TCP_FIN_WAIT2 && tt_fin_received(sk))) {
		s->close_reason = TT_CLOSE_FIN;
	} else if (err && !TT_READ(sk, sk_lock.owned)) {
		s->close_reason = TT_CLOSE_TIMEOUT; /* tcp_write_err() with an earlier ICMP error */
	} else if (!TT_CONFIG(has_send_reset)) {
		tt_owner(sk, s); /* nothing will tell, and tcp_disconnect() wipes the socket next */
	} else if (!tp || !tt_in_repair(tp)) { /* else no reset follows, and all is wiped next */
		s->pending = 1;
		/* of a timer that had to wait for the lock, or left by IP_RECVERR: a reset will tell */
		s->had_error = err != 0;
		tt_owner(sk, s);
		return;
	}
	tt_finish(sk, s);
}

#endif
