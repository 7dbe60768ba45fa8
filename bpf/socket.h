/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The state of a socket: found, begun, dropped. It is in the table, or where what does not fit there goes. */
#ifndef TCPTRACE_SOCKET_H
#define TCPTRACE_SOCKET_H

#include "table.h"

/* State that does not go away with its socket is met by the next socket at that address, when the kernel
 * skipped the destruction. */
static __always_inline int tt_stale(struct sock *sk, struct tt_socket *s)
{
	return (TT_CONFIG(use_table) || TT_CONFIG(use_hash)) && s->cookie > 0 &&
	       s->cookie != TT_READ(sk, __sk_common.skc_cookie.counter);
}

/* The socket's address as a number: the verifier lets nobody calculate with the pointer itself. */
static __always_inline __u64 tt_address(struct sock *sk)
{
	__u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), &sk);
	return address;
}

static __always_inline struct tt_socket *tt_state_find(struct sock *sk, __u64 address)
{
	struct tt_control *c;
	struct tt_socket *s;

	if (!TT_CONFIG(use_table))
		return tt_spill_get(sk, 0);
	s = tt_table_find(address, address);
	if (s)
		return s;
	c = tt_control();
	return c && c->spilled ? tt_spill_get(sk, 0) : 0;
}

/* The socket's state. With `create` there always is one, fresh (connection_id 0) when it had none, but for
 * want of memory. */
static __always_inline struct tt_socket *tt_state_get(struct sock *sk, int create)
{
	__u64 address = TT_CONFIG(use_table) ? tt_address(sk) : 0;
	struct tt_socket *s = tt_state_find(sk, address);
	struct tt_control *c;

	if (s && tt_stale(sk, s)) {
		if (!create)
			return 0;
		s->connection_id = 0;
	}
	if (s || !create)
		return s;
	if (!TT_CONFIG(use_table))
		return tt_spill_get(sk, 1);
	s = tt_table_claim(address);
	if (s)
		return s;
	c = tt_control();
	if (c)
		c->spilled = 1;
	return tt_spill_get(sk, 1);
}

/* The same for what happens to a socket again and again. */
static __always_inline struct tt_socket *tt_state_often(struct sock *sk)
{
	__u64 cookie = TT_READ(sk, __sk_common.skc_cookie.counter);
	__u32 number = cookie % TT_RECENT;
	struct tt_recent *r;
	struct tt_socket *s;

	if (!TT_CONFIG(use_table))
		return tt_spill_get(sk, 0);
	r = bpf_map_lookup_elem(&recent, &number);
	if (!r)
		return 0;
	s = tt_table_recent(r, cookie);
	if (s)
		return s;
	s = tt_state_get(sk, 0);
	if (s) {
		r->cookie = cookie;
		r->slot = s->slot;
	}
	return s;
}

/* The same for an event that may come after the socket's destruction. */
static __always_inline struct tt_socket *tt_state_late(struct sock *sk)
{
	__u64 address = TT_CONFIG(use_table) ? tt_address(sk) : 0;
	struct tt_socket *s = tt_state_find(sk, address);

	if (!s && TT_CONFIG(use_table))
		s = tt_table_find(address, address | TT_DEAD);
	return s && !tt_stale(sk, s) ? s : 0;
}

/* At the socket's destruction. Socket storage goes with it by itself. */
static __always_inline void tt_state_drop(struct sock *sk)
{
	__u64 key = (__u64)sk;

	if (TT_CONFIG(use_table))
		tt_table_bury(tt_address(sk));
	if (TT_CONFIG(use_hash))
		bpf_map_delete_elem(&sockets, &key);
}

#endif
