/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * portable_core.h for the programs that most kernels run: fields are plain loads through the pointers that the
 * hook trusts, and everything that new kernels offer to tracing programs is used.
 */
#ifndef TCPTRACE_PORTABLE_DIRECT_H
#define TCPTRACE_PORTABLE_DIRECT_H

#define TT_READ(p, f) ((p)->f)
#define TT_PROBE(p, f) BPF_CORE_READ(p, f)
#define TT_BITS(p, f) BPF_CORE_READ_BITFIELD(p, f)
#define TT_COPY(dst, p, f) __builtin_memcpy(dst, &(p)->f, sizeof(dst))

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tt_socket);
} storage SEC(".maps");

/* What does not fit into the table, and everything where the table is not used. */
static __always_inline struct tt_socket *tt_spill_get(struct sock *sk, int create)
{
	if (!TT_CONFIG(use_hash))
		return bpf_sk_storage_get(&storage, sk, 0,
					  create ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	return tt_hash_get((__u64)sk, create);
}

/* A slot of a bucket changes hands with one compare and swap. */
static __always_inline int tt_take(__u64 *key, __u64 from, __u64 to)
{
	return __sync_val_compare_and_swap(key, from, to) == from;
}

/* Numbers the connections of this CPU. Atomic, because a softirq may interrupt. */
static __always_inline __u64 tt_mint(void)
{
	struct tt_counters *c = tt_counters();

	return c ? __sync_fetch_and_add(&c->value[TT_COUNT_TRACKED], 1) : 0;
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

static __always_inline struct task_struct *tt_task(void)
{
	return bpf_get_current_task_btf();
}

#endif
