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
/* The programs at a function's entry and return, where its result follows the arguments. */
#define TT_ENTRY(function)                                                                         \
	SEC("fentry/" #function)                                                                   \
	int fentry_##function(__u64 *ctx)
#define TT_RETURN(function)                                                                        \
	SEC("fexit/" #function)                                                                    \
	int fexit_##function(__u64 *ctx)
/* volatile: an argument that this kernel's tracepoint lacks must not be loaded outside the branch
 * that knows it is there */
#define TT_ARG(n, type) ((type)(*(volatile __u64 *)&ctx[n]))
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

static __always_inline struct tt_socket *tt_hash_get(__u64 key, int create)
{
	struct tt_socket *s = bpf_map_lookup_elem(&sockets, &key);

	if (s || !create)
		return s;
	bpf_map_update_elem(&sockets, &key, &tt_fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&sockets, &key);
}

#ifdef TT_PLAIN
#include "portable_plain.h"
#else
#include "portable_direct.h"
#endif

#include "socket.h"

static __always_inline void tt_read_options(const struct tcp_sock *tp, struct tt_connection *r)
{
	int scaled = TT_BITS(tp, rx_opt.wscale_ok);

	r->timestamps = TT_BITS(tp, rx_opt.tstamp_ok);
	r->sack = TT_BITS(tp, rx_opt.sack_ok) != 0;
	r->snd_wscale = scaled ? TT_BITS(tp, rx_opt.snd_wscale) : -1;
	r->rcv_wscale = scaled ? TT_BITS(tp, rx_opt.rcv_wscale) : -1;
	r->mss = TT_READ(tp, rx_opt.mss_clamp);
	r->tfo = TT_BITS(tp, syn_data_acked);
}

static __always_inline int tt_fin_received(const struct sock *sk)
{
	return (TT_READ(sk, __sk_common.skc_flags) >>
		bpf_core_enum_value(enum sock_flags, SOCK_DONE)) &
	       1;
}

static __always_inline __s8 tt_ca_state(const struct inet_connection_sock *icsk)
{
	return TT_BITS(icsk, icsk_ca_state);
}

/* TCP_REPAIR: a checkpoint takes a connection away, or puts one back, without a packet. */
static __always_inline int tt_in_repair(const struct tcp_sock *tp)
{
	return TT_BITS(tp, repair);
}

static __always_inline struct tt_thread *tt_thread(__u32 tid)
{
	__u32 slot = tid % TT_THREADS;

	return bpf_map_lookup_elem(&threads, &slot);
}

/* tp->nonagle (TCP_NAGLE_*) and tp->chrono_type (enum tcp_chrono): bit-fields */
static __always_inline __u8 tt_nonagle(const struct tcp_sock *tp)
{
	return TT_BITS(tp, nonagle);
}

static __always_inline __u8 tt_chrono(const struct tcp_sock *tp)
{
	return TT_BITS(tp, chrono_type);
}

/* Has this call of sendmsg() copied some of its data already? Only user buffers begin at 0. */
static __always_inline int tt_write_goes_on(const struct msghdr *msg)
{
	__u8 type = TT_READ(msg, msg_iter.iter_type);

	return TT_READ(msg, msg_iter.iov_offset) &&
	       (type == bpf_core_enum_value(enum iter_type, ITER_UBUF) ||
		type == bpf_core_enum_value(enum iter_type, ITER_IOVEC));
}

/* What a segment that is sent at `mstamp_ns` carries as its timestamp, without the connection's offset. */
static __always_inline __u32 tt_timestamp(const struct tcp_sock *tp, __u64 mstamp_ns)
{
	if (bpf_core_field_exists(tp->tcp_usec_ts) && TT_BITS(tp, tcp_usec_ts))
		return mstamp_ns / 1000;
	return mstamp_ns / 1000000;
}

/* The timestamp that the peer's last segment echoed; 0: none. */
static __always_inline __u32 tt_echoed(const struct tcp_sock *tp)
{
	return TT_BITS(tp, rx_opt.saw_tstamp) ? TT_READ(tp, rx_opt.rcv_tsecr) : 0;
}

/* What a SYN cookie's timestamp carries of the client's options (cookie_init_timestamp() in syncookies.c). */
static __always_inline __u32 tt_cookie_options(const struct tcp_sock *tp)
{
	__u32 scale = TT_BITS(tp, rx_opt.wscale_ok) ? TT_BITS(tp, rx_opt.snd_wscale) : 0xf;

	return scale | (TT_BITS(tp, rx_opt.sack_ok) ? 0x10 : 0);
}

static __always_inline int tt_kernel_socket(const struct sock *sk)
{
	return TT_BITS(sk, sk_kern_sock);
}

/* Does anybody wait for this socket's data at this moment: in a read or a poll, or in an epoll_wait() for
 * a set that it is in? The entry of a set is a callback, and belongs to no task. */
static __always_inline int tt_reader_waits(struct sock *sk)
{
	struct socket_wq *wq = TT_READ(sk, sk_wq);
	struct wait_queue_entry *waiting;
	struct list_head *first;

	if (!wq)
		return 0;
	first = TT_READ(wq, wait.head.next);
	if (!first || first == &wq->wait.head)
		return 0;
	waiting = (void *)first - bpf_core_field_offset(struct wait_queue_entry, entry);
	if (TT_PROBE(waiting, private))
		return 1;
	struct eppoll_entry *in_set =
		(void *)waiting - bpf_core_field_offset(struct eppoll_entry, wait);
	struct epitem *item = TT_PROBE(in_set, base);
	struct eventpoll *set = TT_PROBE(item, ep);

	first = TT_PROBE(set, wq.head.next);
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
