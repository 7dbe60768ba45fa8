/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* portable.h for BCC: maps, field reads and helpers. BCC rewrites map functions, but not inside macros. */
#ifndef TCPTRACE_PORTABLE_BCC_H
#define TCPTRACE_PORTABLE_BCC_H

#include <linux/sched.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <net/inet_sock.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <uapi/linux/bpf.h>
#include <uapi/linux/ptrace.h>

#include "state.h"

#define TT_TRACEPOINT(event) RAW_TRACEPOINT_PROBE(event)
#define TT_ARG(n, type) ((type)ctx->args[n])
#define TT_PROBE(p, f)                                                                             \
	({                                                                                         \
		typeof((p)->f) value_;                                                             \
		bpf_probe_read_kernel(&value_, sizeof(value_), &(p)->f);                           \
		value_;                                                                            \
	})
#define TT_READ(p, f) TT_PROBE(p, f)
#define TT_COPY(dst, p, f) bpf_probe_read_kernel(dst, sizeof(dst), &(p)->f)
#define TT_COPY_STRING(dst, p, f) bpf_probe_read_kernel_str(dst, sizeof(dst), &(p)->f)

/* struct tt_config arrives as -DTT_CONFIG_field=value */
#define TT_CONFIG(field) TT_CONFIG_##field
#define TT_CONFIG_DROP_REASONS(word)                                                               \
	((word) == 0   ? TT_CONFIG_drop_reasons0                                                   \
	 : (word) == 1 ? TT_CONFIG_drop_reasons1                                                   \
	 : (word) == 2 ? TT_CONFIG_drop_reasons2                                                   \
		       : TT_CONFIG_drop_reasons3)

BPF_RINGBUF_OUTPUT(connections, TT_CONFIG_ring_pages);
BPF_RINGBUF_OUTPUT(events, TT_CONFIG_ring_pages);
BPF_RINGBUF_OUTPUT(exchanges, TT_CONFIG_ring_pages);
BPF_HASH(sockets, __u64, struct tt_socket, 65536);
BPF_PERCPU_ARRAY(counters, struct tt_counters, 1);
BPF_ARRAY(control, struct tt_control, 1);
BPF_ARRAY(threads, struct tt_thread, TT_THREADS);
BPF_PERCPU_ARRAY(fresh, struct tt_socket, 1); /* zeroes: too large for the stack */
BPF_ARRAY(journal, struct tt_journal, TT_JOURNAL_SLOTS);
BPF_HASH(wanted_ports, __u32, __u8, 1024);
BPF_HASH(wanted_pids, __u32, __u8, 1024);
BPF_HASH(wanted_netns, __u32, __u8, 1024);
BPF_HASH(wanted_comms, struct tt_comm, __u8, 1024);
BPF_LPM_TRIE(wanted_peers, struct tt_prefix, __u8, 1024);

static inline struct tt_connection *tt_reserve_connection(void)
{
	return connections.ringbuf_reserve(sizeof(struct tt_connection));
}

static inline void tt_submit_connection(struct tt_connection *r)
{
	connections.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
}

static inline struct tt_event *tt_reserve_event(void)
{
	return events.ringbuf_reserve(sizeof(struct tt_event));
}

static inline void tt_submit_event(struct tt_event *e)
{
	events.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

static inline struct tt_exchange *tt_reserve_exchange(void)
{
	return exchanges.ringbuf_reserve(sizeof(struct tt_exchange));
}

static inline void tt_submit_exchange(struct tt_exchange *e)
{
	exchanges.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

static inline int tt_has_port(__u32 *key)
{
	return wanted_ports.lookup(key) != 0;
}

static inline int tt_has_pid(__u32 *key)
{
	return wanted_pids.lookup(key) != 0;
}

static inline int tt_has_netns(__u32 *key)
{
	return wanted_netns.lookup(key) != 0;
}

static inline int tt_has_comm(struct tt_comm *key)
{
	return wanted_comms.lookup(key) != 0;
}

static inline int tt_has_peer(struct tt_prefix *key)
{
	return wanted_peers.lookup(key) != 0;
}

static inline struct tt_counters *tt_counters(void)
{
	int zero = 0;

	return counters.lookup(&zero);
}

static inline __u64 tt_mint(void)
{
	struct tt_counters *c = tt_counters();

	return c ? __sync_fetch_and_add(&c->value[TT_COUNT_TRACKED], 1) : 0;
}

static inline struct tt_control *tt_control(void)
{
	int zero = 0;

	return control.lookup(&zero);
}

static inline struct tt_journal *tt_journal_slot(__u64 connection_id)
{
	int slot = connection_id % TT_JOURNAL_SLOTS;

	return journal.lookup(&slot);
}

static inline struct tt_socket *tt_state_get(struct sock *sk, int create)
{
	__u64 key = (__u64)sk;
	struct tt_socket *s = sockets.lookup(&key);

	if (s || !create)
		return s;
	int zero = 0;
	struct tt_socket *none = fresh.lookup(&zero);

	if (!none)
		return 0;
	sockets.update(&key, none);
	return sockets.lookup(&key);
}

static inline struct tt_socket *tt_state_often(struct sock *sk)
{
	return tt_state_get(sk, 0);
}

static inline struct tt_socket *tt_state_late(struct sock *sk)
{
	return tt_state_get(sk, 0);
}

static inline void tt_state_drop(struct sock *sk)
{
	__u64 key = (__u64)sk;

	sockets.delete(&key);
}

/* Bit-fields have no address: copy the structure that holds them. */
static inline void tt_read_options(const struct tcp_sock *tp, struct tt_connection *r)
{
	struct tcp_options_received opt;

	bpf_probe_read_kernel(&opt, sizeof(opt), &tp->rx_opt);
	r->timestamps = opt.tstamp_ok;
	r->sack = opt.sack_ok != 0;
	r->snd_wscale = opt.wscale_ok ? opt.snd_wscale : -1;
	r->rcv_wscale = opt.wscale_ok ? opt.rcv_wscale : -1;
	r->mss = opt.mss_clamp;
	r->tfo = -1; /* a bit-field of struct tcp_sock itself */
}

static inline int tt_fin_received(const struct sock *sk)
{
	return (TT_PROBE(sk, __sk_common.skc_flags) >> SOCK_DONE) & 1;
}

static inline __s8 tt_ca_state(const struct inet_connection_sock *icsk)
{
	return -1; /* a bit-field */
}

static inline int tt_in_repair(const struct tcp_sock *tp)
{
	return 0; /* a bit-field */
}

static inline struct tcp_sock *tt_tcp_sock(struct sock *sk)
{
	return (struct tcp_sock *)sk;
}

static inline struct tcp_sock *tt_tcp_sock_of_packet(struct sock *sk)
{
	return (struct tcp_sock *)sk;
}

/* The types of an epoll set are in no header. */
static inline int tt_reader_waits(struct sock *sk)
{
	struct socket_wq *wq = TT_PROBE(sk, sk_wq);
	struct list_head *first;

	if (!wq)
		return 0;
	first = TT_PROBE(wq, wait.head.next);
	if (!first || first == &wq->wait.head)
		return 0;
	return TT_PROBE((wait_queue_entry_t *)((void *)first -
					       __builtin_offsetof(wait_queue_entry_t, entry)),
			private) != 0;
}

static inline __s64 tt_cookie(struct sock *sk)
{
	return -1;
}

static inline struct tt_thread *tt_thread(__u32 tid)
{
	int slot = tid % TT_THREADS;

	return threads.lookup(&slot);
}

static inline struct task_struct *tt_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

/* Bit-fields that follow chrono_stat in every kernel that has them (since 4.10). */
static inline __u8 tt_nonagle(const struct tcp_sock *tp)
{
	__u8 bytes[2] = {};

	bpf_probe_read_kernel(bytes, sizeof(bytes), (const char *)&tp->chrono_stat[3]);
	return bytes[1] & 15;
}

static inline __u8 tt_chrono(const struct tcp_sock *tp)
{
	__u8 byte = 0;

	bpf_probe_read_kernel(&byte, sizeof(byte), (const char *)&tp->chrono_stat[3]);
	return byte & 3;
}

static inline int tt_write_goes_on(const struct msghdr *msg)
{
	return 0; /* the types of iov_iter differ from kernel to kernel */
}

static inline __u32 tt_timestamp(const struct tcp_sock *tp, __u64 mstamp_ns)
{
	return mstamp_ns / 1000000; /* a bit-field tells of microseconds */
}

static inline __u32 tt_echoed(const struct tcp_sock *tp)
{
	struct tcp_options_received opt;

	bpf_probe_read_kernel(&opt, sizeof(opt), &tp->rx_opt);
	return opt.saw_tstamp ? opt.rcv_tsecr : 0;
}

static inline __u32 tt_cookie_options(const struct tcp_sock *tp)
{
	struct tcp_options_received opt;

	bpf_probe_read_kernel(&opt, sizeof(opt), &tp->rx_opt);
	return (opt.wscale_ok ? opt.snd_wscale : 0xf) | (opt.sack_ok ? 0x10 : 0);
}

static inline int tt_kernel_socket(const struct sock *sk)
{
	return 0; /* a bit-field */
}

#define TT_BE16(x) ((__u16)(((x) >> 8) | ((x) << 8)))
#define TT_BE32(x) ((__u32)__builtin_bswap32(x))

#endif
