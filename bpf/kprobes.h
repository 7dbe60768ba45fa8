/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The facts of functions.h once more, at kprobes: for kernels that let no tracing program at a function. In the
 * plain object, because a kprobe may trust no pointer; loaded beside the main object on kernels that take that.
 *
 * A kretprobe knows the result but no argument, so a kprobe notes the socket. Only so many calls of one function
 * are followed to their return at a time (twice the CPUs, at least 10 where tasks preempt each other): for one
 * in which threads sleep, as in reads, that is too few, and a read is over when the next one is called.
 */
#ifndef TCPTRACE_KPROBES_H
#define TCPTRACE_KPROBES_H

#include <linux/ptrace.h>

#include <bpf/bpf_tracing.h>

#include "functions.h"

#define TT_KPROBE(function)                                                                        \
	SEC("kprobe/" #function)                                                                   \
	int kprobe_##function(struct pt_regs *ctx)
#define TT_KRETPROBE(function)                                                                     \
	SEC("kretprobe/" #function)                                                                \
	int kretprobe_##function(struct pt_regs *ctx)
#define TT_CALLER (struct sock *)PT_REGS_PARM1(ctx)

/* The socket that a thread's call is about, by the thread; no call here is made within another. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u64);
} calls SEC(".maps");

static __always_inline int tt_call_begins(struct sock *sk)
{
	__u64 thread = bpf_get_current_pid_tgid(), address = (__u64)sk;

	if (bpf_map_update_elem(&calls, &thread, &address, BPF_ANY))
		tt_count(TT_LOST_RETURN); /* its return will be nobody's */
	return 0;
}

static __always_inline int tt_call_ends(int result)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 *address = bpf_map_lookup_elem(&calls, &thread);

	if (!address)
		return 0; /* it began before this recording */
	struct sock *sk = (struct sock *)*address;

	bpf_map_delete_elem(&calls, &thread);
	return tt_on_write_end(sk, result);
}

TT_KPROBE(tcp_sendmsg_locked)
{
	return tt_on_sendmsg(TT_CALLER, (struct msghdr *)PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 1);
}

TT_KPROBE(tcp_sendmsg)
{
	return tt_call_begins(TT_CALLER);
}

TT_KRETPROBE(tcp_sendmsg)
{
	return tt_call_ends(PT_REGS_RC(ctx));
}

TT_KPROBE(do_tcp_sendpages)
{
	return tt_on_sendpage(TT_CALLER, PT_REGS_PARM5(ctx));
}

TT_KPROBE(tcp_sendpage)
{
	return tt_call_begins(TT_CALLER);
}

TT_KRETPROBE(tcp_sendpage)
{
	return tt_call_ends(PT_REGS_RC(ctx));
}

TT_KPROBE(sock_def_readable)
{
	return tt_on_ready(TT_CALLER);
}

TT_KPROBE(tcp_recvmsg)
{
	return tt_on_read_end(TT_CALLER, 1);
}

#endif
