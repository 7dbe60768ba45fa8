/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The budget's way in: acknowledgements, arrivals, readiness, reads. */
#ifndef TCPTRACE_RECEIVING_H
#define TCPTRACE_RECEIVING_H

#include "budget.h"

#define MSG_PEEK 2

/* CLOCK_MONOTONIC of a receive stamp; 0 when there is none. */
static __always_inline __u64 tt_arrival(__s64 stamp)
{
	struct tt_control *c = tt_control();

	if (!TT_CONFIG(has_arrival) || !c || !c->realtime_offset_ns || !stamp)
		return 0;
	return stamp - c->realtime_offset_ns;
}

/* The arrival of what was queued last, in a state that tcp_probe does not tell of. */
static __always_inline __u64 tt_arrival_unannounced(struct sock *sk)
{
	struct sk_buff *last = TT_READ(sk, sk_receive_queue.prev);

	if (!TT_CONFIG(has_segment) || !last || last == (struct sk_buff *)&sk->sk_receive_queue)
		return 0;
	return tt_arrival(TT_PROBE(last, tstamp));
}

/* What an acknowledgement tells of the path: never anything that comes with data, which may have waited. */
static __always_inline void tt_acknowledged(struct tcp_sock *tp, struct tt_budget *b, __u32 ack,
					    int pure, __u64 arrived)
{
	__u64 fastest =
		(__u64)TT_READ(tp, rtt_min.s[0].v) * 875; /* ns, less an eighth for jitter */

	if (b->hold == TT_HOLD_NAGLE && !b->release_ns && b->departed_ns &&
	    arrived > b->departed_ns && ack == b->departed_end)
		b->release_ns = arrived - b->departed_ns;
	if (b->resent_ns && b->resent_end && !tt_after(b->resent_end, ack)) {
		/* sooner than any round trip: the first transmission had arrived */
		if (TT_READ(tp, rtt_min.s[0].v) != ~0U && arrived < b->resent_ns + fastest)
			b->resent_ns = b->resent_before_ns;
		b->resent_end = 0;
	} else if (pure && ack == b->departed_end && !b->resent_ns && b->departed_ns) {
		__u64 sample = arrived - b->departed_ns;

		if ((__s64)sample > 0 && (!b->min_sample_ns || sample < b->min_sample_ns))
			b->min_sample_ns = sample;
	}
}

/* A segment reaches an established connection; the socket is as it was before. */
TT_TRACEPOINT(tcp_probe)
{
	struct sock *sk = TT_ARG(0, struct sock *);
	struct sk_buff *skb = TT_ARG(1, struct sk_buff *);
	struct tt_socket *s = tt_followed(sk);
	struct tcp_sock *tp;
	struct tt_budget *b;

	if (!s)
		return 0;
	tp = tt_tcp_sock(sk);
	if (!tp)
		return 0;
	b = tt_budget_of(sk, tp, s);
	if (!b)
		return 0;
	struct tcp_skb_cb *cb = (struct tcp_skb_cb *)&skb->cb[0];
	__u32 end = TT_READ(cb, end_seq), ack = TT_READ(cb, ack_seq);
	__u32 bytes = end - TT_READ(cb, seq) - (TT_READ(cb, tcp_flags) & 1); /* without the FIN */
	__u64 arrived = tt_arrival(TT_READ(skb, tstamp));

	if (TT_READ(tp, write_seq) != TT_READ(tp, snd_nxt) || b->in_write || b->blocked ||
	    tt_chrono(tp) == TCP_CHRONO_SNDBUF_LIMITED)
		tt_hold_at_segment(sk, tp, b, bpf_ktime_get_ns());
	else
		b->hold = TT_HOLD_NONE; /* nothing waits, and nothing needs the clock */
	if (b->phase == TT_PHASE_WRITING && tt_after(ack, TT_READ(tp, snd_una)))
		tt_acknowledged(tp, b, ack, !bytes, arrived ?: bpf_ktime_get_ns());
	if (!bytes || !tt_after(end, TT_READ(tp, rcv_nxt)))
		return 0;
	if (b->phase == TT_PHASE_READING) {
		b->arrived_last_ns = arrived;
		if (b->acknowledged_late)
			b->read_flags |= TT_EXCHANGE_DELAYED_ACK;
	} else {
		tt_turn_to_reading(sk, tp, s, b, ack, arrived);
	}
	return 0;
}

/* Received data can be read. In a state that tcp_probe does not tell of, it is the first that is known of it. */
static __always_inline int tt_on_ready(struct sock *sk)
{
	struct tt_socket *s = tt_followed(sk);
	struct tcp_sock *tp;
	struct tt_budget *b;

	if (!s)
		return 0;
	b = &s->budget;
	if (b->phase == TT_PHASE_READING && b->ready_ns && b->unread_since_ns)
		return 0;
	tp = tt_tcp_sock(sk);
	if (!tp)
		return 0;
	b = tt_budget_of(sk, tp, s);
	if (!b)
		return 0;
	__u32 unread = TT_READ(tp, rcv_nxt) - b->read_end;

	if (!unread || (unread == 1 && tt_fin_received(sk)))
		return 0; /* nothing but its FIN, at most */
	__u64 now = bpf_ktime_get_ns();

	if (b->phase != TT_PHASE_READING)
		tt_turn_to_reading(sk, tp, s, b, TT_READ(tp, snd_una), tt_arrival_unannounced(sk));
	if (!b->ready_ns) {
		b->ready_ns = now;
		b->awaited = tt_reader_waits(sk);
		/* spurious: the kernel has undone it, or the peer answers what was sent before */
		if (b->resent_ns && ((b->resent_undo && !TT_READ(tp, undo_marker)) ||
				     (b->resent_first && tt_echoed(tp) &&
				      tt_after(b->resent_stamp, tt_echoed(tp)))))
			b->resent_ns = 0;
	}
	if (!b->unread_since_ns)
		b->unread_since_ns = now;
	return 0;
}

TT_TRACEPOINT(sk_data_ready)
{
	return tt_on_ready(TT_ARG(0, struct sock *));
}

/* Received bytes were copied to the application, or spliced: fires for each segment of a read. */
TT_TRACEPOINT(tcp_rcv_space_adjust)
{
	struct sock *sk = TT_ARG(0, struct sock *);
	struct tt_socket *s = tt_followed(sk);
	struct tcp_sock *tp;
	struct tt_budget *b;

	if (!s)
		return 0;
	tp = tt_tcp_sock(sk);
	if (!tp)
		return 0;
	b = tt_budget_of(sk, tp, s);
	if (!b)
		return 0;
	__u32 read_end = TT_READ(tp, copied_seq);

	if (read_end == b->read_end)
		return 0; /* a glance: MSG_PEEK */
	__u32 unread = TT_READ(tp, rcv_nxt) - read_end;
	int all = !unread || (unread == 1 && tt_fin_received(sk));

	b->read_end = read_end;
	if (!b->in_read) {
		b->in_read = 1;
		b->reads++;
	}
	if (b->first_read_ns && !all)
		return 0; /* a stream, mostly */
	__u64 now = bpf_ktime_get_ns();

	if (!b->first_read_ns && b->phase == TT_PHASE_READING) {
		b->wakeup_ns = tt_thread_waited(b->ready_ns, b->awaited, now);
		b->first_read_ns = now;
	}
	b->last_read_ns = now;
	if (all && b->unread_since_ns) {
		b->unread_ns += now - b->unread_since_ns;
		b->unread_since_ns = 0;
	}
	if (b->lingers && all) {
		b->lingers = 0;
		tt_budget_end(sk, s);
	}
	tt_owner_seen(sk, s);
	return 0;
}

/* A read has returned, with the number of bytes or an error, and let go of the lock. A glance that comes
 * between the copies of a read makes two reads of it. */
static __always_inline int tt_on_read_end(struct sock *sk, int copied)
{
	struct tt_socket *s;
	struct tt_budget *b;

	if (copied <= 0)
		return 0;
	s = tt_followed(sk);
	if (!s)
		return 0;
	b = &s->budget;
	if (!b->in_read)
		return 0;
	b->in_read = 0; /* the next copy is another read's */
	return 0;
}

TT_TRACEPOINT(sock_recv_length)
{
	return TT_ARG(2, int) & MSG_PEEK ? 0
					 : tt_on_read_end(TT_ARG(0, struct sock *), TT_ARG(1, int));
}

#endif
