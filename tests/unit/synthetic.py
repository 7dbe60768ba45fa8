"""Realistic synthetic records and traces, for tests of what reads them.

The rows look like those of a busy host: interleaved short connections of both roles, over IPv4 and IPv6,
with every way to end, retransmissions, seeded connections and some still open. All from a seed.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tcptrace.trace import wire
from tcptrace.trace.wire import CloseReason, ExchangeFlag, Family, Flag, Initiator, Kind, Role, Side
from tcptrace.trace.writer import TraceWriter

Records = npt.NDArray[np.void]

STARTED_MONOTONIC_NS = 3_600 * 10**9
STARTED_REALTIME_NS = 1_760_000_000 * 10**9
SEEDED_NS = STARTED_MONOTONIC_NS + 150_000_000
NETNS = np.array([4026531840, 4026532301, 4026532417])
TRACE_ID = "00112233445566778899aabbccddeeff"

_STATES = (
    *("syn_sent_ns", "syn_recv_ns", "established_ns", "fin_wait1_ns", "fin_wait2_ns"),
    *("closing_ns", "close_wait_ns", "last_ack_ns"),
)
_NAMES = np.array([b"nginx", b"postgres", b"python3", b"curl", b"java", b"envoy"], "S16")


def header(**changes: Any) -> dict[str, Any]:
    """A complete header of a trace, as the recorder writes it."""
    facts = {
        "format": "tcptrace",
        "format_version": 1,
        "wire_version": wire.WIRE_VERSION,
        "trace_id": TRACE_ID,
        "tcptrace_version": "0.1.0",
        "hostname": "host.example",
        "boot_id": "2b5e1f0c-9c3e-4f8e-9b7a-3f0f5b0c7d11",
        "kernel": {"release": "6.12.0-generic", "version": "#1 SMP", "machine": "x86_64"},
        "command_line": ["tcptrace", "record", "-o", "synthetic.tct"],
        "options": {
            "mode": "lifecycle",
            "filters": {"port": [], "peer": [], "pid": [], "comm": [], "netns": []},
            "buffer_bytes": 16 << 20,
            "duration_s": None,
        },
        "started": {"monotonic_ns": STARTED_MONOTONIC_NS, "realtime_ns": STARTED_REALTIME_NS},
        "seeded": {"monotonic_ns": SEEDED_NS, "connections": 12, "namespaces": 3, "failed": []},
        "hooks": [
            {
                "fact": "state transition",
                "provider": "tp_btf/inet_sock_set_state",
                "exact": True,
                "reason": None,
            },
            {"fact": "drop", "provider": "tp_btf/kfree_skb", "exact": True, "reason": None},
        ],
        "loader": "core",
        "cpus": 2,
        "sysctls": {"net.ipv4.tcp_congestion_control": "cubic", "net.ipv4.tcp_syncookies": "1"},
        "nics": [{"name": "eth0", "tx-tcp-segmentation": True, "rx-gro": True}],
        "namespaces": {str(NETNS[0]): "host", str(NETNS[1]): "client", str(NETNS[2]): "server"},
        "drop_reasons": {"3": "NO_SOCKET", "16": "TCP_OVERWINDOW"},
        "reset_reasons": {"1": "NOT_SPECIFIED", "2": "NO_SOCKET"},
    }
    return facts | changes


def trailer(
    connections: int,
    events: int,
    losses: dict[str, int] | None = None,
    exchanges: Records | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A complete trailer of a trace."""
    turns = np.zeros(0, wire.EXCHANGE) if exchanges is None else exchanges
    single = turns["kind"] == Kind.EXCHANGE
    facts = {
        "clean": True,
        "ended": {
            "monotonic_ns": STARTED_MONOTONIC_NS + 60 * 10**9,
            "realtime_ns": STARTED_REALTIME_NS + 60 * 10**9 + 25_000,
        },
        "losses": losses or {},
        "counts": {
            "tracked": connections,
            "finished": connections,
            "connections": connections,
            "events": events,
            "sums": int((~single).sum()),
            "single": int(single.sum()),
            "summed": int(turns["summed"][~single].sum()),
            "walk_full": 0,
        },
        "programs": [
            {
                "name": "set_state",
                "run_count": 7 * connections,
                "run_time_ns": 4200 * connections,
                "recursion_misses": 0,
            }
        ],
    }
    return facts | changes


def _clock() -> Callable[[], tuple[int, int]]:
    """A clock that goes on by a second each time it is read, its drift that of header and trailer."""
    seconds = itertools.chain(range(1, 60), itertools.repeat(59))

    def read() -> tuple[int, int]:
        ns = next(seconds) * 10**9
        return STARTED_MONOTONIC_NS + ns, STARTED_REALTIME_NS + ns + ns * 25_000 // (60 * 10**9)

    return read


def _mapped(octets: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    """IPv4 addresses 10.0.a.b from 16-bit numbers, as ::ffff:10.0.a.b, shape (n, 16)."""
    found = np.zeros((len(octets), 16), np.uint8)
    found[:, 10:13] = 255, 255, 10
    found[:, 14], found[:, 15] = octets >> 8, octets & 255
    return found


def _addresses(
    random: np.random.Generator, family: npt.NDArray[np.uint8], hosts: int
) -> npt.NDArray[np.uint8]:
    host = random.zipf(1.5, len(family)) % hosts + 1
    found = _mapped(host)
    six = family == Family.IPV6
    found[six] = 0
    found[six, 0:2] = 0xFD, 0x00
    found[six, 14], found[six, 15] = host[six] >> 8, host[six] & 255
    return found


def connections(n: int, seed: int = 1, duration_s: float = 60.0) -> Records:
    """n CONNECTION records in the order in which they end."""
    random = np.random.default_rng(seed)
    r = np.zeros(n, wire.CONNECTION)
    for name in wire.CONNECTION.names or ():
        if wire.CONNECTION[name].kind == "i":
            r[name] = -1
    index = np.arange(n)

    def pick(share: float) -> npt.NDArray[np.bool_]:
        return random.random(n) < share

    def times(median_ns: float, spread: float = 0.6) -> npt.NDArray[np.int64]:
        return (median_ns * random.lognormal(0, spread, n)).astype(np.int64)

    active = pick(0.5)
    six = pick(0.2)
    r["kind"] = Kind.CONNECTION
    r["role"] = np.where(active, Role.ACTIVE, Role.PASSIVE)
    r["family"] = np.where(six, Family.IPV6, Family.IPV4)
    r["v4_mapped"] = ~six & pick(0.1)
    r["state"] = 7
    r["connection_id"] = 1 + index * 2 + (random.random(n) < 0.5)
    r["cookie"] = 4096 + index * 3 + random.integers(0, 3, n)
    r["netns"] = NETNS[random.integers(0, 3, n)]
    r["local_addr"] = _addresses(random, r["family"], 4)
    r["remote_addr"] = _addresses(random, r["family"], 300)
    ephemeral, service = random.integers(32768, 61000, n), random.choice([80, 443, 5432, 8080], n)
    r["local_port"] = np.where(active, ephemeral, service)
    r["remote_port"] = np.where(active, service, ephemeral)
    r["congestion_control"] = b"cubic"

    start = STARTED_MONOTONIC_NS + 2 * 10**8 + np.sort(random.integers(0, int(duration_s * 1e9), n))
    handshake = times(180_000)
    established = times(4_000_000, 1.2)
    r["started_ns"] = r["seen_ns"] = start
    r["handshake_ns"] = handshake
    r["handshake_exact"] = 1
    r["syn_sent_ns"][active] = handshake[active]
    r["syn_recv_ns"][~active] = handshake[~active]
    r["seen_ns"][~active] += handshake[~active]
    r["established_ns"] = established
    first = pick(0.6)  # closes first
    fin = times(60_000)
    r["fin_wait1_ns"][first] = fin[first]
    r["fin_wait2_ns"][first] = times(90_000)[first]
    r["close_wait_ns"][~first] = times(150_000)[~first]
    r["last_ack_ns"][~first] = fin[~first]
    for name in ("snd_isn", "rcv_isn"):
        r[name] = random.integers(0, 1 << 32, n)
    r["bytes_sent"] = np.where(active, random.integers(80, 900, n), random.zipf(1.4, n) % 10**6 + 200)
    r["bytes_received"] = np.where(active, random.zipf(1.4, n) % 10**6 + 200, random.integers(80, 900, n))
    r["segments_sent"] = 4 + r["bytes_sent"] // 1448
    r["segments_received"] = 4 + r["bytes_received"] // 1448
    owned = active | pick(0.8)
    process = random.integers(0, len(_NAMES), n)
    r["pid"][owned] = (1000 + 37 * process)[owned]
    r["comm"][owned] = _NAMES[process][owned]
    for name in ("retransmits", "syn_retransmits", "synack_retransmits"):
        r[name] = 0
    r["retransmits"][pick(0.02)] = 1
    r["srtt_us"] = np.maximum(1, handshake // 1000)
    r["min_rtt_us"] = np.maximum(1, handshake // 1300)
    r["mss"] = np.where(six, 1428, 1448)
    r["snd_wscale"] = r["rcv_wscale"] = 7
    r["sack"] = r["timestamps"] = 1
    r["ecn"] = r["tfo"] = 0
    r["close_reason"] = CloseReason.FIN
    r["initiator"] = np.where(first, Initiator.LOCAL, Initiator.REMOTE)
    lost = active & pick(0.01)
    r["syn_retransmits"][lost] = 1
    r["handshake_ns"][lost] += 1_020_000_000
    r["syn_sent_ns"][lost] += 1_020_000_000
    total = sum(np.where(r[name] < 0, 0, r[name]) for name in _STATES)
    r["ended_ns"] = start + total

    _refuse(r, active & pick(0.02))
    for share, reason, initiator in (
        (0.03, CloseReason.RESET_SENT, Initiator.LOCAL),
        (0.03, CloseReason.RESET_RECEIVED, Initiator.REMOTE),
    ):
        which = pick(share) & (r["close_reason"] == CloseReason.FIN)
        for name in _STATES[3:]:
            r[name][which] = -1
        r["close_reason"][which], r["initiator"][which] = reason, initiator
        r["state"][which] = 1
    _seed(r, (index < n // 50) & (r["close_reason"] == CloseReason.FIN))
    still = (index >= n - n // 100) & (r["close_reason"] == CloseReason.FIN)
    for name in ("ended_ns", *_STATES[3:]):
        r[name][still] = -1
    r["close_reason"][still], r["initiator"][still], r["state"][still] = (
        CloseReason.OPEN,
        Initiator.UNKNOWN,
        1,
    )
    return r[np.argsort(np.where(still, np.iinfo(np.int64).max, r["ended_ns"]), kind="stable")]


def _refuse(r: Records, which: npt.NDArray[np.bool_]) -> None:
    """Turns rows into refused ones: never established, nothing agreed on."""
    for name in (
        *("handshake_ns", "handshake_exact", "rcv_isn", "srtt_us", "min_rtt_us", "mss", "snd_wscale"),
        *("rcv_wscale", "sack", "timestamps", "ecn", "tfo", *_STATES[1:]),
    ):
        r[name][which] = -1
    r["bytes_sent"][which] = r["bytes_received"][which] = 0
    r["ended_ns"][which] = r["started_ns"][which] + r["syn_sent_ns"][which]
    r["close_reason"][which], r["initiator"][which], r["state"][which] = (
        CloseReason.REFUSED,
        Initiator.REMOTE,
        2,
    )


def _seed(r: Records, which: npt.NDArray[np.bool_]) -> None:
    """Turns rows into connections that were open before the recording."""
    for name in (
        "started_ns",
        "handshake_ns",
        "handshake_exact",
        "syn_sent_ns",
        "syn_recv_ns",
        "established_ns",
    ):
        r[name][which] = -1
    r["role"][which] = Role.UNKNOWN
    r["seen_ns"][which] = STARTED_MONOTONIC_NS + 10**8
    r["flags"][which] = Flag.FIRST_MISSED | Flag.SEEDED


def events(n: int, seed: int = 2, of: Records | None = None, duration_s: float = 60.0) -> Records:
    """n EVENT records in the order of time; those of known sockets belong to rows of `of`."""
    random = np.random.default_rng(seed)
    r = np.zeros(n, wire.EVENT)
    for name in wire.EVENT.names or ():
        if wire.EVENT[name].kind == "i":
            r[name] = -1
    r["kind"] = random.choice(
        [Kind.RETRANSMIT, Kind.SYNACK_RETRANSMIT, Kind.RESET_SENT, Kind.DROP], n, p=[0.5, 0.1, 0.2, 0.2]
    )
    r["time_ns"] = STARTED_MONOTONIC_NS + np.sort(random.integers(2 * 10**8, int(duration_s * 1e9), n))
    r["netns"] = NETNS[random.integers(0, 3, n)]
    r["family"] = Family.IPV4
    r["local_addr"] = _addresses(random, r["family"], 4)
    r["remote_addr"] = _addresses(random, r["family"], 300)
    r["local_port"] = random.choice([80, 443, 5432, 8080], n)
    r["remote_port"] = random.integers(32768, 61000, n)
    r["tcp_flags"] = 0x18
    again = r["kind"] == Kind.RETRANSMIT
    if of is not None and len(of):
        row = of[random.integers(0, len(of), n)]
        for name in (
            "connection_id",
            "netns",
            "family",
            "local_addr",
            "remote_addr",
            "local_port",
            "remote_port",
        ):
            r[name][again] = row[name][again]
    r["state"][again], r["ca_state"][again], r["pending"][again] = 1, 4, 0
    r["sequence"][again] = random.integers(0, 1 << 32, n)[again]
    r["length_bytes"][again] = 1448
    synack = r["kind"] == Kind.SYNACK_RETRANSMIT
    r["first_sent_ns"][synack] = r["time_ns"][synack].astype(np.int64) - 1_000_000_000
    r["tcp_flags"][synack] = 0x12
    reset = r["kind"] == Kind.RESET_SENT
    r["tcp_flags"][reset], r["reason"][reset] = 0x14, 2
    r["reason"][r["kind"] == Kind.DROP] = 3
    return r


_EXCHANGE_STAGES = (
    *("app_ns", "sndbuf_ns", "nagle_ns", "cork_ns", "cwnd_ns", "rwnd_ns", "pacing_ns", "kernel_tx_ns"),
    *("loss_recovery_ns", "wire_ns", "kernel_rx_ns", "wakeup_ns", "app_late_ns", "transfer_ns"),
)
_CLIENT_ONLY = ("loss_recovery_ns", "wire_ns")


def exchanges(n: int, seed: int = 3, of: Records | None = None, summed: float = 0.0) -> Records:
    """n EXCHANGE records in the order of their ends, on the connections `of`, by default on 100 of their own.

    Request and answer over 0.2 ms of network, with some held by Nagle against a delayed ACK, some lost, some
    with a stage unknown. A share `summed` of them are EXCHANGES, sums over several.
    """
    random = np.random.default_rng(seed)
    of = connections(100, seed) if of is None else of
    r = np.zeros(n, wire.EXCHANGE)
    place = np.sort(random.integers(0, len(of), n))
    row = of[place]
    client = row["role"] != Role.PASSIVE

    def pick(share: float) -> npt.NDArray[np.bool_]:
        return random.random(n) < share

    def times(median_ns: float, spread: float = 0.5) -> npt.NDArray[np.int64]:
        return (median_ns * random.lognormal(0, spread, n)).astype(np.int64)

    r["kind"], r["summed"] = Kind.EXCHANGE, 1
    r["side"] = np.where(client, Side.CLIENT, Side.SERVER)
    r["connection_id"] = row["connection_id"]
    r["seq"] = np.arange(n) - np.searchsorted(place, place)
    medians = {"app_ns": 5_000, "kernel_tx_ns": 8_000, "kernel_rx_ns": 6_000, "wakeup_ns": 15_000}
    medians |= {"transfer_ns": 4_000, "app_late_ns": 3_000}
    for name, median in medians.items():
        r[name] = times(median)
    residence = times(700_000, 0.8)
    r["wire_ns"] = np.where(client, 200_000 + times(20_000) + residence, 0)
    r["app_ns"] += np.where(client, 0, residence).astype(np.int64)
    r["residence_ns"] = np.where(client, -1, residence)
    r["release_ns"] = -1
    held = client & pick(0.05)
    r["nagle_ns"][held] = 40_000_000
    r["release_ns"][held] = 40_200_000
    lost = client & pick(0.02)
    r["loss_recovery_ns"][lost], r["retransmits"][lost] = 210_000_000, 1
    r["flags"][lost] = ExchangeFlag.RTO
    for name in ("wakeup_ns", "kernel_rx_ns"):
        r[name][pick(0.02)] = -1
    r["total_ns"] = sum(np.where(r[name] < 0, 0, r[name]) for name in _EXCHANGE_STAGES) + times(900, 0.3)
    r["started_ns"] = np.where(row["seen_ns"] < 0, STARTED_MONOTONIC_NS, row["seen_ns"]) + 10**6 * r["seq"]
    r["request_bytes"], r["response_bytes"] = random.integers(80, 900, n), random.zipf(1.4, n) % 10**6 + 200
    r["writes"], r["reads"] = 1, 1 + r["response_bytes"].astype(np.int64) // 65536
    r["request_end"] = (row["snd_isn"] + 1 + np.cumsum(r["request_bytes"])) % (1 << 32)
    many = pick(summed)
    r["kind"][many], r["summed"][many] = Kind.EXCHANGES, 50
    for name in (*_EXCHANGE_STAGES, "total_ns", "request_bytes", "response_bytes"):
        r[name][many & (r[name].astype(np.int64) > 0)] *= 50
    return r[np.argsort(r["started_ns"] + r["total_ns"], kind="stable")]


def write_trace(
    path: Path,
    connections: Records | None = None,
    events: Records | None = None,
    exchanges: Records | None = None,
    *,
    clean: bool = True,
    losses: dict[str, int] | None = None,
    header_changes: dict[str, Any] | None = None,
    batch_rows: int | None = None,
) -> Path:
    """Writes a trace of these records; with `clean` false it ends without a trailer, as after a kill.

    `batch_rows`: rows in one batch, by default as many as fit.
    """
    counts = [0 if records is None else len(records) for records in (connections, events)]
    now = time.monotonic()
    with TraceWriter(path, header(**header_changes or {}), clock=_clock()) as writer:
        for records in (connections, events, exchanges):
            step = batch_rows or max(1, len(records) if records is not None else 1)
            for start in range(0, 0 if records is None else len(records), step):
                assert records is not None
                writer.add(records[start : start + step])
                if batch_rows:
                    writer.tick(now := now + 2)
        if clean:
            writer.close(trailer(*counts, losses, exchanges))
    return path
