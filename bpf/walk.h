/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The walk over all sockets of one network namespace (iter/tcp). The first one finds what was open before
 * the recording; later ones emit interim records, so that a killed recording has the open connections too;
 * the last one (stopping) emits what is open at the end. Runs with the socket locked.
 *
 * BCC's loader has no iterators on kernels without BTF; there, user space asks sock_diag.
 */
#ifndef TCPTRACE_WALK_H
#define TCPTRACE_WALK_H

#include "connection.h"

#ifndef TT_BCC

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct tt_holder);
} holders SEC(".maps");

/* Ports that are listened on: namespace and port. Which way round the turns of a connection go that was open
 * before is told by who listens. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u8);
} listening SEC(".maps");

static __always_inline __u64 tt_listening_key(struct sock *sk)
{
	return (__u64)sk->__sk_common.skc_net.net->ns.inum << 32 | sk->__sk_common.skc_num;
}

/* The walk meets listeners before all others. */
static __always_inline void tt_walk_turns(struct sock *sk, struct tt_socket *s)
{
	__u64 key = tt_listening_key(sk);

	if (bpf_map_lookup_elem(&listening, &key))
		s->budget.turns = TT_TURNS_ANSWERS;
	else if (sk->__sk_common.skc_num > TT_BE16(sk->__sk_common.skc_dport))
		s->budget.turns = TT_TURNS_ASKS;
}

static __always_inline void tt_walk_owner(struct sock *sk, struct tt_socket *s)
{
	__u64 inode = tt_inode(sk);
	struct tt_holder *holder = bpf_map_lookup_elem(&holders, &inode);

	if (s->pid >= 0 || !holder)
		return;
	s->pid = holder->pid;
	__builtin_memcpy(s->comm, holder->comm, sizeof(s->comm));
}

static __always_inline void tt_walk_done(struct tt_socket *s)
{
	s->done = 1;
	tt_journal_clear(s);
	tt_count(TT_COUNT_FINISHED);
}

static __always_inline void tt_walk_one(struct sock *sk, struct tt_control *c)
{
	int state = sk->__sk_common.skc_state;
	__u64 now = bpf_ktime_get_ns();
	struct tt_socket *s;
	__s64 in_state = 0;

	if (state == TCP_LISTEN && TT_CONFIG(budget) && !c->seeded) {
		__u64 key = tt_listening_key(sk);
		__u8 yes = 1;

		bpf_map_update_elem(&listening, &key, &yes, BPF_ANY);
	}
	if (state == TCP_LISTEN || state == TCP_CLOSE)
		return;
	s = tt_state_get(sk, 0);
	if (!s || !s->connection_id) {
		s = tt_first_sight(sk, state, now, c->seeded ? 0 : TT_FLAG_SEEDED);
		if (s && TT_CONFIG(budget) && !c->seeded)
			tt_walk_turns(sk, s);
	}
	if (!s || s->done || s->pending)
		return;
	if (s->emitted_ns && !c->stopping && now - s->emitted_ns < c->interval_ns)
		return;
	tt_walk_owner(sk, s);
	if (s->established && !s->journaled)
		tt_journal_note(sk, s);
	if (s->done)
		return;
	if (!tt_wanted(sk, s)) {
		if (c->stopping)
			tt_walk_done(s);
		return;
	}
	if (s->state != state)
		s->flags |= TT_FLAG_STATES_BROKEN;
	/* the state it is in counts up to now, in this record only */
	__u32 visited = s->visited;

	if (s->entry_known) {
		in_state = now - s->entered_ns;
		s->state_ns[tt_slot(state)] += in_state;
		s->visited |= 1 << tt_slot(state);
	}
	if (TT_CONFIG(budget) && c->stopping)
		tt_turn_end(sk, s, 0);
	int sent = (!TT_CONFIG(budget) || tt_rest_leave(s)) && tt_emit(sk, s, TT_CLOSE_OPEN, -1);

	if (in_state) {
		s->state_ns[tt_slot(state)] -= in_state;
		s->visited = visited;
	}
	if (!sent) {
		tt_count(TT_COUNT_WALK_FULL); /* user space drains the ring and walks again */
		return;
	}
	s->emitted_ns = now;
	if (c->stopping)
		tt_walk_done(s);
}

SEC("iter/tcp")
int walk(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct tt_control *c = tt_control();
	struct tcp_sock *tp;

	if (!skc || !c)
		return 0;
	if (!c->first_jiffies)
		c->first_jiffies = bpf_jiffies64();
	tp = bpf_skc_to_tcp_sock(skc); /* neither requests nor timewait sockets */
	if (tp)
		tt_walk_one((struct sock *)tp, c);
	return 0;
}

#endif

#endif
