/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The lifecycle of TCP connections from tracepoints alone: birth, states, options, end and its cause.
 *
 * State accumulates per socket (struct tt_socket); one record leaves when the connection ends. The kernel
 * announces some ends before their cause: tcp_disconnect() and tcp_close() enter CLOSE and only then send
 * the reset. Such a socket is `pending` until its next event, tcp_send_reset or tcp_destroy_sock, tells.
 *
 * The kernel skips a program that would interrupt itself on one CPU. A skipped transition shows as an old
 * state that is not the stored one; a skipped CLOSE is made good at tcp_destroy_sock.
 */
#include "functions.h"
#include "walk.h"

/*
 * May the first RTT sample of a passive end be a SYN cookie's? That one is of whole milliseconds, from a stamp
 * whose lowest bits are the client's options: one other sample in 32,000 looks the same. The ECN bit is left
 * out, since the route decides about ECN again.
 */
static __always_inline int tt_cookie_sample(const struct tcp_sock *tp, __u32 srtt_us)
{
	return srtt_us % 8000 == 0 && (tt_echoed(tp) & 0x1f) == tt_cookie_options(tp);
}

/* The third ACK's arrival ends the handshake at either end; the kernel has just taken its RTT sample. */
static __always_inline void tt_established(struct sock *sk, struct tt_socket *s, __u64 now)
{
	struct tcp_sock *tp = tt_tcp_sock(sk);

	if (!tp)
		return;
	__u32 retrans = TT_READ(tp, total_retrans);
	__u32 srtt_us = TT_READ(tp, srtt_us);
	__u64 rtt_ns = (__u64)(srtt_us >> 3) * 1000;
	__u64 stamp_ns = TT_READ(tp, tcp_mstamp) * 1000;

	s->established = 1;
	s->total_retrans = retrans;
	tt_cookie_of(sk, s); /* a child has its own only now on every kernel */
	if (tt_in_repair(tp)) {
		s->restored = 1;
		s->role = TT_ROLE_UNKNOWN;
		s->started_ns = -1;
		s->visited = 0;
	} else if (s->role == TT_ROLE_ACTIVE && s->state == TCP_SYN_SENT) {
		__u64 sent_ns = stamp_ns - rtt_ns;

		s->syn_retransmits = retrans;
		s->synack_retransmits = 0;
		s->handshake_ns = now - s->entered_ns;
		s->handshake_exact =
			retrans > 0; /* then seconds, against the port search before the SYN */
		/* The SYN's own transmit stamp, to the microsecond, where the sample is that of the SYN. */
		if (!retrans && srtt_us && sent_ns + 1000 >= s->entered_ns && sent_ns <= now) {
			s->started_ns = sent_ns;
			s->handshake_ns = now - sent_ns;
			s->handshake_exact = 1;
		}
	} else if (s->role == TT_ROLE_ACTIVE) { /* simultaneous open, by way of SYN_RECV */
		s->synack_retransmits = retrans - s->syn_retransmits;
		s->handshake_ns = now - s->started_ns;
		s->handshake_exact = 0;
	} else if (s->role == TT_ROLE_PASSIVE) {
		s->syn_retransmits = 0;
		s->synack_retransmits = retrans;
		/* tcp_synack_rtt_meas(): SYN-ACK sent to ACK received, when the SYN-ACK was sent once. */
		if (!retrans && srtt_us && !tt_cookie_sample(tp, srtt_us)) {
			/* The sample is taken late (tcp_mstamp is refreshed next), the ACK has made the
			 * child before. The child of a fast open is older than its SYN-ACK, and there the
			 * sample is all there is. */
			__u64 child_ns = stamp_ns > s->seen_ns ? stamp_ns - s->seen_ns : 0;

			s->started_ns = stamp_ns - rtt_ns;
			s->handshake_ns = rtt_ns > child_ns ? rtt_ns - child_ns : rtt_ns;
			s->handshake_exact =
				TT_READ(&tp->inet_conn, icsk_accept_queue.rskq_defer_accept) == 0;
		}
	}
}

/* ESTABLISHED was skipped. The retransmissions up to now are taken for the handshake's: they cannot be told
 * from the data's any more, so neither is known. */
static __always_inline void tt_missed_handshake(struct tt_socket *s)
{
	s->established = 1;
	s->syn_retransmits = -1;
	s->synack_retransmits = -1;
	s->retransmits_unknown = 1;
}

static __always_inline void tt_birth(struct sock *sk, int new, __u64 now)
{
	struct tt_control *c = tt_control();
	struct tt_socket *s;

	if (!c || c->stopping)
		return;
	if (new == TCP_SYN_SENT && !tt_may_be_wanted(sk))
		return;
	s = tt_state_get(sk, 1);
	if (!s) {
		tt_count(TT_LOST_STATE);
		return;
	}
	/* The previous connection's end was skipped. The socket has the next one's tuple and counts already, so
	 * that the journal tells of it. */
	if (s->connection_id && !s->done)
		tt_count(TT_LOST_TRANSITION);
	tt_begin(s, now, new);
	s->entry_known = 1;
	if (new == TCP_SYN_SENT) {
		s->role = TT_ROLE_ACTIVE;
		s->cookie = tt_cookie(sk);
		s->started_ns = now;
		tt_owner(sk, s);
	} else {
		s->role = TT_ROLE_PASSIVE;
	}
}

static __always_inline void tt_transition(struct sock *sk, int old, int new, __u64 now)
{
	struct tt_socket *s = tt_state_get(sk, 0);

	if (!s) {
		s = tt_first_sight(sk, old, now, 0);
		if (!s)
			return;
	}
	if (s->done || s->pending)
		return;
	if (s->state != old) {
		s->flags |= TT_FLAG_STATES_BROKEN;
		tt_count(TT_LOST_TRANSITION);
		if (!s->established && old != TCP_SYN_SENT && old != TCP_SYN_RECV)
			tt_missed_handshake(s);
	} else if (s->entry_known) {
		s->state_ns[tt_slot(old)] += now - s->entered_ns;
		s->visited |= 1 << tt_slot(old);
	}
	if (new == TCP_ESTABLISHED) {
		/* the stored state may lag behind; the branches of the handshake go by the true one */
		s->state = old;
		tt_established(sk, s, now);
	} else if (old == TCP_SYN_SENT && new == TCP_SYN_RECV) {
		struct tcp_sock *tp = tt_tcp_sock(sk);

		s->syn_retransmits = tp ? (__s32)TT_READ(tp, total_retrans) : -1;
	} else if (new == TCP_FIN_WAIT1) {
		s->initiator = s->initiator ?: TT_INITIATOR_LOCAL;
		tt_owner(sk, s);
	} else if (new == TCP_CLOSE_WAIT) {
		s->initiator = s->initiator ?: TT_INITIATOR_REMOTE;
	} else if (new == TCP_CLOSING) {
		s->initiator = TT_INITIATOR_SIMULTANEOUS;
	} else if (new == TCP_LAST_ACK) {
		tt_owner(sk, s);
	}
	if (new == TCP_CLOSE) {
		s->state = old;
		s->ended_ns = now;
		tt_close(sk, s, old);
		return;
	}
	if (s->established && !s->journaled)
		tt_journal_note(sk, s);
	s->reset_sent = 0; /* one that did not end the connection: SYN_SENT answering a stray ACK */
	s->state = new;
	s->entered_ns = now;
	s->entry_known = 1;
}

TT_TRACEPOINT(inet_sock_set_state)
{
	struct sock *sk = TT_ARG(0, struct sock *);
	int old = TT_ARG(1, int), new = TT_ARG(2, int);

	/* MPTCP and SCTP share the tracepoint; a CLOSE may be repeated. */
	if (TT_READ(sk, sk_protocol) != IPPROTO_TCP || old == new)
		return 0;
	if (new == TCP_LISTEN || (old == TCP_LISTEN && new == TCP_CLOSE))
		return 0;
	__u64 now = bpf_ktime_get_ns();

	if ((old == TCP_CLOSE && new == TCP_SYN_SENT) || (old == TCP_LISTEN && new == TCP_SYN_RECV))
		tt_birth(sk, new, now);
	else
		tt_transition(sk, old, new, now);
	return 0;
}

TT_TRACEPOINT(tcp_receive_reset)
{
	struct tt_socket *s = tt_state_get(TT_ARG(0, struct sock *), 0);

	if (s)
		s->reset_received = 1;
	return 0;
}

TT_TRACEPOINT(tcp_send_reset)
{
	struct sock *sk = TT_ARG(0, struct sock *);
	struct tt_socket *s = 0;

	if (sk) {
		int state = TT_READ(sk, __sk_common.skc_state);

		if (state != TCP_LISTEN && state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV)
			s = tt_state_late(sk);
	}
	if (s && s->connection_id && !s->done) {
		s->reset_sent = 1;
		if (s->pending) {
			tt_close(sk, s, s->state);
		}
		return 0;
	}
	if (s && s->close_reason == TT_CLOSE_RESET_SENT)
		return 0;
	tt_event_reset(sk, TT_ARG(1, struct sk_buff *), s,
		       TT_CONFIG(has_reset_reason) ? TT_ARG(2, int) : -1);
	return 0;
}

TT_TRACEPOINT(tcp_destroy_sock)
{
	struct sock *sk = TT_ARG(0, struct sock *);
	struct tt_socket *s = tt_state_get(sk, 0);

	if (!s) {
		if (!tt_lived_unseen(sk))
			return 0;
		s = tt_first_sight(sk, TCP_CLOSE, bpf_ktime_get_ns(), 0);
		if (!s)
			return 0;
	}
	if (s->connection_id && !s->done) {
		if (!s->pending) {
			s->ended_ns = bpf_ktime_get_ns();
			s->flags |= TT_FLAG_STATES_BROKEN | TT_FLAG_AT_DESTROY;
			tt_count(TT_LOST_TRANSITION);
		}
		tt_finish(sk, s);
	}
	tt_state_drop(sk);
	return 0;
}

TT_TRACEPOINT(tcp_retransmit_skb)
{
	struct sock *sk = TT_ARG(0, struct sock *);

	if (TT_CONFIG(has_retransmit_err) && TT_ARG(2, int))
		return 0; /* it did not leave */
	if (TT_CONFIG(budget))
		tt_budget_retransmit(sk, TT_ARG(1, struct sk_buff *));
	tt_event_retransmit(sk, TT_ARG(1, struct sk_buff *));
	return 0;
}

TT_TRACEPOINT(tcp_retransmit_synack)
{
	tt_event_synack(TT_ARG(1, struct request_sock *));
	return 0;
}

TT_TRACEPOINT(kfree_skb)
{
	__u32 reason = TT_ARG(2, __u32);

	if (reason >= 256 || !((TT_CONFIG_DROP_REASONS((reason >> 6) & 3) >> (reason & 63)) & 1))
		return 0;
	tt_event_drop(TT_ARG(0, struct sk_buff *), reason,
		      TT_CONFIG(has_drop_socket) ? TT_ARG(3, struct sock *) : 0);
	return 0;
}
