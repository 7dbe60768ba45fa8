/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Why bytes that were written are not sent yet, decided as tcp_write_xmit() decides (net/ipv4/tcp_output.c).
 *
 * The time of unsent bytes is cut into intervals by the events at which TCP may send: a write, a segment's
 * arrival, a departure. Each interval gets its cause at its end, from the state that held during it:
 * tcp_probe fires before the segment changes anything. What ends without such an event (a timer, a
 * setsockopt) is told by what the last write or acknowledgement left behind.
 */
#ifndef TCPTRACE_HOLD_H
#define TCPTRACE_HOLD_H

#include "journal.h"

#define TCP_NAGLE_CORK 2          /* include/net/tcp.h */
#define TCP_CHRONO_RWND_LIMITED 2 /* include/linux/tcp.h */
#define TCP_CHRONO_SNDBUF_LIMITED 3
#define SK_PACING_NEEDED 1 /* include/net/sock.h: TCP itself paces */
#define TSQ_THROTTLED 1    /* include/linux/tcp.h: bit of sk_tsq_flags */

static __always_inline int tt_after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

/* tcp_nagle_check(): a small segment is in flight. */
static __always_inline int tt_small_in_flight(struct tcp_sock *tp)
{
	__u32 sml = TT_READ(tp, snd_sml);

	return TT_READ(tp, packets_out) && tt_after(sml, TT_READ(tp, snd_una)) &&
	       !tt_after(sml, TT_READ(tp, snd_nxt));
}

/* Until when TCP's own pacing keeps back what follows the last departure. */
static __always_inline __u64 tt_paced_until(struct sock *sk, struct tt_budget *b)
{
	__u64 rate = TT_READ(sk, sk_pacing_rate);

	if (TT_READ(sk, sk_pacing_status) != SK_PACING_NEEDED || !rate || rate == ~0ULL ||
	    !b->departed_ns)
		return 0;
	return b->departed_ns + (__u64)b->departed_bytes * 1000000000ULL / rate;
}

/* The cause of the interval that ends with a segment's arrival. */
static __always_inline __u8 tt_hold_now(struct sock *sk, struct tcp_sock *tp, struct tt_budget *b,
					__u64 now)
{
	__u32 unsent = TT_READ(tp, write_seq) - TT_READ(tp, snd_nxt);
	__u8 chrono = tt_chrono(tp);

	/* the kernel's own judgement misses a writer that found the buffer full after everything had left */
	if (!unsent)
		return chrono == TCP_CHRONO_SNDBUF_LIMITED ||
				       ((b->in_write || b->blocked) &&
					TT_READ(sk, sk_wmem_queued) >= TT_READ(sk, sk_sndbuf))
			       ? TT_HOLD_SNDBUF
			       : TT_HOLD_NONE;
	if (chrono == TCP_CHRONO_RWND_LIMITED)
		return TT_HOLD_RWND;
	int paced = TT_READ(sk, sk_pacing_status) == SK_PACING_NEEDED;

	if (paced && TT_READ(tp, tcp_wstamp_ns) > now)
		return TT_HOLD_PACING;
	__u32 packets_out = TT_READ(tp, packets_out);
	__u32 in_flight = packets_out - TT_READ(tp, sacked_out) - TT_READ(tp, lost_out) +
			  TT_READ(tp, retrans_out);

	if (in_flight >= TT_READ(tp, snd_cwnd))
		return TT_HOLD_CWND;
	int throttled = TT_READ(sk, sk_tsq_flags) & TSQ_THROTTLED;

	if (unsent < TT_READ(tp, mss_cache)) {
		__u8 nonagle = tt_nonagle(tp);

		if (nonagle & TCP_NAGLE_CORK || b->more)
			return TT_HOLD_CORK;
		if (!nonagle && tt_small_in_flight(tp)) {
			if (!TT_CONFIG(has_write))
				b->flags |= TT_EXCHANGE_HOLD_AMBIGUOUS;
			return TT_HOLD_NAGLE;
		}
		if (!TT_CONFIG(has_write) && !packets_out && !throttled && !paced) {
			b->flags |= TT_EXCHANGE_HOLD_AMBIGUOUS; /* MSG_MORE, most likely */
			return TT_HOLD_CORK;
		}
	}
	if (throttled) {
		b->flags |= TT_EXCHANGE_SMALL_QUEUE;
		return TT_HOLD_PACING;
	}
	if (packets_out && unsent >= TT_READ(tp, mss_cache))
		return TT_HOLD_CWND; /* tcp_tso_should_defer() waits for a larger burst */
	return paced ? TT_HOLD_PACING : TT_HOLD_NONE;
}

static __always_inline void tt_hold_charge(struct tt_budget *b, __u8 cause, __u64 from, __u64 to)
{
	__u32 slot = cause;
	__s64 time = to - from;

	if (!cause || !from || time <= 0)
		return;
	asm volatile("" : "+r"(slot));
	slot &= TT_HOLDS - 1;
	b->held_ns[slot] += time;
	if (b->phase != TT_PHASE_WRITING)
		return;
	if (b->in_write || b->blocked)
		b->held_in[slot] += time;
	else
		b->held_out[slot] += time;
}

/* A segment reaches TCP. */
static __always_inline void tt_hold_at_segment(struct sock *sk, struct tcp_sock *tp,
					       struct tt_budget *b, __u64 now)
{
	__u8 cause = tt_hold_now(sk, tp, b, now);

	/* corked or told to wait by what has been switched off since */
	if (!cause && TT_READ(tp, write_seq) != TT_READ(tp, snd_nxt))
		cause = b->hold;
	if (cause == TT_HOLD_SNDBUF)
		b->no_room_ns += now - b->mark_ns; /* the last departure ends the burst */
	else
		tt_hold_charge(b, cause, b->mark_ns, now);
	b->hold = cause;
	b->mark_ns = now;
	b->nagle = tt_nonagle(tp);
	b->more = 0; /* of one push only: the acknowledgement pushes again, without it */
}

/* New bytes are handed to the device, `bytes` up to `end`. */
static __always_inline void tt_hold_at_departure(struct sock *sk, struct tcp_sock *tp,
						 struct tt_budget *b, __u32 end, __u32 bytes,
						 __u64 now)
{
	__u64 until = now, paced = tt_paced_until(sk, b);
	__u8 cause = b->hold;

	if (!cause && !tt_after(end, TT_READ(tp, snd_nxt))) {
		/* TCP sent it before, and it waited in a queueing discipline */
	} else if (!cause && !b->in_write && !b->blocked && TT_CONFIG(has_write) &&
		   TT_CONFIG(has_write_end)) {
		if (b->nagle & TCP_NAGLE_CORK || b->more) {
			cause = TT_HOLD_CORK;
		} else if (bytes < TT_READ(tp, mss_cache) && !b->nagle && tt_small_in_flight(tp)) {
			cause = TT_HOLD_NAGLE; /* sent by a tail loss probe or by TCP_NODELAY */
		}
		if (!cause && !paced && b->mark_ns != b->departed_ns) {
			cause = TT_HOLD_PACING; /* a device that had enough: nothing else is left */
			b->flags |= TT_EXCHANGE_SMALL_QUEUE;
		}
	}
	if (!cause && paced > b->mark_ns) {
		cause = TT_HOLD_PACING;
		until = paced < now ? paced : now;
	}
	tt_hold_charge(b, cause, b->mark_ns, until);
	tt_hold_charge(b, TT_HOLD_SNDBUF, now - b->no_room_ns, now);
	b->no_room_ns = 0;
	b->hold = TT_HOLD_NONE;
	b->mark_ns = now;
}

#endif
