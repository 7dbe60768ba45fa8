/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Every connection ends with one row, even when the kernel skips our programs at its end: it skips one that
 * would interrupt itself, and some kernels run none on top of certain tasks. Socket storage goes away with
 * the socket, so that what is known of a connection is noted here as soon as its tuple is complete, and
 * struck out when its record leaves. User space reads what is left at the end.
 */
#ifndef TCPTRACE_JOURNAL_H
#define TCPTRACE_JOURNAL_H

#include "event.h"

/* The slot is needed by a younger connection: its holder is long-lived, or its end was skipped. */
static __always_inline void tt_journal_displace(struct tt_journal *j)
{
	struct tt_event *e = tt_event_new(TT_KIND_SIGHTING);

	if (!e)
		return;
	e->connection_id = j->connection_id;
	e->role = j->role;
	e->family = j->family;
	e->v4_mapped = j->v4_mapped;
	__builtin_memcpy(e->local_addr, j->local_addr, TT_ADDR_LEN);
	__builtin_memcpy(e->remote_addr, j->remote_addr, TT_ADDR_LEN);
	e->local_port = j->local_port;
	e->remote_port = j->remote_port;
	e->netns = j->netns;
	e->first_sent_ns = j->started_ns;
	tt_event_submit(e);
	tt_count(TT_COUNT_DISPLACED);
}

/* From ESTABLISHED on; earlier the tuple is not complete on every kernel. */
static __always_inline void tt_journal_note(struct sock *sk, struct tt_socket *s)
{
	struct tt_journal *j = tt_journal_slot(s->connection_id);
	struct tcp_sock *tp = tt_tcp_sock(sk);

	s->journaled = 1;
	if (!j || !tp)
		return;
	if (!tt_wanted_so_far(sk, s)) {
		s->done = 1; /* never wanted: no need to follow it any further */
		tt_count(TT_COUNT_FINISHED);
		return;
	}
	if (j->connection_id)
		tt_journal_displace(j);
	j->connection_id = s->connection_id;
	j->started_ns = s->started_ns;
	TT_COPY(j->local_addr, sk, __sk_common.skc_v6_rcv_saddr);
	TT_COPY(j->remote_addr, sk, __sk_common.skc_v6_daddr);
	j->local_port = TT_BE16(TT_READ(tp, inet_conn.icsk_inet.inet_sport));
	j->remote_port = TT_BE16(TT_READ(sk, __sk_common.skc_dport));
	j->netns = TT_READ(TT_READ(sk, __sk_common.skc_net.net), ns.inum);
	j->role = s->role;
	j->family = tt_is_mapped(j->remote_addr) ? TT_FAMILY_IPV4 : TT_FAMILY_IPV6;
	j->v4_mapped =
		j->family == TT_FAMILY_IPV4 && TT_READ(sk, __sk_common.skc_family) == AF_INET6;
}

static __always_inline void tt_journal_clear(struct tt_socket *s)
{
	struct tt_journal *j;

	if (!s->journaled)
		return;
	j = tt_journal_slot(s->connection_id);
	if (!j)
		return;
	if (j->connection_id == s->connection_id)
		j->connection_id = 0;
	else /* displaced; whoever did that may have left the slot again */
		tt_count(TT_COUNT_REGAINED);
}

#endif
