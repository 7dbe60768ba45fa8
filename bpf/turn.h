/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Turns: where a burst of writes or of reads begins, and which two bursts are one exchange.
 *
 * An end that asks (it connected, or wrote first on a connection met later) has turns of writing and reading;
 * one that answers has turns of reading and writing. A first burst that goes against this, the greeting of
 * a server that speaks first, makes a turn of its own with the burst that follows.
 */
#ifndef TCPTRACE_TURN_H
#define TCPTRACE_TURN_H

#include "exchange.h"

/* The state of a socket whose turns are followed, begun at its first event; 0 when it is none. */
static __always_inline struct tt_budget *tt_budget_of(struct sock *sk, struct tcp_sock *tp,
						      struct tt_socket *s)
{
	struct tt_budget *b = &s->budget;

	if (b->ready)
		return b->ready == 1 ? b : 0;
	/* before the SYN-ACK nothing is known of the peer's numbers */
	if (!s->connection_id || TT_READ(sk, __sk_common.skc_state) == TCP_SYN_SENT)
		return 0;
	if (tt_kernel_socket(sk)) {
		b->ready = 2;
		return 0;
	}
	b->ready = 1;
	b->wakeup_ns = -1;
	b->departed_end = TT_READ(tp, snd_nxt);
	/* a write that waited for its connection was not seen, and may be on its way to the device */
	if (TT_CONFIG(write_called) && !(s->flags & TT_FLAG_FIRST_MISSED))
		b->departed_end = TT_READ(tp, snd_una);
	b->read_end = TT_READ(tp, copied_seq);
	if (s->role == TT_ROLE_ACTIVE)
		b->turns = TT_TURNS_ASKS;
	else if (s->role == TT_ROLE_PASSIVE)
		b->turns = TT_TURNS_ANSWERS;
	return b;
}

/* How much of the time from `since` to now the current thread, which works on a socket now, has waited for a
 * CPU: -1 when it is not known. A thread that waited for the data was woken at `since`, and up to its first
 * event after that it was on its way: an idle CPU has to wake up first, and does not count that. Of any other
 * thread, run_delay tells: it grows when the thread gets a CPU, and what it grew between two events is taken
 * to have ended when the later one came. */
static __always_inline __s64 tt_thread_waited(__u64 since, int awaited, __u64 now)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct tt_thread *t = tt_thread(tid);

	if (!TT_CONFIG(has_run_delay) || !t)
		return -1;
	struct task_struct *task = tt_task();
	__u64 delay = TT_READ(task, sched_info.run_delay);

	if (t->tid != tid) {
		__u64 born = TT_READ(task, start_time);

		t->tid = tid;
		t->run_delay_ns = delay;
		t->last_ns = now;
		t->grown_ns = 0;
		t->before_ns = t->woke_ns = now;
		if (awaited)
			return now - since;
		/* how much of it is older cannot be told, but little of little is little */
		if (!since || born < since)
			return delay <= (now - since) / 16 ? (__s64)delay : -1;
		return delay < now - born ? delay : now - born;
	}
	__u64 previous = t->last_ns;

	if (delay != t->run_delay_ns) {
		t->grown_ns = delay - t->run_delay_ns;
		t->before_ns = t->last_ns;
		t->woke_ns = now;
		t->run_delay_ns = delay;
	}
	t->last_ns = now;
	if (awaited && previous <= since)
		return now - since;
	if (!since || since >= t->woke_ns)
		return 0;
	__u64 from = since > t->before_ns ? since : t->before_ns;

	return t->grown_ns < t->woke_ns - from ? t->grown_ns : t->woke_ns - from;
}

static __always_inline void tt_write_burst(struct tcp_sock *tp, struct tt_budget *b, __u64 now)
{
	b->read_before = b->phase == TT_PHASE_READING;
	b->phase = TT_PHASE_WRITING;
	b->first_write_ns = b->last_write_ns = now;
	b->between_ns = b->no_room_ns = 0;
	__builtin_memset(b->held_in, 0, sizeof(b->held_in));
	__builtin_memset(b->held_out, 0, sizeof(b->held_out));
	b->first_departed_ns = b->resent_ns = b->resent_before_ns = b->release_ns = 0;
	b->writes = b->retransmits = 0;
	b->flags = 0;
	b->write_start = TT_READ(tp, write_seq);
	b->retransmits_before = TT_READ(tp, total_retrans);
	b->write_bad = 0;
}

/* The application reads no more before it writes: was that a whole burst? The peer's FIN is not read. */
static __always_inline int tt_all_read(struct sock *sk, struct tcp_sock *tp, struct tt_budget *b)
{
	__u32 unread = TT_READ(tp, rcv_nxt) - b->read_end;

	return b->first_read_ns && (!unread || (unread == 1 && tt_fin_received(sk)));
}

/* A write begins a burst. */
static __always_inline void tt_turn_to_writing(struct sock *sk, struct tcp_sock *tp,
					       struct tt_socket *s, struct tt_budget *b, __u64 now)
{
	__u8 bad = 0;

	if (b->phase == TT_PHASE_READING) {
		bad = !tt_all_read(sk, tp, b);
		if (b->wrote_before && (b->turns == TT_TURNS_ASKS || b->greeting)) {
			if (bad || b->write_bad || b->read_bad)
				b->pipelined++;
			else
				tt_exchange_over(sk, s, TT_SIDE_CLIENT, b->write_end);
			b->greeting = 0;
		}
	} else if (b->turns == TT_TURNS_ANSWERS) {
		b->greeting = !(s->flags & TT_FLAG_FIRST_MISSED); /* else the rest of an answer */
	} else {
		b->turns = TT_TURNS_ASKS;
	}
	tt_write_burst(tp, b, now);
	b->write_bad = bad;
}

/* The kernel's own count, in segments, also has those whose event was hidden from us. */
static __always_inline void tt_count_retransmits(struct tcp_sock *tp, struct tt_budget *b)
{
	__s32 retransmits = TT_READ(tp, total_retrans) - b->retransmits_before;

	b->resent_unseen = retransmits > b->retransmits;
	if (b->resent_unseen)
		b->retransmits = retransmits;
}

/* Data begins a burst of reads; `acknowledged` is how far it acknowledges what was written. */
static __always_inline void tt_turn_to_reading(struct sock *sk, struct tcp_sock *tp,
					       struct tt_socket *s, struct tt_budget *b,
					       __u32 acknowledged, __u64 arrived)
{
	__u8 bad = 0;

	if (b->phase == TT_PHASE_WRITING) {
		__u32 end = TT_READ(tp, write_seq);

		/* a FIN takes a number, too */
		bad = tt_after(end, acknowledged);
		if (TT_READ(sk, __sk_common.skc_state) != TCP_ESTABLISHED)
			end = b->departed_end;
		tt_count_retransmits(tp, b);
		if (b->read_before && (b->turns == TT_TURNS_ANSWERS || b->greeting)) {
			if (bad || b->write_bad || b->read_bad)
				b->pipelined++;
			else
				tt_exchange_over(sk, s, TT_SIDE_SERVER, end);
			b->greeting = 0;
		}
		b->write_end = end;
	} else if (b->turns == TT_TURNS_ASKS) {
		b->greeting = !(s->flags & TT_FLAG_FIRST_MISSED);
	} else {
		b->turns = TT_TURNS_ANSWERS;
	}
	b->wrote_before = b->phase == TT_PHASE_WRITING;
	b->phase = TT_PHASE_READING;
	b->arrived_ns = b->arrived_last_ns = arrived;
	b->ready_ns = b->first_read_ns = b->last_read_ns = 0;
	b->wakeup_ns = -1;
	b->reads = b->in_read = 0;
	b->read_flags = b->acknowledged_late = 0;
	b->read_start = b->read_end;
	b->read_bad = bad;
}

/* The connection ends, or the recording does: the last turn is over if it is whole. An answer that a closed
 * connection has brought may still be read. */
static __always_inline void tt_turn_end(struct sock *sk, struct tt_socket *s, int closed)
{
	struct tt_budget *b = &s->budget;
	struct tcp_sock *tp = tt_tcp_sock(sk);

	if (!tp || b->ready != 1)
		return;
	if (b->phase == TT_PHASE_READING && b->wrote_before &&
	    (b->turns == TT_TURNS_ASKS || b->greeting)) {
		if (b->write_bad || b->read_bad)
			b->pipelined++;
		else if (b->first_read_ns && !b->unread_since_ns)
			tt_exchange_over(sk, s, TT_SIDE_CLIENT, b->write_end);
		else if (closed && b->unread_since_ns) {
			b->lingers = 1;
			return;
		}
	} else if (b->phase == TT_PHASE_WRITING && b->read_before &&
		   (b->turns == TT_TURNS_ANSWERS || b->greeting)) {
		if (b->write_bad || b->read_bad)
			b->pipelined++;
		else if (b->departed_end == TT_READ(tp, write_seq) ||
			 b->departed_end + 1 == TT_READ(tp, write_seq)) /* and a FIN */
			tt_exchange_over(sk, s, TT_SIDE_SERVER, b->departed_end);
	}
	b->phase = TT_PHASE_IDLE;
	b->read_before = b->wrote_before = 0;
}

#endif
