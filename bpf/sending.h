/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The budget's way out: writes, departures, retransmissions. */
#ifndef TCPTRACE_SENDING_H
#define TCPTRACE_SENDING_H

#include "budget.h"

#define EAGAIN 11
#define MSG_MORE 0x8000
#define MSG_SENDPAGE_NOTLAST 0x20000 /* include/linux/socket.h, before 6.5 */
#define SOCK_NOSPACE 4               /* bit of socket->flags, include/linux/net.h */
#define ICSK_TIME_LOSS_PROBE 5       /* include/net/inet_connection_sock.h */
#define TCP_CA_RECOVERY 3            /* include/uapi/linux/tcp.h */
#define TCP_CA_LOSS 4
#define TT_DELAYED_ACK_MIN_NS 30000000
#define TT_DELAYED_ACK_MAX_NS 210000000

/* A write has entered and has the lock: `more` data are said to follow, and its return will show as well. */
static __always_inline int tt_on_write(struct sock *sk, int more, int end_seen)
{
	struct tt_socket *s = tt_followed(sk);
	struct tcp_sock *tp;
	struct tt_budget *b;

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
	b->more = more;
	if (end_seen)
		b->in_write = 1;
	else
		b->write_end_ns = now; /* its return is not known: from entry to entry */
	tt_owner_seen(sk, s);
	return 0;
}

/* A function that writes is called also for what will not be written: its socket must be able to, as
 * tcp_sendmsg_locked() wants it. A write that waits for its connection shows at its first departure. */
static __always_inline int tt_can_write(struct sock *sk)
{
	int state = TT_READ(sk, __sk_common.skc_state);

	return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT || state == TCP_SYN_RECV;
}

/* kTLS and MPTCP call the inner functions themselves: the outer one's return does not come. */
static __always_inline int tt_end_comes(struct sock *sk)
{
	return !TT_PROBE((struct inet_connection_sock *)sk, icsk_ulp_ops);
}

static __always_inline int tt_end_seen(struct sock *sk)
{
	return TT_CONFIG(has_write_end) && (!TT_CONFIG(end_called) || tt_end_comes(sk));
}

/* With the lock, and nobody waits inside for memory: the program at the last write's return did not run. */
static __always_inline void tt_return_missed(struct sock *sk)
{
	struct tt_socket *s = tt_followed(sk);

	if (!s || !s->budget.in_write || TT_READ(sk, sk_write_pending))
		return;
	s->budget.in_write = 0;
	s->budget.write_bad = 1;
	tt_count(TT_LOST_RETURN);
}

static __always_inline int tt_on_sendmsg(struct sock *sk, struct msghdr *msg, __u64 bytes,
					 int locked)
{
	if (!bytes || !tt_can_write(sk))
		return 0;
	if (TT_CONFIG(end_called) && locked)
		tt_return_missed(sk);
	return tt_on_write(sk, (TT_READ(msg, msg_flags) & MSG_MORE) != 0, tt_end_seen(sk));
}

static __always_inline int tt_on_sendpage(struct sock *sk, int flags)
{
	if (!tt_can_write(sk))
		return 0;
	tt_return_missed(sk);
	return tt_on_write(sk, (flags & (MSG_MORE | MSG_SENDPAGE_NOTLAST)) != 0,
			   TT_CONFIG(has_page_end) && tt_end_comes(sk));
}

/* Fires for each segment that a write fills. */
TT_TRACEPOINT(tcp_sendmsg_locked)
{
	struct sock *sk = TT_ARG(0, struct sock *);
	struct msghdr *msg = TT_ARG(1, struct msghdr *);

	if (tt_write_goes_on(msg))
		return 0;
	return tt_on_write(sk, (TT_READ(msg, msg_flags) & MSG_MORE) != 0, tt_end_seen(sk));
}

/* A write has returned, with the number of bytes or an error, and let go of the lock. */
static __always_inline int tt_on_write_end(struct sock *sk, int sent)
{
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

TT_TRACEPOINT(sock_send_length)
{
	return tt_on_write_end(TT_ARG(0, struct sock *), TT_ARG(1, int));
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

/* Was the write that begins the connection called before there was one to begin a turn on? */
static __always_inline int tt_write_unseen(struct tt_socket *s, struct tt_budget *b)
{
	return TT_CONFIG(write_called) && b->phase == TT_PHASE_IDLE &&
	       !(s->flags & TT_FLAG_FIRST_MISSED);
}

/* A packet is handed to the device. A bridge, a bond or a tunnel hands it on: the last time counts. */
static __always_inline int tt_on_departure(struct sk_buff *skb)
{
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
		if (!TT_CONFIG(has_write) ? b->phase != TT_PHASE_WRITING : tt_write_unseen(s, b)) {
			tt_turn_to_writing(sk, tp, s, b, now);
			b->write_start = span.start;
			b->mark_ns = now; /* what was before is not known */
			b->writes = 1;
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

TT_TRACEPOINT(net_dev_start_xmit)
{
	return tt_on_departure(TT_ARG(0, struct sk_buff *));
}

/* Before it waits in a queueing discipline: where the hook above is missing. */
TT_TRACEPOINT(net_dev_queue)
{
	return tt_on_departure(TT_ARG(0, struct sk_buff *));
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
	b->retransmits += TT_READ(cb, tcp_gso_segs);
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
