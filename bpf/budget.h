/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The programs of the budget: each notes an instant of the turn its socket is in.
 *
 * On loopback and veth the peer's arrival, its reads and even its answer run inside the sender's departure,
 * so a socket's events come in any order. Most hooks run with the socket locked; the returns of reads and
 * writes do not, and have fields of their own.
 */
#ifndef TCPTRACE_BUDGET_H
#define TCPTRACE_BUDGET_H

#include "connection.h"

#define EAGAIN 11
#define MSG_PEEK 2
#define MSG_MORE 0x8000
#define SOCK_NOSPACE 4         /* bit of socket->flags, include/linux/net.h */
#define ICSK_TIME_LOSS_PROBE 5 /* include/net/inet_connection_sock.h */
#define TCP_CA_RECOVERY 3      /* include/uapi/linux/tcp.h */
#define TCP_CA_LOSS 4
#define TT_DELAYED_ACK_MIN_NS 30000000
#define TT_DELAYED_ACK_MAX_NS 210000000

static __always_inline struct tt_socket *tt_followed(struct sock *sk)
{
	struct tt_socket *s = tt_state_often(sk);

	return s && (!s->done || s->budget.lingers) ? s : 0;
}

/* The owner shows in its reads and writes. */
static __always_inline void tt_owner_seen(struct sock *sk, struct tt_socket *s)
{
	if (s->pid < 0)
		tt_owner(sk, s);
}

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

/* A write has entered and has the lock. Fires again for each segment it fills. */
TT_TRACEPOINT(tcp_sendmsg_locked)
{
	struct sock *sk = TT_ARG(0, struct sock *);
	struct msghdr *msg = TT_ARG(1, struct msghdr *);
	struct tt_socket *s;
	struct tcp_sock *tp;
	struct tt_budget *b;

	if (tt_write_goes_on(msg))
		return 0;
	s = tt_followed(sk);
	if (!s || s->budget.in_write)
		return 0;
	tp = tt_tcp_sock(sk);
	if (!tp)
		return 0;
	b = tt_budget_of(sk, tp, s);
	if (!b)
		return 0;
	__u64 now = bpf_ktime_get_ns();

	if (TT_READ(tp, write_seq) != TT_READ(tp, snd_nxt)) /* held up to now */
		tt_hold_charge(b, tt_hold_now(sk, tp, b, now) ?: b->hold, b->mark_ns, now);
	if (b->phase != TT_PHASE_WRITING) {
		tt_turn_to_writing(sk, tp, s, b, now);
		tt_thread_waited(0, 0, now);
	} else if (!b->blocked) {
		if (now > b->write_end_ns)
			b->between_ns += now - b->write_end_ns;
		__builtin_memset(b->held_out, 0, sizeof(b->held_out));
	}
	if (b->blocked)
		tt_hold_charge(b, TT_HOLD_SNDBUF, now - b->no_room_ns, now);
	b->no_room_ns = 0;
	b->writes++;
	b->blocked = 0;
	b->hold = TT_HOLD_NONE;
	b->mark_ns = b->last_write_ns = now;
	b->nagle = tt_nonagle(tp);
	b->more = (TT_READ(msg, msg_flags) & MSG_MORE) != 0;
	if (TT_CONFIG(has_write_end))
		b->in_write = 1;
	else
		b->write_end_ns = now; /* its return is not known: from entry to entry */
	tt_owner_seen(sk, s);
	return 0;
}

/* A write has returned and let go of the lock. */
TT_TRACEPOINT(sock_send_length)
{
	struct sock *sk = TT_ARG(0, struct sock *);
	int sent = TT_ARG(1, int);
	struct tt_socket *s = tt_followed(sk);
	struct tt_budget *b;

	if (!s || !s->budget.in_write)
		return 0;
	b = &s->budget;
	if (sent < 0 && b->writes)
		b->writes--;
	b->blocked = sent == -EAGAIN;
	if (sent > 0 && 2 * TT_READ(sk, sk_wmem_queued) >= TT_READ(sk, sk_sndbuf)) {
		struct socket *socket = TT_READ(sk, sk_socket);

		/* a part of it: the application will be told when there is room */
		if (socket && TT_READ(socket, flags) & SOCK_NOSPACE)
			b->blocked = 1;
	}
	b->write_end_ns = bpf_ktime_get_ns();
	b->in_write = 0;
	if (!TT_CONFIG(has_departure)) {
		struct tcp_sock *tp = tt_tcp_sock(sk);

		if (tp)
			b->departed_end = TT_READ(tp, write_seq); /* the end of what was written */
	}
	return 0;
}

/* Where a TCP segment in a packet on its way out begins and ends. */
struct tt_span_of_bytes {
	__u32 start;
	__u32 bytes;
	__u32 acknowledged;
};

static __always_inline int tt_departing(struct sk_buff *skb, struct tt_span_of_bytes *span)
{
	unsigned char *tcp = TT_READ(skb, head) + TT_READ(skb, transport_header);
	__u32 before = tcp - TT_READ(skb, data);
	__u32 header[4];

	if (bpf_probe_read_kernel(header, sizeof(header), tcp))
		return 0;
	span->start = TT_BE32(header[1]);
	span->acknowledged = TT_BE32(header[2]);
	span->bytes = TT_READ(skb, len) - before - ((TT_BE32(header[3]) >> 28) << 2);
	return 1;
}

/* Is this neither the first nor the last of what is on its way, and nothing paces it? A device without TSO gets
 * the segments of an aggregate one by one, while snd_nxt stands before all of it. */
static __always_inline int tt_more_follows(struct sock *sk, struct tcp_sock *tp,
					   struct sk_buff *skb)
{
	__u32 length = TT_READ(skb, len);
	__u32 most = length > 2 * TT_READ(tp, mss_cache) ? length : TT_READ(sk, sk_gso_max_size);

	return TT_READ(tp, write_seq) - TT_READ(tp, snd_nxt) > most &&
	       TT_READ(sk, sk_pacing_status) != SK_PACING_NEEDED;
}

/* An acknowledgement of its own that leaves late enough to have waited for the delayed ACK timer. */
static __always_inline void tt_acknowledges(struct sk_buff *skb, struct tt_budget *b)
{
	__u64 waited = bpf_ktime_get_ns() - b->arrived_last_ns;
	struct tt_span_of_bytes span;

	if (!b->arrived_last_ns || waited < TT_DELAYED_ACK_MIN_NS ||
	    waited > TT_DELAYED_ACK_MAX_NS || !tt_departing(skb, &span))
		return;
	if (!span.bytes && span.acknowledged != b->acknowledged)
		b->acknowledged_late =
			1; /* whether anything waited for it, the next segment tells */
	b->acknowledged = span.acknowledged;
}

/* A packet is handed to the device. A bridge, a bond or a tunnel hands it on: the last time counts. */
TT_TRACEPOINT(net_dev_start_xmit)
{
	struct sk_buff *skb = TT_ARG(0, struct sk_buff *);
	struct sock *sk = TT_READ(skb, sk);
	struct tt_span_of_bytes span;
	struct tcp_sock *tp;
	struct tt_socket *s;
	struct tt_budget *b;

	if (!sk)
		return 0;
	int state = TT_READ(sk, __sk_common.skc_state);

	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV || state == TCP_SYN_SENT)
		return 0; /* the first two are no full sockets: they end before sk_protocol */
	if (TT_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	s = tt_followed(sk);
	if (!s)
		return 0;
	tp = tt_tcp_sock_of_packet(sk);
	if (!tp)
		return 0;
	b = tt_budget_of(sk, tp, s);
	if (!b)
		return 0;
	if (b->phase == TT_PHASE_READING) {
		tt_acknowledges(skb, b);
		if (TT_CONFIG(has_write))
			return 0; /* a new write would have begun a burst */
	} else if (b->first_departed_ns && tt_more_follows(sk, tp, skb)) {
		return 0; /* a stream */
	}
	if (!tt_departing(skb, &span))
		return 0;
	__u32 end = span.start + span.bytes, una = TT_READ(tp, snd_una);

	/* a tunnel's header is no TCP header */
	if (end - una > TT_READ(tp, write_seq) - una + 1)
		return 0;
	__u64 now = bpf_ktime_get_ns();

	if (!span.bytes)
		return 0;
	if (tt_after(end, b->departed_end)) {
		if (!TT_CONFIG(has_write) && b->phase != TT_PHASE_WRITING) {
			tt_turn_to_writing(sk, tp, s, b, now);
			b->write_start = span.start;
			b->mark_ns = now; /* what was before is not known */
		}
		tt_hold_at_departure(sk, tp, b, end, span.bytes, now);
		if (!b->first_departed_ns)
			b->first_departed_ns = now;
		b->departed_end = end;
		b->departed_bytes = span.bytes;
		b->departed_ns = now;
	} else if (end == b->departed_end && tt_after(end, TT_READ(tp, snd_nxt))) {
		b->departed_ns = now; /* the same packet once more */
	}
	return 0;
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
TT_TRACEPOINT(sk_data_ready)
{
	struct sock *sk = TT_ARG(0, struct sock *);
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

/* A read has returned and let go of the lock. */
TT_TRACEPOINT(sock_recv_length)
{
	struct tt_socket *s;
	struct tt_budget *b;

	if (TT_ARG(1, int) <= 0 || TT_ARG(2, int) & MSG_PEEK)
		return 0;
	s = tt_followed(TT_ARG(0, struct sock *));
	if (!s)
		return 0;
	b = &s->budget;
	if (!b->in_read)
		return 0;
	b->in_read = 0; /* the next copy is another read's */
	return 0;
}

static __always_inline __u8 tt_retransmit_kind(struct tcp_sock *tp)
{
	__s8 state = tt_ca_state(&tp->inet_conn);

	if (state == TCP_CA_LOSS)
		return TT_EXCHANGE_RTO;
	if (state == TCP_CA_RECOVERY)
		return TT_EXCHANGE_FAST;
	return TT_READ(&tp->inet_conn, icsk_pending) == ICSK_TIME_LOSS_PROBE ? TT_EXCHANGE_TLP : 0;
}

/* Bytes of this burst were sent once more. */
static __always_inline void tt_budget_retransmit(struct sock *sk, struct sk_buff *skb)
{
	struct tt_socket *s = tt_followed(sk);
	struct tcp_skb_cb *cb = (struct tcp_skb_cb *)&skb->cb[0];
	struct tcp_sock *tp = tt_tcp_sock(sk);
	struct tt_budget *b;

	if (!s || !tp)
		return;
	b = tt_budget_of(sk, tp, s);
	if (!b || b->phase != TT_PHASE_WRITING)
		return;
	__u32 end = TT_READ(cb, end_seq);

	if (!tt_after(end, b->write_start))
		return;
	b->retransmits++;
	b->flags |= tt_retransmit_kind(tp);
	b->resent_before_ns = b->resent_ns;
	b->resent_ns = bpf_ktime_get_ns();
	b->resent_end = end;
	b->resent_undo = TT_READ(tp, undo_marker) != 0;
	/* the peer echoes the earliest segment that it had not acknowledged: only that one's tells */
	b->resent_first = TT_READ(cb, seq) == TT_READ(tp, snd_una);
	b->resent_stamp = tt_timestamp(tp, TT_READ(skb, tstamp));
}

#endif
