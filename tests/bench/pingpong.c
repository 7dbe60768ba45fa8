/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * pingpong: one byte there and one back, again and again on one TCP connection over loopback, between
 * two threads that block in read.
 *
 *     pingpong [-p PORT] [-6] [-c CPU] (-s SECONDS | -n TURNS)
 *
 * With -c both threads stay on one CPU, which takes the scheduler's choices out of the figures.
 * Prints one line of JSON. When it exits, the connection is closed at both ends.
 */
#define _GNU_SOURCE
#include "loopback.h"

/* Turns between two looks at the clock. */
#define CHECK 64

/* Answers each byte until the client is gone. */
static void *serve(void *argument)
{
	int s = accept4(*(int *)argument, NULL, NULL, SOCK_CLOEXEC);
	char byte;

	if (s < 0)
		fail("accept");
	while (read(s, &byte, 1) == 1)
		if (write(s, &byte, 1) != 1)
			fail("answer");
	close(s);
	return NULL;
}

int main(int argc, char **argv)
{
	struct options options = options_of(argc, argv);
	struct endpoint end = listen_on(options.family, options.port);
	struct work work = {.connections = 1};
	double started, cpu;
	pthread_t server;
	char byte = 'x';
	int s;

	if (pthread_create(&server, NULL, serve, &end.listener))
		fail("pthread_create");
	s = connect_to(&end);
	cpu = cpu_seconds();
	started = now();
	do {
		if (write(s, &byte, 1) != 1 || read(s, &byte, 1) != 1)
			fail("exchange");
		work.turns++;
		if (work.turns % CHECK == 0)
			work.seconds = now() - started;
	} while (options.count ? work.turns < options.count : work.seconds < options.seconds);
	work.seconds = now() - started;
	work.cpu_s = cpu_seconds() - cpu;
	close(s);
	pthread_join(server, NULL);
	work.bytes = 2 * work.turns;
	say(&end, work);
	return 0;
}
