/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* One finished exchange: its instants become stages, its record leaves or joins the sums. */
#ifndef TCPTRACE_EXCHANGE_H
#define TCPTRACE_EXCHANGE_H

#include "hold.h"

/* The stages of struct tt_exchange, from app_ns to transfer_ns, as an array. */
enum tt_stage {
	TT_STAGE_APP,
	TT_STAGE_SNDBUF,
	TT_STAGE_NAGLE,
	TT_STAGE_CORK,
	TT_STAGE_CWND,
	TT_STAGE_RWND,
	TT_STAGE_PACING,
	TT_STAGE_KERNEL_TX,
	TT_STAGE_LOSS_RECOVERY,
	TT_STAGE_WIRE,
	TT_STAGE_KERNEL_RX,
	TT_STAGE_WAKEUP,
	TT_STAGE_APP_LATE,
	TT_STAGE_TRANSFER,
	TT_STAGES,
};

_Static_assert(__builtin_offsetof(struct tt_exchange, residence_ns) -
			       __builtin_offsetof(struct tt_exchange, app_ns) ==
		       8 * TT_STAGES,
	       "the stages are an array");

/* to - from; -1 when one of them was not seen or they are the wrong way round. */
static __always_inline __s64 tt_span(__u64 from, __u64 to)
{
	return from && to && to >= from ? (__s64)(to - from) : -1;
}

/* From the first write to the last byte's departure; the application's own time begins `before` earlier.
 * Returns the instant of the departure, 0 when it was not seen. */
static __always_inline __u64 tt_stages_of_writing(struct tt_budget *b, __s64 before, __u32 end,
						  __s64 *stage)
{
	__u64 departed = TT_CONFIG(has_departure) && b->departed_end == end ? b->departed_ns : 0;
	__s64 rest = tt_span(b->first_write_ns, departed);

	if (TT_CONFIG(has_write) && TT_CONFIG(has_write_end) && before >= 0)
		stage[TT_STAGE_APP] = before + b->between_ns;
	if (!TT_CONFIG(has_segment) || rest < 0)
		return departed;
	rest -= b->between_ns;
#pragma unroll
	for (int cause = TT_HOLD_NAGLE; cause <= TT_HOLD_SNDBUF; cause++)
		rest -= b->held_in[cause] + b->held_out[cause];
	if (rest < 0) /* what was seen does not add up */
		return departed;
	stage[TT_STAGE_NAGLE] = b->held_in[TT_HOLD_NAGLE] + b->held_out[TT_HOLD_NAGLE];
	stage[TT_STAGE_CORK] = b->held_in[TT_HOLD_CORK] + b->held_out[TT_HOLD_CORK];
	stage[TT_STAGE_CWND] = b->held_in[TT_HOLD_CWND] + b->held_out[TT_HOLD_CWND];
	stage[TT_STAGE_RWND] = b->held_in[TT_HOLD_RWND] + b->held_out[TT_HOLD_RWND];
	stage[TT_STAGE_PACING] = b->held_in[TT_HOLD_PACING] + b->held_out[TT_HOLD_PACING];
	if (TT_CONFIG(has_write_end))
		stage[TT_STAGE_SNDBUF] = b->held_in[TT_HOLD_SNDBUF] + b->held_out[TT_HOLD_SNDBUF];
	if (TT_CONFIG(has_write))
		stage[TT_STAGE_KERNEL_TX] = rest;
	return departed;
}

/* From the first arrival to the last read. */
static __always_inline void tt_stages_of_reading(struct tt_budget *b, __s64 *stage)
{
	__s64 late = tt_span(b->ready_ns, b->first_read_ns);

	if (b->arrived_ns)
		stage[TT_STAGE_KERNEL_RX] = tt_span(b->arrived_ns, b->ready_ns);
	if (late >= 0 && b->wakeup_ns >= 0) {
		stage[TT_STAGE_WAKEUP] = b->wakeup_ns < late ? b->wakeup_ns : late;
		stage[TT_STAGE_APP_LATE] = late - stage[TT_STAGE_WAKEUP];
	}
	stage[TT_STAGE_TRANSFER] = tt_span(b->first_read_ns, b->last_read_ns);
}

static __always_inline void tt_rest_add(struct tt_exchange *rest, struct tt_exchange *one)
{
	__s64 *sum = &rest->app_ns, *stage = &one->app_ns;

	if (!rest->summed) {
		*rest = *one;
		rest->kind = TT_KIND_EXCHANGES;
		rest->residence_ns = rest->release_ns = -1;
		rest->request_end = 0;
		return;
	}
	rest->summed++;
	rest->flags |= one->flags;
	rest->total_ns += one->total_ns;
	rest->request_bytes += one->request_bytes;
	rest->response_bytes += one->response_bytes;
	rest->writes += one->writes;
	rest->reads += one->reads;
	rest->retransmits += one->retransmits;
#pragma unroll
	for (int n = 0; n < TT_STAGES; n++)
		if (stage[n] >= 0)
			sum[n] = (sum[n] < 0 ? 0 : sum[n]) + stage[n];
}

/* Is this the one in so many that has a record of its own? Both ends choose the same ones. */
static __always_inline int tt_sampled(__u32 request_end)
{
	struct tt_control *c = tt_control();

	if (!c || !c->sampling)
		return 1;
	__u64 scattered = request_end * 0x9e3779b97f4a7c15ULL;

	return !((scattered >> 32) & ((1ULL << (c->sampling & 31)) - 1));
}

/* Of an established connection, the filters have let the tuple pass before. */
static __always_inline int tt_exchange_wanted(struct sock *sk, struct tt_socket *s)
{
	return s->journaled ? tt_owner_wanted(s) : tt_wanted(sk, s);
}

/* Sends the sums off. 0 when the ring is full. */
static __always_inline int tt_rest_leave(struct tt_socket *s)
{
	int sent = 1;

#pragma unroll
	for (int side = 0; side < 2; side++) {
		struct tt_exchange *rest = &s->rest[side], *r;

		if (!rest->summed)
			continue;
		r = tt_reserve_exchange();
		if (!r) {
			sent = 0;
			continue;
		}
		*r = *rest;
		rest->summed = 0;
		tt_submit_exchange(r);
		tt_count(TT_COUNT_SUMS);
	}
	return sent;
}

/* What both sides' exchanges have. */
static __always_inline void tt_exchange_begin(struct tt_exchange *one, struct tt_socket *s,
					      __u8 side)
{
	struct tt_budget *b = &s->budget;
	__s64 *stage = &one->app_ns;

	one->kind = TT_KIND_EXCHANGE;
	one->side = side;
	one->flags = b->flags | b->read_flags;
	if (TT_CONFIG(before_queue))
		one->flags |= TT_EXCHANGE_BEFORE_QUEUE;
	one->pad0 = 0;
	one->seq = b->seq++;
	one->connection_id = s->connection_id;
	one->writes = TT_CONFIG(has_write) && TT_CONFIG(has_write_end) ? b->writes : -1;
	one->reads = TT_CONFIG(has_read_end) ? b->reads : -1;
	one->retransmits = b->retransmits;
	one->residence_ns = -1;
	one->release_ns = b->release_ns ? (__s64)b->release_ns : -1;
	one->summed = 1;
#pragma unroll
	for (int n = 0; n < TT_STAGES; n++)
		stage[n] = -1;
	__builtin_memset(one->pad1, 0, sizeof(one->pad1));
	__builtin_memset(one->pad2, 0, sizeof(one->pad2));
}

/* When an exchange began at this end. */
static __always_inline __u64 tt_exchange_start(struct tt_budget *b, __u8 side)
{
	if (side == TT_SIDE_CLIENT)
		return b->first_write_ns;
	return b->arrived_ns ?: b->ready_ns ?: b->first_read_ns;
}

/* And when it was over. */
static __always_inline __u64 tt_exchange_end(struct tt_budget *b, __u8 side, __u32 end)
{
	if (side == TT_SIDE_CLIENT)
		return b->last_read_ns;
	return TT_CONFIG(has_departure) && b->departed_end == end ? b->departed_ns
								  : b->last_write_ns;
}

static __always_inline void tt_exchange_asked(struct tt_exchange *one, struct tt_socket *s,
					      __u32 end)
{
	struct tt_budget *b = &s->budget;
	__s64 *stage = &one->app_ns;

	tt_exchange_begin(one, s, TT_SIDE_CLIENT);
	one->request_bytes = end - b->write_start;
	one->response_bytes = b->read_end - b->read_start;
	one->request_end = end;
	__u64 departed = tt_stages_of_writing(b, 0, end, stage);
	__u64 resent = b->resent_ns > departed ? b->resent_ns : departed;

	if (departed && TT_CONFIG(has_retransmit) && !b->resent_unseen)
		stage[TT_STAGE_LOSS_RECOVERY] = resent - departed;
	if (departed && !b->resent_unseen)
		stage[TT_STAGE_WIRE] = tt_span(resent, b->arrived_ns);
	tt_stages_of_reading(b, stage);
}

static __always_inline void tt_exchange_answered(struct tt_exchange *one, struct tt_socket *s,
						 __u32 end)
{
	struct tt_budget *b = &s->budget;
	__s64 *stage = &one->app_ns;

	tt_exchange_begin(one, s, TT_SIDE_SERVER);
	one->request_bytes = b->read_end - b->read_start;
	one->response_bytes = end - b->write_start;
	one->request_end = b->read_end;
	__s64 before = tt_span(b->last_read_ns, b->first_write_ns);
	tt_stages_of_writing(b, before, end, stage);
	stage[TT_STAGE_LOSS_RECOVERY] = stage[TT_STAGE_WIRE] = 0; /* not of this end */
	tt_stages_of_reading(b, stage);
	one->residence_ns = tt_span(b->arrived_last_ns, b->first_departed_ns);
}

/* The burst of writes up to `end` and the burst of reads, in the order of `side`, was an exchange: its
 * record leaves, or it joins the sums. */
static __always_inline void tt_exchange_over(struct sock *sk, struct tt_socket *s, __u8 side,
					     __u32 end)
{
	__u64 started = tt_exchange_start(&s->budget, side);
	__s64 total = tt_exchange_end(&s->budget, side, end) - started;
	struct tt_exchange *one = 0;
	int alone;

	if (total < 0) { /* an event was hidden from us */
		s->budget.pipelined++;
		return;
	}
	if (!tt_exchange_wanted(sk, s))
		return;
	if (tt_sampled(side == TT_SIDE_CLIENT ? end : s->budget.read_end))
		one = tt_reserve_exchange();
	alone = one != 0;
	/* ask the pointer only once: verifiers of older kernels forget that it is not 0 */
	asm volatile("" : "+r"(alone));
	if (!alone)
		one = &s->one;
	if (side == TT_SIDE_CLIENT)
		tt_exchange_asked(one, s, end);
	else
		tt_exchange_answered(one, s, end);
	one->started_ns = started;
	one->total_ns = total;
	if (alone) {
		tt_submit_exchange(one);
		tt_count(TT_COUNT_SINGLE);
		return;
	}
	tt_count(TT_COUNT_SUMMED);
	tt_rest_add(&s->rest[side == TT_SIDE_SERVER], one);
}

#endif
