/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The same programs once more, for kernels that refuse those of lifecycle.bpf.c, and kprobes, which may be loaded
 * beside them as well. Compiled for the instructions that every kernel with BTF knows (the Makefile says -mcpu=v2).
 */
#define TT_PLAIN
#include "lifecycle.bpf.c"

#include "kprobes.h"
