/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the loads of the benchmark share: a listener on loopback, clocks, options, and the line of JSON
 * that says what was done.
 */
#ifndef LOOPBACK_H
#define LOOPBACK_H

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct endpoint {
	union address address;
	socklen_t length;
	int listener;
};

/* When to stop: after so many seconds, or after so much work. The other one is 0. */
struct options {
	int port, family;
	double seconds;
	long count;
};

struct work {
	long connections, turns, bytes; /* bytes of payload, both directions */
	double seconds, cpu_s;          /* CPU time, user and system, of client and server */
};

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	exit(1);
}

static double seconds_of(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
}

/* -c takes effect here: threads made later stay on that CPU, too. */
static struct options options_of(int argc, char **argv)
{
	struct options options = {.family = AF_INET};
	int option;

	while ((option = getopt(argc, argv, "p:s:n:c:6")) != -1) {
		if (option == 'p')
			options.port = atoi(optarg);
		else if (option == 's')
			options.seconds = atof(optarg);
		else if (option == 'n')
			options.count = atol(optarg);
		else if (option == 'c')
			stay_on(atoi(optarg));
		else if (option == '6')
			options.family = AF_INET6;
		else
			options.port = -1;
	}
	if ((options.count <= 0) == (options.seconds <= 0) || options.port < 0 ||
	    options.port > 65535 || optind != argc) {
		fprintf(stderr, "usage: %s [-p PORT] [-6] [-c CPU] (-s SECONDS | -n COUNT)\n",
			program_invocation_short_name);
		exit(2);
	}
	return options;
}

static struct endpoint listen_on(int family, int port)
{
	struct endpoint end = {0};
	int one = 1;

	if (family == AF_INET6) {
		end.address.v6.sin6_family = AF_INET6;
		end.address.v6.sin6_addr = in6addr_loopback;
		end.address.v6.sin6_port = htons((uint16_t)port);
		end.length = sizeof(end.address.v6);
	} else {
		end.address.v4.sin_family = AF_INET;
		end.address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		end.address.v4.sin_port = htons((uint16_t)port);
		end.length = sizeof(end.address.v4);
	}
	end.listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (end.listener < 0)
		fail("socket");
	setsockopt(end.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(end.listener, &end.address.any, end.length))
		fail("bind");
	if (listen(end.listener, 4096))
		fail("listen");
	/* With port 0 the kernel chose one. */
	if (getsockname(end.listener, &end.address.any, &end.length))
		fail("getsockname");
	return end;
}

/* A connected client. Closed with a reset, so that no TIME_WAIT uses up the ports. */
static int connect_to(const struct endpoint *end)
{
	struct linger reset = {.l_onoff = 1, .l_linger = 0};
	int s = socket(end->address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (s < 0)
		fail("socket");
	setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (connect(s, &end->address.any, end->length))
		fail("connect");
	return s;
}

static void say(const struct endpoint *end, struct work work)
{
	int v6 = end->address.any.sa_family == AF_INET6;

	printf("{\"port\": %d, \"connections\": %ld, \"turns\": %ld, \"bytes\": %ld, "
	       "\"seconds\": %.6f, \"cpu_s\": %.6f}\n",
	       ntohs(v6 ? end->address.v6.sin6_port : end->address.v4.sin_port), work.connections,
	       work.turns, work.bytes, work.seconds, work.cpu_s);
}

#endif
