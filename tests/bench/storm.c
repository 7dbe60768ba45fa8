/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * storm: one short TCP connection over loopback after the other, as fast as one client thread and one
 * server thread can. Each connection carries one byte there and one back; the client then closes with
 * a reset (linger 0), so that no TIME_WAIT uses up the ports.
 *
 *     storm [-p PORT] [-6] [-c CPU] (-s SECONDS | -n CONNECTIONS)
 *
 * With -c both threads stay on one CPU, which takes the scheduler's choices out of the figures.
 * Prints one line of JSON. When it exits, every connection that it counted is closed at both ends.
 */
#define _GNU_SOURCE
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

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "storm: %s: %s\n", what, strerror(errno));
	exit(1);
}

static _Noreturn void usage(void)
{
	fputs("usage: storm [-p PORT] [-6] [-c CPU] (-s SECONDS | -n CONNECTIONS)\n", stderr);
	exit(2);
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

/* Answers one byte per connection until the listener is shut down. */
static void *serve(void *argument)
{
	int listener = *(int *)argument;
	char byte;

	for (;;) {
		int s = accept4(listener, NULL, NULL, 0);

		if (s < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (s < 0)
			return NULL;
		if (read(s, &byte, 1) == 1 && write(s, &byte, 1) != 1)
			fail("answer");
		close(s);
	}
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

static void connect_once(const struct endpoint *end)
{
	struct linger reset = {.l_onoff = 1, .l_linger = 0};
	char byte = 'x';
	int s = socket(end->address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (s < 0)
		fail("socket");
	setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (connect(s, &end->address.any, end->length))
		fail("connect");
	if (write(s, &byte, 1) != 1 || read(s, &byte, 1) != 1)
		fail("exchange");
	close(s);
}

int main(int argc, char **argv)
{
	long connections = 0, limit = 0;
	int option, port = 0, family = AF_INET;
	double limit_s = 0, started, elapsed, cpu;
	struct endpoint end;
	pthread_t server;

	while ((option = getopt(argc, argv, "p:s:n:c:6")) != -1) {
		if (option == 'p')
			port = atoi(optarg);
		else if (option == 's')
			limit_s = atof(optarg);
		else if (option == 'n')
			limit = atol(optarg);
		else if (option == 'c')
			stay_on(atoi(optarg));
		else if (option == '6')
			family = AF_INET6;
		else
			usage();
	}
	if ((limit <= 0) == (limit_s <= 0) || port < 0 || port > 65535 || optind != argc)
		usage();

	end = listen_on(family, port);
	if (pthread_create(&server, NULL, serve, &end.listener))
		fail("pthread_create");

	cpu = cpu_seconds();
	started = now();
	do {
		connect_once(&end);
		connections++;
		elapsed = now() - started;
	} while (limit ? connections < limit : elapsed < limit_s);
	/* The server may still be closing its last one. */
	shutdown(end.listener, SHUT_RDWR);
	pthread_join(server, NULL);
	cpu = cpu_seconds() - cpu;

	printf("{\"port\": %d, \"connections\": %ld, \"seconds\": %.6f, \"connections_per_s\": "
	       "%.1f, "
	       "\"cpu_us_per_connection\": %.3f}\n",
	       ntohs(family == AF_INET6 ? end.address.v6.sin6_port : end.address.v4.sin_port),
	       connections, elapsed, (double)connections / elapsed,
	       cpu * 1e6 / (double)connections);
	return 0;
}
