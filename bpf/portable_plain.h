/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * portable_core.h for kernels of which little can be expected, and for kprobes on any kernel. Every field is read
 * by a helper, because no pointer is trusted; no instruction fetches what it replaces (from 5.12 on); state is
 * in the hash, because socket storage is out of reach of tracing programs before 5.11 and of kprobes always.
 *
 * Beside the main programs, kprobes look into the table, too. They find state and never begin any.
 */
#ifndef TCPTRACE_PORTABLE_PLAIN_H
#define TCPTRACE_PORTABLE_PLAIN_H

#define TT_READ(p, f)                                                                              \
	({                                                                                         \
		typeof((p)->f) value_;                                                             \
		bpf_probe_read_kernel((void *)&value_, sizeof(value_), (const void *)&(p)->f);     \
		value_;                                                                            \
	})
#define TT_PROBE(p, f) TT_READ(p, f)
#define TT_BITS(p, f) BPF_CORE_READ_BITFIELD_PROBED(p, f)
#define TT_COPY(dst, p, f) bpf_probe_read_kernel(dst, sizeof(dst), &(p)->f)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} minted SEC(".maps");

static __always_inline struct tt_socket *tt_spill_get(struct sock *sk, int create)
{
	__u64 key = 0;

	bpf_probe_read_kernel(&key, sizeof(key), &sk);
	return TT_CONFIG(use_hash) ? tt_hash_get(key, create) : 0;
}

/* Nobody begins a state in the table here. */
static __always_inline int tt_take(__u64 *key, __u64 from, __u64 to)
{
	return 0;
}

static __always_inline void tt_count(enum tt_counter which);

/* Numbers the connections of this CPU. A softirq may interrupt, and without an instruction that fetches, that
 * only shows afterwards: the number then did not grow by one alone, and is nobody's. */
static __always_inline __u64 tt_mint(void)
{
	__u32 zero = 0;
	volatile __u64 *number = bpf_map_lookup_elem(&minted, &zero);
	__u64 before = 0;

	if (!number)
		return 0;
#pragma unroll
	for (int attempt = 0; attempt < 4; attempt++) { /* each would need an interrupt */
		before = *number;
		__sync_fetch_and_add(number, 1);
		if (*number == before + 1)
			break;
	}
	tt_count(TT_COUNT_TRACKED);
	return before;
}

static __always_inline struct tcp_sock *tt_tcp_sock(struct sock *sk)
{
	return (struct tcp_sock *)sk;
}

static __always_inline struct tcp_sock *tt_tcp_sock_of_packet(struct sock *sk)
{
	return (struct tcp_sock *)sk;
}

/* No helper gives one to a socket that has none yet. */
static __always_inline __s64 tt_cookie(struct sock *sk)
{
	return TT_READ(sk, __sk_common.skc_cookie.counter) ?: -1;
}

static __always_inline struct task_struct *tt_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

#endif
