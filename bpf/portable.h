/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Everything that differs between the two ways of building these programs:
 *
 *   CO-RE  compiled once with clang, loaded by libbpf; kernel fields are relocated to the running kernel.
 *   BCC    compiled on the host against its kernel headers (TT_BCC is defined), for kernels without BTF.
 *          No global variables, no socket storage and no socket cookie in its raw tracepoints.
 *
 * Programs are written against the macros and functions below and contain no #ifdef of their own.
 *
 *   TT_TRACEPOINT(event)      opens a tracepoint program; TT_ARG(n, type) is its nth argument
 *   TT_READ(pointer, field)   reads through a pointer that the tracepoint passed (a direct load in CO-RE)
 *   TT_PROBE(pointer, field)  reads through any other kernel pointer
 *   TT_CONFIG(field)          a constant of struct tt_config
 *   tt_reserve_X, tt_submit_X  records of the rings `connections` and `events`
 *   tt_has_X(key)             is the key in the set `wanted_X`?
 *   tt_state_get, tt_state_drop, tt_counters, tt_control
 */
#ifndef TCPTRACE_PORTABLE_H
#define TCPTRACE_PORTABLE_H

#ifdef TT_BCC

#include <linux/sched.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <net/inet_sock.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <uapi/linux/bpf.h>
#include <uapi/linux/ptrace.h>

#else

#include "kernel.h"

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#endif

#include "tcptrace.h"

/* State of one socket between its first sight and its record. Never leaves the kernel. */
struct tt_socket {
	__u64 connection_id;
	__u64 seen_ns;
	__u64 entered_ns; /* when `state` was entered */
	__u64 ended_ns;
	__u64 emitted_ns; /* last interim record, 0: none */
	__s64 started_ns;
	__s64 handshake_ns;
	__u64 state_ns[16]; /* by state; 16 so that a mask proves the index to the verifier */
	__u32 visited;      /* bit n: state_ns[n] was observed from its entry to its exit */
	__u32 total_retrans;
	__s32 syn_retransmits;
	__s32 synack_retransmits;
	__s32 pid;
	char comm[TT_COMM_LEN];
	__u8 state;
	__u8 role;
	__u8 flags;
	__u8 initiator;
	__u8 close_reason;
	__s8 handshake_exact;
	__u8 entry_known; /* entered_ns is when the state was entered, not when we first looked */
	__u8 established;
	__u8 reset_sent;
	__u8 reset_received;
	__u8 pending; /* closed; whether by reset shows in the next event of the socket */
	__u8 done;    /* the record has left */
	__u8 journaled;
	__u8 retransmits_unknown;
};

struct tt_counters {
	__u64 value[TT_COUNTERS];
};

#define TT_JOURNAL_SLOTS 16384

struct tt_comm {
	char name[TT_COMM_LEN];
};

#ifdef TT_BCC

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
BPF_HASH(sockets, __u64, struct tt_socket, 65536);
BPF_PERCPU_ARRAY(counters, struct tt_counters, 1);
BPF_ARRAY(control, struct tt_control, 1);
BPF_ARRAY(journal, struct tt_journal, TT_JOURNAL_SLOTS);
BPF_HASH(wanted_ports, __u32, __u8, 1024);
BPF_HASH(wanted_pids, __u32, __u8, 1024);
BPF_HASH(wanted_netns, __u32, __u8, 1024);
BPF_HASH(wanted_comms, struct tt_comm, __u8, 1024);
BPF_LPM_TRIE(wanted_peers, struct tt_prefix, __u8, 1024);

/* BCC rewrites map functions, but not inside macros. */
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
	struct tt_socket fresh = {};
	sockets.update(&key, &fresh);
	return sockets.lookup(&key);
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

static inline struct tcp_sock *tt_tcp_sock(struct sock *sk)
{
	return (struct tcp_sock *)sk;
}

static inline __s64 tt_cookie(struct sock *sk)
{
	return -1;
}

#define TT_BE16(x) ((__u16)(((x) >> 8) | ((x) << 8)))
#define TT_BE32(x) ((__u32)__builtin_bswap32(x))

#else /* CO-RE */

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

static __always_inline struct tt_socket *tt_state_get(struct sock *sk, int create)
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

/* Socket storage is freed with the socket; a hash entry would be met again by the next socket there. */
static __always_inline void tt_state_drop(struct sock *sk)
{
	if (!TT_CONFIG(use_hash))
		return;
	__u64 key = (__u64)sk;

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

static __always_inline struct tcp_sock *tt_tcp_sock(struct sock *sk)
{
	return bpf_skc_to_tcp_sock(sk);
}

static __always_inline __s64 tt_cookie(struct sock *sk)
{
	return TT_CONFIG(has_cookie) ? (__s64)bpf_get_socket_cookie(sk) : -1;
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

/* Index of a state in state_ns. The barrier keeps the compiler from proving the mask away. */
static __always_inline __u32 tt_slot(int state)
{
	__u32 slot = state;

	asm volatile("" : "+r"(slot));
	return slot & 15;
}

/* Adds one to a counter of this CPU and returns its old value. Atomic, because a softirq may interrupt. */
static __always_inline __u64 tt_count(enum tt_counter which)
{
	struct tt_counters *c = tt_counters();

	return c ? __sync_fetch_and_add(&c->value[which], 1) : 0;
}

#endif
