"""TLS 1.3: one round trip more before the first request."""

from tcptrace.lab import tls

SCENARIO = tls.scenario(
    "1.3",
    name="tls13",
    title="TLS 1.3: one round trip on top of TCP's",
    teaches="TLS 1.3 sends its keys with the hellos: one round trip after TCP's the client is done, and its "
    "Finished leaves together with the request. With 10 ms each way the first answer comes 60 ms after "
    "connect(), 20 ms sooner than with TLS 1.2. Each such connection has one turn before the one of its "
    "request. Set TCP_NODELAY: Finished and request are two small writes, and Nagle would hold the second.",
)
