/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel fields tcptrace reads, and no others. libbpf relocates each access to the running kernel
 * (preserve_access_index), so order and neighbours do not matter and no copy of vmlinux.h is needed.
 */
#ifndef TCPTRACE_KERNEL_H
#define TCPTRACE_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

/* include/net/tcp_states.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
};

#define AF_INET6 10
#define IPPROTO_TCP 6
#define EPIPE 32
#define ECONNABORTED 103
#define ECONNRESET 104
#define ETIMEDOUT 110
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

typedef struct {
	s64 counter;
} atomic64_t;

struct sock_common {
	__be16 skc_dport;
	__u16 skc_num;
	short unsigned int skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	unsigned long skc_flags;
};

typedef struct {
	int owned;
} socket_lock_t;

struct inode {
	unsigned long i_ino;
};

struct socket {
	int state;
	unsigned long flags;
};

struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
};

struct list_head {
	struct list_head *next;
};

struct wait_queue_head {
	struct list_head head;
};

struct wait_queue_entry {
	void *private;
	struct list_head entry;
};

struct socket_wq {
	struct wait_queue_head wait;
};

/* fs/eventpoll.c */
struct eventpoll {
	struct wait_queue_head wq;
};

struct epitem {
	struct eventpoll *ep;
};

struct eppoll_entry {
	struct epitem *base;
	struct wait_queue_entry wait;
};

struct sk_buff;

struct sk_buff_head {
	struct sk_buff *prev;
};

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	struct sk_buff_head sk_receive_queue;
	struct socket_wq *sk_wq;
	struct socket *sk_socket;
	int sk_err;
	u16 sk_protocol;
	int sk_wmem_queued;
	int sk_write_pending;
	int sk_sndbuf;
	unsigned long sk_tsq_flags;
	u32 sk_pacing_status;
	unsigned int sk_gso_max_size;
	unsigned long sk_pacing_rate;
	u8 sk_kern_sock : 1;
};

/* include/net/sock.h; the values are relocated too */
enum sock_flags {
	SOCK_DEAD,
	SOCK_DONE,
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

struct tcp_ulp_ops;

struct tcp_congestion_ops {
	char name[16];
};

struct request_sock_queue {
	u8 rskq_defer_accept;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
	const struct tcp_congestion_ops *icsk_ca_ops;
	const struct tcp_ulp_ops *icsk_ulp_ops;
	__u8 icsk_ca_state : 5;
	__u8 icsk_pending;
};

struct minmax_sample {
	u32 t;
	u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_options_received {
	u32 rcv_tsecr;
	u16 saw_tstamp : 1, tstamp_ok : 1, wscale_ok : 1, sack_ok : 3, snd_wscale : 4,
		rcv_wscale : 4;
	u16 mss_clamp;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u32 segs_in;
	u32 segs_out;
	u32 write_seq;
	u32 snd_nxt;
	u32 snd_sml;
	u32 snd_cwnd;
	u32 packets_out;
	u32 sacked_out;
	u32 lost_out;
	u32 retrans_out;
	u32 mss_cache;
	u32 copied_seq;
	u64 tcp_wstamp_ns;
	u8 tcp_usec_ts : 1;
	u8 chrono_type : 2;
	u8 nonagle : 4;
	u64 bytes_received;
	u64 bytes_acked;
	u64 bytes_sent;
	u64 bytes_retrans;
	u32 snd_una;
	u32 rcv_nxt;
	u32 srtt_us;
	u32 rcv_tstamp;
	u32 total_retrans;
	u32 undo_marker;
	u64 tcp_mstamp;
	u8 ecn_flags;
	u8 repair : 1;
	u8 syn_data_acked : 1;
	struct minmax rtt_min;
	struct tcp_options_received rx_opt;
};

struct request_sock {
	struct sock_common __req_common;
};

struct inet_request_sock {
	struct request_sock req;
};

struct tcp_request_sock {
	struct inet_request_sock req;
	u64 snt_synack;
	u32 snt_isn;
};

struct net_device {
	possible_net_t nd_net;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	s64 tstamp;
	char cb[48];
	unsigned int len;
	unsigned char *head;
	unsigned char *data;
	__u16 transport_header;
	__u16 network_header;
};

struct tcp_skb_cb {
	__u32 seq;
	__u32 end_seq;
	__u32 ack_seq;
	__u16 tcp_gso_segs;
	__u8 tcp_flags;
};

/* include/linux/uio.h; the values are relocated */
enum iter_type {
	ITER_UBUF,
	ITER_IOVEC,
};

struct iov_iter {
	u8 iter_type;
	unsigned long iov_offset;
};

struct msghdr {
	struct iov_iter msg_iter;
	unsigned int msg_flags;
};

struct sched_info {
	unsigned long long run_delay;
};

struct task_struct {
	unsigned int flags;
	u64 start_time;
	struct sched_info sched_info;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop

#endif
