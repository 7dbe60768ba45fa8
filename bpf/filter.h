/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Which connections the user asked for. Repeated options are alternatives, different ones all hold. */
#ifndef TCPTRACE_FILTER_H
#define TCPTRACE_FILTER_H

#include "portable.h"

static __always_inline int tt_is_mapped(const __u8 *addr)
{
	const __u32 *word = (const __u32 *)addr; /* no address is aligned better on the stack */

	return !word[0] && !word[1] && word[2] == TT_BE32(0xffff);
}

/* Who, as far as it is known: the parts of a tuple that the filters look at. */
struct tt_subject {
	struct tt_prefix remote;
	__u32 netns;
	__u32 local_port; /* host order, 0: not bound yet */
	__u32 remote_port;
};

static __always_inline int tt_any_filter(void)
{
	return TT_CONFIG(filter_netns) || TT_CONFIG(filter_port) || TT_CONFIG(filter_peer) ||
	       TT_CONFIG(filter_pid) || TT_CONFIG(filter_comm);
}

static __always_inline int tt_tuple_wanted(struct tt_subject *who, int final)
{
	if (TT_CONFIG(filter_netns) && !tt_has_netns(&who->netns))
		return 0;
	if (TT_CONFIG(filter_port) && !tt_has_port(&who->remote_port) &&
	    !tt_has_port(&who->local_port) && (final || who->local_port))
		return 0;
	if (TT_CONFIG(filter_peer) && !tt_has_peer(&who->remote))
		return 0;
	return 1;
}

/* An owner that was never seen is not the owner asked for. */
static __always_inline int tt_owner_wanted(struct tt_socket *s)
{
	if (TT_CONFIG(filter_pid)) {
		__u32 pid = s ? (__u32)s->pid : 0;

		if (!s || s->pid < 0 || !tt_has_pid(&pid))
			return 0;
	}
	if (TT_CONFIG(filter_comm)) {
		struct tt_comm comm = {};

		if (!s || s->pid < 0)
			return 0;
		__builtin_memcpy(comm.name, s->comm, sizeof(comm.name));
		if (!tt_has_comm(&comm))
			return 0;
	}
	return 1;
}

static __always_inline void tt_subject_of(struct sock *sk, struct tt_subject *who)
{
	who->remote.prefix_len = 8 * TT_ADDR_LEN;
	TT_COPY(who->remote.addr, sk, __sk_common.skc_v6_daddr);
	who->netns = TT_READ(TT_READ(sk, __sk_common.skc_net.net), ns.inum);
	who->local_port = TT_BE16(TT_PROBE((struct inet_sock *)sk, inet_sport));
	who->remote_port = TT_BE16(TT_READ(sk, __sk_common.skc_dport));
}

/* Before a record leaves: everything is known that will be. */
static __always_inline int tt_wanted(struct sock *sk, struct tt_socket *s)
{
	struct tt_subject who = {};

	if (!tt_any_filter())
		return 1;
	tt_subject_of(sk, &who);
	return tt_tuple_wanted(&who, 1) && tt_owner_wanted(s);
}

/* The tuple is complete; the owner may still show itself. */
static __always_inline int tt_wanted_so_far(struct sock *sk, struct tt_socket *s)
{
	struct tt_subject who = {};

	if (!tt_any_filter())
		return 1;
	tt_subject_of(sk, &who);
	return tt_tuple_wanted(&who, 1) && (s->pid < 0 || tt_owner_wanted(s));
}

/* Before a socket is tracked at all: only what rules it out for certain. The tuple of a child is
 * filled in after its first transition, so a birth is not judged. */
static __always_inline int tt_may_be_wanted(struct sock *sk)
{
	struct tt_subject who = {};

	if (!tt_any_filter())
		return 1;
	tt_subject_of(sk, &who);
	return tt_tuple_wanted(&who, 0);
}

#endif
