/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* portable.h for CO-RE: maps, field reads and helpers. */
#ifndef TCPTRACE_PORTABLE_CORE_H
#define TCPTRACE_PORTABLE_CORE_H

#include "kernel.h"

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "state.h"

#define TT_TRACEPOINT(event)                                                                       \
	SEC("tp_btf/" #event)                                                                      \
	int event(__u64 *ctx)
/* volatile: an argument that this kernel's tracepoint lacks must not be loaded outside the branch
 * that knows it is there */
#define TT_ARG(n, type) ((type)(*(volatile __u64 *)&ctx[n]))
#define TT_READ(p, f) ((p)->f)
#define TT_PROBE(p, f) BPF_CORE_READ(p, f)
#define TT_COPY(dst, p, f) __builtin_memcpy(dst, &(p)->f, sizeof(dst))
#define TT_COPY_STRING(dst, p, f) bpf_probe_read_kernel_str(dst, sizeof(dst), &(p)->f)

const volatile struct tt_config tt_config SEC(".rodata.config") = {};
#define TT_CONFIG(field) tt_config.field
#define TT_CONFIG_DROP_REASONS(word) tt_config.drop_reasons[word]

#define TT_RING(name, one)                                                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                \
		__uint(max_entries, 1 << 24);                                                      \
	} name SEC(".maps");                                                                       \
	static __always_inline struct tt_##one *tt_reserve_##one(void)                             \
	{                                                                                          \
		return bpf_ringbuf_reserve(&name, sizeof(struct tt_##one), 0);                     \
	}                                                                                          \
	static __always_inline void tt_submit_##one(struct tt_##one *record)                       \
	{                                                                                          \
		bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);                                      \
	}
#define TT_SET(name, one, key_type)                                                                \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, 1024);                                                         \
		__type(key, key_type);                                                             \
		__type(value, __u8);                                                               \
	} name SEC(".maps");                                                                       \
	static __always_inline int tt_has_##one(key_type *key)                                     \
	{                                                                                          \
		return bpf_map_lookup_elem(&name, key) != 0;                                       \
	}

TT_RING(connections, connection)
TT_RING(events, event)
TT_RING(exchanges, exchange)
TT_SET(wanted_ports, port, __u32)
TT_SET(wanted_pids, pid, __u32)
TT_SET(wanted_netns, netns, __u32)
TT_SET(wanted_comms, comm, struct tt_comm)

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tt_prefix);
	__type(value, __u8);
} wanted_peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tt_socket);
} storage SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct tt_socket);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tt_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tt_control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TT_JOURNAL_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tt_journal);
} journal SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TT_THREADS);
	__type(key, __u32);
	__type(value, struct tt_thread);
} threads SEC(".maps");

#include "table.h"

static __always_inline int tt_has_peer(struct tt_prefix *key)
{
	return bpf_map_lookup_elem(&wanted_peers, key) != 0;
}

static __always_inline struct tt_counters *tt_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline struct tt_control *tt_control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

/* The fresh value of a hash is too large for the stack of a program that already holds much. */
static const struct tt_socket tt_fresh SEC(".rodata.fresh") = {};

/* What does not fit into the table, and everything where the table is not used. */
static __always_inline struct tt_socket *tt_spill_get(struct sock *sk, int create)
{
	if (!TT_CONFIG(use_hash))
		return bpf_sk_storage_get(&storage, sk, 0,
					  create ? BPF_SK_STORAGE_GET_F_CREATE : 0);

	__u64 key = (__u64)sk;
	struct tt_socket *s = bpf_map_lookup_elem(&sockets, &key);

	if (s || !create)
		return s;
	bpf_map_update_elem(&sockets, &key, &tt_fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&sockets, &key);
}

/* State that does not go away with its socket is met by the next socket at that address, when the kernel
 * skipped the destruction. */
static __always_inline int tt_stale(struct sock *sk, struct tt_socket *s)
{
	return (TT_CONFIG(use_table) || TT_CONFIG(use_hash)) && s->cookie > 0 &&
	       s->cookie != sk->__sk_common.skc_cookie.counter;
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
	__u64 cookie = sk->__sk_common.skc_cookie.counter;
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

static __always_inline void tt_read_options(const struct tcp_sock *tp, struct tt_connection *r)
{
	int scaled = BPF_CORE_READ_BITFIELD(tp, rx_opt.wscale_ok);

	r->timestamps = BPF_CORE_READ_BITFIELD(tp, rx_opt.tstamp_ok);
	r->sack = BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok) != 0;
	r->snd_wscale = scaled ? BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale) : -1;
	r->rcv_wscale = scaled ? BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale) : -1;
	r->mss = tp->rx_opt.mss_clamp;
	r->tfo = BPF_CORE_READ_BITFIELD(tp, syn_data_acked);
}

static __always_inline int tt_fin_received(const struct sock *sk)
{
	return (sk->__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE)) & 1;
}

static __always_inline __s8 tt_ca_state(const struct inet_connection_sock *icsk)
{
	return BPF_CORE_READ_BITFIELD(icsk, icsk_ca_state);
}

/* TCP_REPAIR: a checkpoint takes a connection away, or puts one back, without a packet. */
static __always_inline int tt_in_repair(const struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, repair);
}

static __always_inline struct tcp_sock *tt_tcp_sock(struct sock *sk)
{
	return bpf_skc_to_tcp_sock(sk);
}

extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

/* The same of a socket that a packet points to. Kernels that do not trust that pointer have the cast. */
static __always_inline struct tcp_sock *tt_tcp_sock_of_packet(struct sock *sk)
{
	if (bpf_rdonly_cast) /* a weak symbol: 0 where the kernel has none */
		return bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_sock));
	return bpf_skc_to_tcp_sock(sk);
}

static __always_inline __s64 tt_cookie(struct sock *sk)
{
	return TT_CONFIG(has_cookie) ? (__s64)bpf_get_socket_cookie(sk) : -1;
}

static __always_inline struct tt_thread *tt_thread(__u32 tid)
{
	__u32 slot = tid % TT_THREADS;

	return bpf_map_lookup_elem(&threads, &slot);
}

static __always_inline struct task_struct *tt_task(void)
{
	return bpf_get_current_task_btf();
}

/* tp->nonagle (TCP_NAGLE_*) and tp->chrono_type (enum tcp_chrono): bit-fields */
static __always_inline __u8 tt_nonagle(const struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, nonagle);
}

static __always_inline __u8 tt_chrono(const struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, chrono_type);
}

/* Has this call of sendmsg() copied some of its data already? Only user buffers begin at 0. */
static __always_inline int tt_write_goes_on(const struct msghdr *msg)
{
	__u8 type = msg->msg_iter.iter_type;

	return msg->msg_iter.iov_offset &&
	       (type == bpf_core_enum_value(enum iter_type, ITER_UBUF) ||
		type == bpf_core_enum_value(enum iter_type, ITER_IOVEC));
}

/* What a segment that is sent at `mstamp_ns` carries as its timestamp, without the connection's offset. */
static __always_inline __u32 tt_timestamp(const struct tcp_sock *tp, __u64 mstamp_ns)
{
	if (bpf_core_field_exists(tp->tcp_usec_ts) && BPF_CORE_READ_BITFIELD(tp, tcp_usec_ts))
		return mstamp_ns / 1000;
	return mstamp_ns / 1000000;
}

/* The timestamp that the peer's last segment echoed; 0: none. */
static __always_inline __u32 tt_echoed(const struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, rx_opt.saw_tstamp) ? tp->rx_opt.rcv_tsecr : 0;
}

static __always_inline int tt_kernel_socket(const struct sock *sk)
{
	return BPF_CORE_READ_BITFIELD(sk, sk_kern_sock);
}

/* Does anybody wait for this socket's data at this moment: in a read or a poll, or in an epoll_wait() for
 * a set that it is in? The entry of a set is a callback, and belongs to no task. */
static __always_inline int tt_reader_waits(struct sock *sk)
{
	struct socket_wq *wq = sk->sk_wq;
	struct wait_queue_entry *waiting;
	struct list_head *first;

	if (!wq)
		return 0;
	first = wq->wait.head.next;
	if (!first || first == &wq->wait.head)
		return 0;
	waiting = (void *)first - bpf_core_field_offset(struct wait_queue_entry, entry);
	if (BPF_CORE_READ(waiting, private))
		return 1;
	struct eppoll_entry *in_set =
		(void *)waiting - bpf_core_field_offset(struct eppoll_entry, wait);
	struct eventpoll *set = BPF_CORE_READ(in_set, base, ep);

	first = BPF_CORE_READ(set, wq.head.next);
	return first && first != &set->wq.head;
}

char LICENSE[] SEC("license") = "GPL";

static __always_inline struct tt_journal *tt_journal_slot(__u64 connection_id)
{
	__u32 slot = connection_id % TT_JOURNAL_SLOTS;

	return bpf_map_lookup_elem(&journal, &slot);
}

#define TT_BE16(x) bpf_ntohs(x)
#define TT_BE32(x) bpf_ntohl(x)

#endif
