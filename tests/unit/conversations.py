"""What two ends record of the same conversations, and the truth about the network between them.

Connections follow one another on few ports, so that ports are reused; sequence numbers start anywhere, also
just before they wrap. Each turn is one request and its answer over a path with jitter, to a server that
thinks.
"""

from dataclasses import dataclass

import numpy as np
import synthetic
from synthetic import Records
from test_connections import address

from tcptrace.trace import wire
from tcptrace.trace.wire import CloseReason, Family, Flag, Initiator, Kind, Role, Side

CLIENT, SERVER = address("192.0.2.1"), address("192.0.2.2")
FIRST_SERVER_ID = 100_000
_MS = 10**6


@dataclass(frozen=True)
class Ends:
    """Connections and turns of both ends; network_ns[i] is the true one of clients[i], whose other end is
    servers[i]. Each end's times are of its own clock."""

    client_connections: Records
    server_connections: Records
    clients: Records
    servers: Records
    network_ns: np.ndarray

    @property
    def connections(self) -> Records:
        return np.concatenate([self.client_connections, self.server_connections])

    @property
    def turns(self) -> Records:
        return np.concatenate([self.clients, self.servers])


def conversations(
    connections: int = 20,
    turns: int = 30,
    seed: int = 4,
    *,
    ports: int = 2,
    rtt_ns: int = 200_000,
    think_ns: int = 700_000,
    server_ahead_ns: int = 0,
    drift: float = 0.0,
) -> Ends:
    """server_ahead_ns: what the server's clock shows more than the client's; drift: how much faster it is."""
    random = np.random.default_rng(seed)
    n = connections * turns
    which = np.repeat(np.arange(connections), turns)
    jitter = random.exponential(rtt_ns / 20, (2, n)).astype(np.int64)
    there, back = rtt_ns // 2 + jitter
    residence = (think_ns * random.lognormal(0, 0.5, n)).astype(np.int64) + 5_000
    own = random.integers(1_000, 30_000, (5, n))
    step = np.cumsum(own.sum(axis=0) + there + residence + back + 100_000)
    start = synthetic.SEEDED_NS + 10**9 + step + 5 * _MS * which

    made = [_connections(connections, ports, random, end) for end in (Side.CLIENT, Side.SERVER)]
    ours, theirs = made
    theirs["snd_isn"], theirs["rcv_isn"] = ours["rcv_isn"], ours["snd_isn"]
    size = random.integers(1, 5_000, n)
    sent = np.cumsum(size)
    sent -= np.repeat(sent[::turns] - size[::turns], turns)

    clients, servers = (_turns(n, which, turns, size, side) for side in (Side.CLIENT, Side.SERVER))
    for record, connection in ((clients, ours), (servers, theirs)):
        record["connection_id"] = connection["connection_id"][which]
        record["request_end"] = (ours["snd_isn"][which] + 1 + sent) % (1 << 32)
    clients["started_ns"] = start
    clients["app_ns"], clients["kernel_tx_ns"] = 0, own[0]
    clients["wire_ns"] = there + residence + back
    clients["kernel_rx_ns"], clients["wakeup_ns"] = own[1], own[2]
    clients["total_ns"] = own[:3].sum(axis=0) + clients["wire_ns"]
    servers["started_ns"] = start + own[0] + there
    servers["residence_ns"] = servers["total_ns"] = residence
    servers["kernel_rx_ns"], servers["kernel_tx_ns"] = 1_500, 2_500
    servers["app_ns"] = residence - 4_000

    for connection, record in ((ours, clients), (theirs, servers)):
        first = record["started_ns"][::turns] - rtt_ns - 50_000
        connection["started_ns"] = connection["seen_ns"] = first
        connection["ended_ns"] = (record["started_ns"] + record["total_ns"])[turns - 1 :: turns] + _MS // 2
        connection["handshake_ns"], connection["handshake_exact"] = rtt_ns + 10_000, 1
        connection["min_sample_ns"] = rtt_ns + 3_000
    for times in (servers["started_ns"], *(theirs[name] for name in ("started_ns", "ended_ns", "seen_ns"))):
        passed = times - synthetic.STARTED_MONOTONIC_NS
        times += server_ahead_ns + (passed * drift).astype(np.int64)
    return Ends(ours, theirs, clients, servers, there + back)


def _connections(n: int, ports: int, random: np.random.Generator, side: Side) -> Records:
    r = np.zeros(n, wire.CONNECTION)
    for name in wire.CONNECTION.names or ():
        if wire.CONNECTION[name].kind == "i":
            r[name] = -1
    client = side == Side.CLIENT
    service, own = 5000, 40000 + np.arange(n) % ports
    r["kind"], r["family"], r["state"] = Kind.CONNECTION, Family.IPV4, 7
    r["role"] = Role.ACTIVE if client else Role.PASSIVE
    r["connection_id"] = np.arange(n) + (1 if client else FIRST_SERVER_ID)
    r["netns"] = 7 if client else 8
    r["local_addr"], r["remote_addr"] = (CLIENT, SERVER) if client else (SERVER, CLIENT)
    r["local_port"], r["remote_port"] = (own, service) if client else (service, own)
    r["snd_isn"] = np.where(np.arange(n) % 3, random.integers(0, 1 << 32, n), (1 << 32) - 40_000)
    r["rcv_isn"] = random.integers(0, 1 << 32, n)
    r["close_reason"], r["initiator"] = CloseReason.FIN, Initiator.LOCAL if client else Initiator.REMOTE
    r["bytes_sent"] = r["bytes_received"] = 1_000
    r["syn_retransmits"] = r["synack_retransmits"] = r["retransmits"] = 0
    return r


def _turns(n: int, which: np.ndarray, turns: int, size: np.ndarray, side: Side) -> Records:
    r = np.zeros(n, wire.EXCHANGE)
    r["kind"], r["side"], r["summed"] = Kind.EXCHANGE, side, 1
    r["seq"] = np.arange(n) - which * turns
    r["request_bytes"], r["response_bytes"] = size, 1_000
    r["writes"] = r["reads"] = 1
    r["residence_ns"] = r["release_ns"] = -1
    return r


def open_before(records: Records) -> None:
    """Makes the connections ones that were open when the recording began: their role is not known, and their
    own initial sequence number is, or is one less than, what the record says."""
    records["snd_isn"] = (records["snd_isn"] + (records["role"] == Role.PASSIVE)) % (1 << 32)
    records["role"], records["flags"] = Role.UNKNOWN, Flag.FIRST_MISSED | Flag.SEEDED
    records["started_ns"] = records["handshake_ns"] = records["handshake_exact"] = -1
