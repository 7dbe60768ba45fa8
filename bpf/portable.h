/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Everything that differs between the two ways of building these programs:
 *
 *   CO-RE  compiled once with clang, loaded by libbpf; kernel fields are relocated to the running kernel. There are
 *          two objects: lifecycle.bpf.o, and plain.bpf.o (TT_PLAIN is defined) for kernels that refuse that one.
 *   BCC    compiled on the host against its kernel headers (TT_BCC is defined), for kernels without BTF.
 *          No global variables, no socket storage and no socket cookie in its raw tracepoints.
 *
 * Programs are written against the macros and functions below and contain no #ifdef of their own.
 *
 *   TT_TRACEPOINT(event)      opens a tracepoint program; TT_ARG(n, type) is its nth argument
 *   TT_ENTRY(function), TT_RETURN(function)  open programs at a function, not under BCC; TT_ARG as above
 *   TT_READ(pointer, field)   reads through a pointer that the hook passed (a direct load in lifecycle.bpf.o)
 *   TT_PROBE(pointer, field)  reads through any other kernel pointer
 *   TT_CONFIG(field)          a constant of struct tt_config
 *   tt_reserve_X, tt_submit_X  records of the rings `connections`, `events` and `exchanges`
 *   tt_has_X(key)             is the key in the set `wanted_X`?
 *   tt_state_get, tt_state_drop, tt_counters, tt_control
 *   tt_mint()                 the number of a new connection, counted in TT_COUNT_TRACKED
 */
#ifndef TCPTRACE_PORTABLE_H
#define TCPTRACE_PORTABLE_H

#ifdef TT_BCC
#include "portable_bcc.h"
#else
#include "portable_core.h"
#endif

/* Index of a state in state_ns. The barrier keeps the compiler from proving the mask away. */
static __always_inline __u32 tt_slot(int state)
{
	__u32 slot = state;

	asm volatile("" : "+r"(slot));
	return slot & 15;
}

/* Adds one to a counter of this CPU. Atomic, because a softirq may interrupt. */
static __always_inline void tt_count(enum tt_counter which)
{
	struct tt_counters *c = tt_counters();

	if (c)
		__sync_fetch_and_add(&c->value[which], 1);
}

#endif
