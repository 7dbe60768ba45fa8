/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * bulk: one long stream on one TCP connection over loopback, from a thread that writes to a thread that
 * reads, both blocking, in blocks of 64 KiB.
 *
 *     bulk [-p PORT] [-6] [-c CPU] (-s SECONDS | -n BLOCKS)
 *
 * With -c both threads stay on one CPU, which takes the scheduler's choices out of the figures.
 * Prints one line of JSON; time runs until the last byte is read. When it exits, the connection is closed
 * at both ends.
 */
#define _GNU_SOURCE
#include "loopback.h"

#define BLOCK (64 * 1024)

static char out[BLOCK], in[BLOCK];
static long received;

/* Reads to the end of the stream. */
static void *serve(void *argument)
{
	int s = accept4(*(int *)argument, NULL, NULL, SOCK_CLOEXEC);
	ssize_t got;

	if (s < 0)
		fail("accept");
	while ((got = read(s, in, sizeof(in))) > 0)
		received += got;
	if (got < 0)
		fail("read");
	close(s);
	return NULL;
}

/* Blocking writes are whole, unless a signal comes. */
static void send_block(int s)
{
	size_t sent = 0;

	while (sent < sizeof(out)) {
		ssize_t count = write(s, out + sent, sizeof(out) - sent);

		if (count < 0)
			fail("write");
		sent += (size_t)count;
	}
}

int main(int argc, char **argv)
{
	struct options options = options_of(argc, argv);
	struct endpoint end = listen_on(options.family, options.port);
	struct work work = {.connections = 1};
	double started, cpu;
	pthread_t server;
	long blocks = 0;
	int s;

	if (pthread_create(&server, NULL, serve, &end.listener))
		fail("pthread_create");
	s = connect_to(&end);
	cpu = cpu_seconds();
	started = now();
	do {
		send_block(s);
		blocks++;
	} while (options.count ? blocks < options.count : now() - started < options.seconds);
	/* The reader sees the end after the last byte; a reset would throw away what it has not read. */
	shutdown(s, SHUT_WR);
	pthread_join(server, NULL);
	work.seconds = now() - started;
	work.cpu_s = cpu_seconds() - cpu;
	close(s);
	work.bytes = received;
	say(&end, work);
	return 0;
}
