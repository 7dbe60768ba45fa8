/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The fast home of per-socket state: a table of fixed slots, eight keys to a cache line.
 *
 * Socket storage is allocated and freed with every socket, which costs a short connection more than all the
 * rest of what is done for it (docs/adr/0004-socket-table.md). Here a slot is claimed with one compare and
 * swap. What does not fit goes to socket storage, or to the hash where there is none.
 *
 * A slot does not go away with its socket. At the socket's destruction it is marked dead: still there for a
 * reset that is sent afterwards, free for the next socket that needs it. The kernel may skip that
 * destruction, and the next socket at the same address then finds what is not its own: the cookie tells.
 */
#ifndef TCPTRACE_TABLE_H
#define TCPTRACE_TABLE_H

#define TT_WAYS 8
#ifndef TT_BUCKET_BITS
#define TT_BUCKET_BITS 11
#endif
#define TT_DEAD 1ULL /* sockets are aligned: the lowest bit of a key is free */

struct tt_bucket {
	__u64 key[TT_WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << TT_BUCKET_BITS);
	__type(key, __u32);
	__type(value, struct tt_bucket);
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TT_WAYS << TT_BUCKET_BITS);
	__type(key, __u32);
	__type(value, struct tt_socket);
} slots SEC(".maps");

/* A shortcut to the slot of a socket that is in use, by its cookie: for events that come by the packet. */
struct tt_recent {
	__u64 cookie;
	__u64 slot;
};

#define TT_RECENT 4096

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TT_RECENT);
	__type(key, __u32);
	__type(value, struct tt_recent);
} recent SEC(".maps");

static __always_inline __u32 tt_bucket_of(__u64 sk)
{
	return ((sk >> 6) * 0x9e3779b97f4a7c15ULL) >> (64 - TT_BUCKET_BITS);
}

static __always_inline struct tt_socket *tt_table_slot(__u32 number, __u32 way)
{
	__u32 slot = number * TT_WAYS + way;

	return bpf_map_lookup_elem(&slots, &slot);
}

/* The slot with this key (a socket, or a socket marked dead); 0 when there is none. */
static __always_inline struct tt_socket *tt_table_find(__u64 sk, __u64 key)
{
	__u32 number = tt_bucket_of(sk);
	struct tt_bucket *b = bpf_map_lookup_elem(&buckets, &number);

	if (!b)
		return 0;
#pragma unroll
	for (__u32 way = 0; way < TT_WAYS; way++)
		if (b->key[way] == key)
			return tt_table_slot(number, way);
	return 0;
}

/* A slot for a socket that has none; 0 when its bucket is full of living ones. The caller begins its state. */
static __always_inline struct tt_socket *tt_table_claim(__u64 sk)
{
	__u32 number = tt_bucket_of(sk);
	struct tt_bucket *b = bpf_map_lookup_elem(&buckets, &number);

	if (!b)
		return 0;
#pragma unroll
	for (__u32 way = 0; way < TT_WAYS; way++) {
		__u64 key = b->key[way];

		if ((!key || key & TT_DEAD) && tt_take(&b->key[way], key, sk)) {
			struct tt_socket *s = tt_table_slot(number, way);

			if (s) {
				s->connection_id = 0;
				s->slot = number * TT_WAYS + way;
			}
			return s;
		}
	}
	return 0;
}

/* The two halves of a shortcut may come from different CPUs: the slot's own cookie decides. */
static __always_inline struct tt_socket *tt_table_recent(struct tt_recent *r, __u64 cookie)
{
	struct tt_socket *s;
	__u32 slot;

	if (!cookie || r->cookie != cookie)
		return 0;
	slot = r->slot;
	s = bpf_map_lookup_elem(&slots, &slot);
	return s && s->cookie == (__s64)cookie ? s : 0;
}

static __always_inline void tt_table_bury(__u64 sk)
{
	__u32 number = tt_bucket_of(sk);
	struct tt_bucket *b = bpf_map_lookup_elem(&buckets, &number);

	if (!b)
		return;
#pragma unroll
	for (__u32 way = 0; way < TT_WAYS; way++)
		if (b->key[way] == sk) {
			b->key[way] = sk | TT_DEAD;
			return;
		}
}

#endif
