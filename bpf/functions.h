/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The same facts at functions, for kernels without the tracepoint (before 6.16 for writes, 6.3 for the rest).
 * Each program is loaded only where it is the best that the kernel has (acquire/providers.py).
 */
#ifndef TCPTRACE_FUNCTIONS_H
#define TCPTRACE_FUNCTIONS_H

#include "receiving.h"
#include "sending.h"

#ifndef TT_BCC

/* tcp_sendmsg() calls it with the socket locked, kTLS does, too. */
TT_ENTRY(tcp_sendmsg_locked)
{
	return tt_on_sendmsg(TT_ARG(0, struct sock *), TT_ARG(1, struct msghdr *), TT_ARG(2, __u64),
			     1);
}

/* Before it has waited for the lock. */
TT_ENTRY(tcp_sendmsg)
{
	return tt_on_sendmsg(TT_ARG(0, struct sock *), TT_ARG(1, struct msghdr *), TT_ARG(2, __u64),
			     0);
}

TT_RETURN(tcp_sendmsg)
{
	return tt_on_write_end(TT_ARG(0, struct sock *), TT_ARG(3, int));
}

/* sendfile() and splice() before 6.5, page by page; with the lock. */
TT_ENTRY(do_tcp_sendpages)
{
	return tt_on_sendpage(TT_ARG(0, struct sock *), TT_ARG(4, int));
}

TT_RETURN(tcp_sendpage)
{
	return tt_on_write_end(TT_ARG(0, struct sock *), TT_ARG(5, int));
}

TT_ENTRY(sock_def_readable)
{
	return tt_on_ready(TT_ARG(0, struct sock *));
}

/* Where its result is differs between kernels; without a copy there is no read to end. */
TT_RETURN(tcp_recvmsg)
{
	return tt_on_read_end(TT_ARG(0, struct sock *), 1);
}

#endif

#endif
