/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Rare events: a record each. */
#ifndef TCPTRACE_EVENT_H
#define TCPTRACE_EVENT_H

#include "filter.h"

static __always_inline struct tt_event *tt_event_new(enum tt_kind kind)
{
	struct tt_event *e = tt_reserve_event();

	if (!e) {
		tt_count(TT_LOST_EVENT_RING);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = kind;
	e->time_ns = bpf_ktime_get_ns();
	e->state = e->ca_state = e->pending = -1;
	e->connection_id = e->netns = e->sequence = e->first_sent_ns = -1;
	e->reason = e->length_bytes = -1;
	e->role = -1;
	return e;
}

static __always_inline void tt_event_submit(struct tt_event *e)
{
	tt_submit_event(e);
	tt_count(TT_COUNT_EVENTS);
}

static __always_inline void tt_event_family(struct tt_event *e, int family)
{
	e->family = tt_is_mapped(e->remote_addr) ? TT_FAMILY_IPV4 : TT_FAMILY_IPV6;
	e->v4_mapped = e->family == TT_FAMILY_IPV4 && family == AF_INET6;
}

/* A tuple as a packet from the remote end carries it. */
struct tt_packet {
	struct tt_subject who;
	__u8 local_addr[TT_ADDR_LEN];
	__u32 sequence;
	__u8 tcp_flags;
};

/* Reads the headers of a received TCP packet; 0 when it is none. The network namespace is that of the
 * device, 0 when the stack has already let go of it. */
static __always_inline int tt_packet_read(struct sk_buff *skb, struct tt_packet *p)
{
	unsigned char *head = TT_READ(skb, head);
	unsigned char *ip = head + TT_READ(skb, network_header);
	unsigned char *tcp = head + TT_READ(skb, transport_header);
	struct net_device *dev = TT_READ(skb, dev);
	__u8 ip_header[40], tcp_header[16];

	if (bpf_probe_read_kernel(ip_header, sizeof(ip_header), ip) ||
	    bpf_probe_read_kernel(tcp_header, sizeof(tcp_header), tcp))
		return 0;
	if (ip_header[0] >> 4 == 4 && ip_header[9] == IPPROTO_TCP) {
		p->who.remote.addr[10] = p->who.remote.addr[11] = 0xff;
		__builtin_memcpy(p->who.remote.addr + 12, ip_header + 12, 4);
		p->local_addr[10] = p->local_addr[11] = 0xff;
		__builtin_memcpy(p->local_addr + 12, ip_header + 16, 4);
	} else if (ip_header[0] >> 4 == 6 && ip_header[6] == IPPROTO_TCP) {
		__builtin_memcpy(p->who.remote.addr, ip_header + 8, TT_ADDR_LEN);
		__builtin_memcpy(p->local_addr, ip_header + 24, TT_ADDR_LEN);
	} else {
		return 0;
	}
	p->who.remote.prefix_len = 8 * TT_ADDR_LEN;
	p->who.remote_port = tcp_header[0] << 8 | tcp_header[1];
	p->who.local_port = tcp_header[2] << 8 | tcp_header[3];
	p->sequence = (__u32)tcp_header[4] << 24 | tcp_header[5] << 16 | tcp_header[6] << 8 |
		      tcp_header[7];
	p->tcp_flags = tcp_header[13];
	p->who.netns = dev ? TT_READ(TT_READ(dev, nd_net.net), ns.inum) : 0;
	return 1;
}

static __always_inline void tt_event_from_packet(struct tt_event *e, struct tt_packet *p)
{
	__builtin_memcpy(e->local_addr, p->local_addr, TT_ADDR_LEN);
	__builtin_memcpy(e->remote_addr, p->who.remote.addr, TT_ADDR_LEN);
	e->local_port = p->who.local_port;
	e->remote_port = p->who.remote_port;
	e->sequence = p->sequence;
	e->tcp_flags = p->tcp_flags;
	e->netns = p->who.netns ? (__s64)p->who.netns : -1;
	tt_event_family(e, 0);
}

static __always_inline void tt_event_from_sock(struct tt_event *e, struct sock *sk)
{
	TT_COPY(e->local_addr, sk, __sk_common.skc_v6_rcv_saddr);
	TT_COPY(e->remote_addr, sk, __sk_common.skc_v6_daddr);
	e->local_port = TT_BE16(TT_PROBE((struct inet_sock *)sk, inet_sport));
	e->remote_port = TT_BE16(TT_READ(sk, __sk_common.skc_dport));
	e->netns = TT_READ(TT_READ(sk, __sk_common.skc_net.net), ns.inum);
	e->state = TT_READ(sk, __sk_common.skc_state);
	tt_event_family(e, TT_READ(sk, __sk_common.skc_family));
}

static __always_inline void tt_event_retransmit(struct sock *sk, struct sk_buff *skb)
{
	struct tt_socket *s = tt_state_get(sk, 0);
	struct tcp_sock *tp = tt_tcp_sock(sk);
	struct tcp_skb_cb *cb = (struct tcp_skb_cb *)&skb->cb[0];
	struct tt_subject who = {};
	struct tt_event *e;

	if (tt_any_filter()) {
		tt_subject_of(sk, &who);
		if (!tt_tuple_wanted(&who, 1) || !tt_owner_wanted(s))
			return;
	}
	e = tt_event_new(TT_KIND_RETRANSMIT);
	if (!e)
		return;
	tt_event_from_sock(e, sk);
	if (s && s->connection_id)
		e->connection_id = s->connection_id;
	if (tp) {
		e->ca_state = tt_ca_state(&tp->inet_conn);
		e->pending = TT_READ(&tp->inet_conn, icsk_pending);
	}
	e->tcp_flags = TT_PROBE(cb, tcp_flags);
	e->sequence = TT_PROBE(cb, seq);
	e->length_bytes = TT_PROBE(cb, end_seq) - TT_PROBE(cb, seq) - (e->tcp_flags & 1) -
			  ((e->tcp_flags >> 1) & 1);
	tt_event_submit(e);
}

/* A request sock begins with the same struct sock_common as a full socket. */
static __always_inline void tt_event_synack(struct request_sock *req)
{
	struct tcp_request_sock *treq = (struct tcp_request_sock *)req;
	struct tt_subject who = {.remote.prefix_len = 8 * TT_ADDR_LEN};
	struct tt_event *e;

	TT_COPY(who.remote.addr, req, __req_common.skc_v6_daddr);
	who.netns = TT_READ(TT_READ(req, __req_common.skc_net.net), ns.inum);
	who.local_port = TT_READ(req, __req_common.skc_num);
	who.remote_port = TT_BE16(TT_READ(req, __req_common.skc_dport));
	if (!tt_tuple_wanted(&who, 1) || !tt_owner_wanted(0))
		return;
	e = tt_event_new(TT_KIND_SYNACK_RETRANSMIT);
	if (!e)
		return;
	TT_COPY(e->local_addr, req, __req_common.skc_v6_rcv_saddr);
	__builtin_memcpy(e->remote_addr, who.remote.addr, TT_ADDR_LEN);
	e->local_port = who.local_port;
	e->remote_port = who.remote_port;
	e->netns = who.netns;
	e->state = TCP_NEW_SYN_RECV;
	e->tcp_flags = 0x12; /* SYN, ACK */
	e->length_bytes = 0;
	e->sequence = TT_PROBE(treq, snt_isn);
	e->first_sent_ns = TT_PROBE(treq, snt_synack) * 1000;
	tt_event_family(e, TT_READ(req, __req_common.skc_family));
	tt_event_submit(e);
}

/* `s` when the reset belongs to a connection whose record has left: the record said otherwise. */
static __always_inline void tt_event_reset(struct sock *sk, struct sk_buff *skb,
					   struct tt_socket *s, int reason)
{
	struct tt_packet p = {};
	struct tt_event *e;

	if (s) {
		/* aborted and timed-out ends stay what they are, reset or not */
		if (s->close_reason != TT_CLOSE_FIN && s->close_reason != TT_CLOSE_RESET_RECEIVED)
			return;
		if (!tt_wanted(sk, s))
			return;
	} else {
		if (!skb || !tt_packet_read(skb, &p))
			return;
		/* on its way to a listener the packet has lost its device; every kind of socket has this */
		if (!p.who.netns && sk)
			p.who.netns = TT_READ(TT_READ(sk, __sk_common.skc_net.net), ns.inum);
		if (!tt_tuple_wanted(&p.who, 1) || !tt_owner_wanted(0))
			return;
	}
	e = tt_event_new(TT_KIND_RESET_SENT);
	if (!e)
		return;
	e->reason = reason;
	if (s) {
		e->connection_id = s->connection_id;
		tt_event_from_sock(e, sk);
	} else {
		tt_event_from_packet(e, &p);
	}
	tt_event_submit(e);
}

static __always_inline void tt_event_drop(struct sk_buff *skb, int reason, struct sock *sk)
{
	struct tt_packet p = {};
	struct tt_event *e;

	if (!tt_packet_read(skb, &p))
		return;
	if (sk)
		p.who.netns = TT_READ(TT_READ(sk, __sk_common.skc_net.net), ns.inum);
	if (!tt_tuple_wanted(&p.who, 1) || !tt_owner_wanted(0))
		return;
	e = tt_event_new(TT_KIND_DROP);
	if (!e)
		return;
	tt_event_from_packet(e, &p);
	e->reason = reason;
	tt_event_submit(e);
}

#endif
