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
#include "loopback.h"

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

static void connect_once(const struct endpoint *end)
{
	int s = connect_to(end);
	char byte = 'x';

	if (write(s, &byte, 1) != 1 || read(s, &byte, 1) != 1)
		fail("exchange");
	close(s);
}

int main(int argc, char **argv)
{
	struct options options = options_of(argc, argv);
	struct endpoint end = listen_on(options.family, options.port);
	double started, cpu = cpu_seconds();
	struct work work = {0};
	pthread_t server;

	if (pthread_create(&server, NULL, serve, &end.listener))
		fail("pthread_create");
	started = now();
	do {
		connect_once(&end);
		work.connections++;
		work.seconds = now() - started;
	} while (options.count ? work.connections < options.count : work.seconds < options.seconds);
	/* The server may still be closing its last one. */
	shutdown(end.listener, SHUT_RDWR);
	pthread_join(server, NULL);
	work.cpu_s = cpu_seconds() - cpu;
	work.turns = work.connections;
	work.bytes = 2 * work.connections;
	say(&end, work);
	return 0;
}
