"""TLS 1.2: two round trips more before the first request."""

from tcptrace.lab import tls

SCENARIO = tls.scenario(
    "1.2",
    name="tls12",
    title="TLS 1.2: two round trips on top of TCP's",
    teaches="When TCP is connected, TLS 1.2 takes two round trips of its own before the first request may "
    "leave: the hellos with the certificate, then keys and Finished. With 10 ms each way the first answer "
    "comes 80 ms after connect(). For TCP they are turns like any other: each such connection has two turns "
    "before the one of its request. TLS 1.3 saves one of them, a session that is resumed too, a connection "
    "that stays open both.",
)
