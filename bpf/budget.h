/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the programs of the budget share; sending.h and receiving.h hold them. Each notes an instant of the turn
 * that its socket is in.
 *
 * On loopback and veth the peer's arrival, its reads and even its answer run inside the sender's departure,
 * so a socket's events come in any order. Most hooks run with the socket locked; the returns of reads and
 * writes do not, and have fields of their own.
 */
#ifndef TCPTRACE_BUDGET_H
#define TCPTRACE_BUDGET_H

#include "connection.h"

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

#endif
